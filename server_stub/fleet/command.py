"""`server-stub simulate`: its flags, and what is done with them.

Progress goes to stderr where that is a terminal, the table or the JSON to stdout. Exit codes: 0 done, 1 the
simulation could not be carried out, 2 the plan is impossible, 130 interrupted (what there was is shown).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.live import Live

from server_stub.config import is_loopback
from server_stub.fleet.conductor import Results, SimulationFailed, conduct
from server_stub.fleet.display import moment_table, results_table
from server_stub.fleet.plan import (
    WAYS_TO_FAIL,
    Behaviour,
    FleetPlan,
    MassFailure,
    PlanError,
    Some,
    check,
    processes_for,
    to_json,
)
from server_stub.fleet.server_process import ServerNotUp, ServerProcess, settings_for

if TYPE_CHECKING:
    import argparse

    from server_stub.fleet.conductor import Moment

DEFAULT_PERIODS_S: Final = {
    Behaviour.SLOW: 1.0,
    Behaviour.RESTARTING: 60.0,
    Behaviour.CHURNING: 60.0,
}
_FLAGS: Final = {
    "slow": Behaviour.SLOW,
    "refusing": Behaviour.REFUSING,
    "silent": Behaviour.SILENT,
    "stalled": Behaviour.STALLED,
    "restarting": Behaviour.RESTARTING,
    "churn": Behaviour.CHURNING,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `simulate`."""
    parser.add_argument("--nodes", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument(
        "--connected", type=int, default=0, help="of them hold both connections, too (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=None, help="that run the fleet (default: as needed)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of load, once all is settled (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which nodes do what (default: %(default)s)")
    parser.add_argument(
        "--server", metavar="URL", default=None, help="a running one (default: one of its own)"
    )
    parser.add_argument(
        "--known",
        action="store_true",
        help="the server finds the nodes in its database, as after a restart; only the connected register",
    )
    parser.add_argument("--slow", metavar="COUNT[:SECONDS]", help="answer so late (default: 1 s)")
    parser.add_argument("--refusing", metavar="COUNT", help="have a port that nobody listens at")
    parser.add_argument("--silent", metavar="COUNT", help="accept and never answer")
    parser.add_argument("--stalled", metavar="COUNT", help="answer 503 stalled")
    parser.add_argument("--restarting", metavar="COUNT[:SECONDS]", help="a new life so often (default: 60 s)")
    parser.add_argument("--churn", metavar="COUNT[:SECONDS]", help="gone and back so often (default: 60 s)")
    parser.add_argument(
        "--mass-failure",
        metavar="AT:COUNT[:WAY]",
        help=f"so many fail at once after so many seconds; way: {', '.join(WAYS_TO_FAIL)}",
    )
    parser.add_argument("--mass-return", metavar="AT", type=float, help="and are all back after so many")
    parser.add_argument("--json", action="store_true", help="the plan, the results and every second as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Simulate; gives the exit code."""
    try:
        plan = plan_from(arguments)
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        check(plan, hard)
        if arguments.server is not None and plan.are_known:
            raise PlanError("--known is for a server of its own: that of --server has started already")
        if arguments.server is not None and not is_loopback(urlsplit(arguments.server).hostname or ""):
            raise PlanError(
                "--server must be on loopback: simulated nodes can be reached from this machine only"
            )
    except PlanError as error:
        sys.stderr.write(f"server-stub simulate: {error}\n")
        return 2
    results = Results()
    code = 0
    # Told to end it ends as by Ctrl-C; and so it does where a shell in the background has taken Ctrl-C from it.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            server = arguments.server
            if server is None:
                # Inherited by the server: it needs a descriptor for each node.
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                server = stack.enter_context(ServerProcess(settings_for(plan)))
            tell = _shown_live(stack, plan, results)
            asyncio.run(conduct(plan, server, tell=tell, results=results))
    except (SimulationFailed, ServerNotUp) as error:
        sys.stderr.write(f"server-stub simulate: {error}\n")
        return 1
    except KeyboardInterrupt:
        code = 130
    _show(plan, results, as_json=arguments.json)
    return code


def plan_from(arguments: argparse.Namespace) -> FleetPlan:
    """Give the plan that the flags make.

    Raises:
        PlanError: a flag cannot be read.
    """
    misbehaving = {}
    for flag, behaviour in _FLAGS.items():
        said = getattr(arguments, flag)
        if said is not None:
            misbehaving[behaviour] = _some(flag, said, DEFAULT_PERIODS_S.get(behaviour, 0.0))
    processes = arguments.processes or processes_for(arguments.nodes, arguments.connected)
    if processes < 1:
        raise PlanError(f"--processes {processes}: expected at least 1")
    return FleetPlan(
        nodes=arguments.nodes,
        connected=arguments.connected,
        processes=min(processes, max(1, arguments.nodes)),
        seconds=arguments.seconds,
        seed=arguments.seed,
        run=fresh_run(),
        misbehaving=misbehaving,
        are_known=arguments.known,
        failure=_failure(arguments.mass_failure, arguments.mass_return),
    )


def fresh_run() -> str:
    """Give the beginning of this run's epochs: a time, so that later runs sort behind earlier ones."""
    text = f"{time.time_ns() // 1_000_000:012x}"
    return f"{text[:8]}-{text[8:]}-7{os.urandom(2).hex()[:3]}"


def _some(flag: str, said: str, period_s: float) -> Some:
    match = re.fullmatch(r"(\d+)(?::(\d+(?:\.\d+)?))?", said)
    if match is None or (match[2] is not None and float(match[2]) <= 0):
        raise PlanError(f"--{flag} {said}: expected COUNT or COUNT:SECONDS, for instance 100:2.5")
    return Some(int(match[1]), period_s if match[2] is None else float(match[2]))


def _failure(said: str | None, returns_at_s: float | None) -> MassFailure | None:
    if said is None:
        if returns_at_s is not None:
            raise PlanError("--mass-return without --mass-failure: nobody would be away")
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+)(?::(\w+))?", said)
    way = Behaviour.REFUSING if match is None or match[3] is None else match[3]
    if match is None or way not in WAYS_TO_FAIL:
        raise PlanError(
            f"--mass-failure {said}: expected AT:COUNT or AT:COUNT:WAY, for instance 20:1000:silent; "
            f"ways: {', '.join(WAYS_TO_FAIL)}"
        )
    at_s = float(match[1])
    if returns_at_s is not None and returns_at_s <= at_s:
        raise PlanError(f"--mass-return {returns_at_s:g} is not after --mass-failure at {at_s:g}")
    return MassFailure(at_s, int(match[2]), Behaviour(way), returns_at_s)


class _Progress:
    """The live table on a terminal, else a line every ten seconds and for what happens."""

    def __init__(self, plan: FleetPlan, results: Results, live: Live | None) -> None:
        self._plan = plan
        self._results = results
        self._live = live
        self._told_at = 0.0
        self._phase = ""

    def __call__(self, moment: Moment) -> None:
        if self._live is not None:
            self._live.update(moment_table(self._plan, moment, self._results.url), refresh=True)
            return
        now = time.monotonic()
        if now - self._told_at >= 10 or moment.happened or moment.phase != self._phase:
            self._told_at, self._phase = now, moment.phase
            shown = " ".join(f"{word}={number:.0f}" for word, number in moment.words.items() if number)
            what = f"{moment.happened} " if moment.happened else ""
            sys.stderr.write(
                f"[{moment.phase} {moment.at_s:.0f} s] {what}registered={moment.arrived} {shown} "
                f"probes/s={moment.probes_per_s:.0f}\n"
            )


def _shown_live(stack: ExitStack, plan: FleetPlan, results: Results) -> _Progress:
    console = Console(stderr=True)
    if not console.is_terminal:
        return _Progress(plan, results, None)
    # No thread of its own draws it: processes are forked while it stands.
    return _Progress(plan, results, stack.enter_context(Live(console=console, auto_refresh=False)))


def _show(plan: FleetPlan, results: Results, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"plan": to_json(plan), "results": asdict(results)}, indent=1) + "\n")
    else:
        Console().print(results_table(plan, results))
