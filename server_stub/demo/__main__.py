"""``make demo`` and ``make demo-faults``: a server and a node on loopback, followed live.

Exit codes: 0 all well, 1 a node did not come back or something was left, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from server_stub.demo import display, faults
from server_stub.demo.processes import QUICK, Demo, DemoError

_TIMES = 2


def main() -> int:
    """Run the demo; gives the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--faults", action="store_true", help="do every fault twice, then end")
    parser.add_argument("--for", dest="for_s", type=float, help="end by itself after so many seconds")
    parser.add_argument("--json", action="store_true", help="with --faults: the table as JSON")
    parser.add_argument(
        "--recordings",
        metavar="DIR",
        type=Path,
        help="with --faults: a flight recording of the nanny after each",
    )
    parser.add_argument("--port", type=int, default=0, help="the server's port; 0 takes a free one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=options.json)
    demo = Demo(QUICK if options.faults else {}, port=options.port)
    try:
        code = _run(demo, console, options)
    except KeyboardInterrupt:
        code = 0 if options.for_s is None and not options.faults else 130
    except DemoError as error:
        console.print(f"[red]{escape(str(error))}")
        code = 1
    finally:
        # A second Ctrl-C must not leave a node behind that nobody ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with console.status("ending everything in order …"):
            left = demo.close()
        for one in left:
            console.print(f"[red]{escape(one)}")
    return code or int(bool(left))


def _run(demo: Demo, console: Console, options: argparse.Namespace) -> int:
    with console.status("starting a server and a node …"):
        demo.start()
        demo.until("READY with telemetry", lambda: _is_up(demo), 60)
    console.print(display.node_table(demo.node(), demo.nanny_status(), demo.url))
    if options.faults:
        return _do_faults(demo, console, options.recordings, as_json=options.json)
    console.print("Ctrl-C ends everything. From a second terminal:")
    console.print(f"  .venv/bin/server-stub nodes --url {demo.url}")
    console.print(f"  .venv/bin/nannyctl explain --runtime-dir {demo.runtime_dir}")
    deadline = None if options.for_s is None else time.monotonic() + options.for_s
    with Live(console=console, auto_refresh=False) as live:
        while deadline is None or time.monotonic() < deadline:
            live.update(display.node_table(demo.node(), demo.nanny_status(), demo.url), refresh=True)
            time.sleep(0.5)
    return 0


def _is_up(demo: Demo) -> bool:
    node, nanny = demo.node(), demo.nanny_status()
    if node is None or nanny is None or node["state"] != "READY":
        return False
    return nanny["phase"] == "running" and node["cpu"] is not None


def _do_faults(demo: Demo, console: Console, recordings: Path | None, *, as_json: bool) -> int:
    if recordings is not None:
        recordings.mkdir(parents=True, exist_ok=True)
    done: list[faults.Healed] = []
    planned = [(fault, number) for number in range(1, _TIMES + 1) for fault in faults.FAULTS]
    for index, (fault, number) in enumerate(planned, 1):
        with console.status(f"{index}/{len(planned)}  {fault.name}, time {number} …"):
            done.append(faults.run(demo, fault, number))
            if recordings is not None:
                name = "-".join("".join(c if c.isalnum() else " " for c in fault.name).split())
                demo.save_recording(recordings / f"{index:02}-{name}.jsonl.gz")
        if not as_json and not console.is_terminal:
            console.print(f"{index}/{len(planned)} {done[-1].fault}: {done[-1].verdict}")
    if as_json:
        print(json.dumps([asdict(one) for one in done], indent=2))  # noqa: T201
    else:
        console.print(display.fault_table(done))
    return 0 if all(one.ready_after_s is not None for one in done) else 1


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
