"""What goes on inside a server's process while it is measured: its loop's lag, its CPU time, what it writes.

`python -m benchmarks.server_watch` runs the server itself with such a watch beside it, on the same loop and engine;
the plain design (`plain_server.py`) carries the same. A line of JSON goes to the file of NODENANNY_WATCH each second,
with its instant, so that whoever started it cuts out the seconds that count (CLOCK_MONOTONIC is one for all).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

VARIABLE: Final = "NODENANNY_WATCH"
GAP_S: Final = 0.01
_WRITES: Final = ("INSERT", "UPDATE", "DELETE")


@dataclass(slots=True)
class Seconds:
    """What was seen in the seconds that count."""

    took_s: float = 0.0
    cpu_s: float = 0.0
    run_delay_s: float = 0.0
    """For how long the process was ready to run and the machine's cores were busy with others."""
    lags_s: list[float] = field(default_factory=list)
    writes: dict[str, int] = field(default_factory=dict)
    """Statements that write, by their first words."""


class Watch:
    """Beside a program on its loop."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  # as long as the process
        self._lags: list[float] = []
        self._writes: dict[str, int] = {}
        event.listen(Engine, "before_cursor_execute", self._executed, named=False)

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        told_at = time.monotonic()
        while True:
            due_at = time.monotonic() + GAP_S
            await asyncio.sleep(GAP_S)
            now = time.monotonic()
            self._lags.append(max(0.0, now - due_at))
            if now - told_at >= 1.0:
                told_at = now
                line = self._line(now)
                await loop.run_in_executor(None, self._file.write, line)

    def _line(self, now: float) -> str:
        lags, self._lags = self._lags, []
        writes, self._writes = self._writes, {}
        spent, delayed = _scheduled()
        return (
            json.dumps(
                {
                    "at": now,
                    "cpu_s": spent,
                    "run_delay_s": delayed,
                    "lags_s": [round(lag, 6) for lag in lags],
                    "writes": writes,
                }
            )
            + "\n"
        )

    def _executed(self, _connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        words = statement.split(None, 3)[:3]
        if words and words[0].upper() in _WRITES:
            name = " ".join(words)
            self._writes[name] = self._writes.get(name, 0) + 1


def _scheduled() -> tuple[float, float]:
    """CPU seconds of all threads of this process, and the seconds that its main thread waited for a core."""
    spent = 0
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):
            spent += int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
    delayed = int(Path(f"/proc/self/task/{os.getpid()}/schedstat").read_text().split()[1])
    return spent / 1e9, delayed / 1e9


def between(path: Path, begin_at: float, end_at: float) -> Seconds:
    """What the file holds of the seconds between two instants.

    Raises:
        ValueError: fewer than two lines are of that time.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if begin_at <= line["at"] <= end_at]
    if len(lines) < 2:
        raise ValueError(f"only {len(lines)} lines of the watch between {begin_at:.1f} and {end_at:.1f}")
    first, last = lines[0], lines[-1]
    found = Seconds(
        last["at"] - first["at"], last["cpu_s"] - first["cpu_s"], last["run_delay_s"] - first["run_delay_s"]
    )
    for line in lines[1:]:
        found.lags_s += line["lags_s"]
        for name, number in line["writes"].items():
            found.writes[name] = found.writes.get(name, 0) + number
    return found


def main() -> int:
    """The server's command line, watched."""
    from server_stub import cli  # noqa: PLC0415  # as heavy as the server
    from server_stub import main as server  # noqa: PLC0415

    serve = server.serve

    async def watched(*arguments: Any, **named: Any) -> Any:
        watching = asyncio.create_task(Watch(os.environ[VARIABLE]).run())
        try:
            return await serve(*arguments, **named)
        finally:
            watching.cancel()

    server.serve = watched
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
