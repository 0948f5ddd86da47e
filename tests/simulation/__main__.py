"""`python -m tests.simulation`: a fleet under faults, on a virtual clock.

Exit code 0: no rule was broken. 1: one was; the seed, the fewest faults that still break it and the file that holds them
are printed. 2: the arguments are wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from time import perf_counter

from tests.simulation import case_file, table
from tests.simulation.campaign import Campaign, Plan, campaign
from tests.simulation.draw import drawn
from tests.simulation.faults import KINDS
from tests.simulation.fleet import Fleet, Told
from tests.simulation.shrink import shrunk

_SHOWN_EVERY_S = 0.5


class Display:
    """One line that is written anew on a terminal, now and then a line elsewhere."""

    def __init__(self, faults: int, *, is_silent: bool) -> None:
        self._faults = faults
        self._is_silent = is_silent
        self._is_terminal = sys.stderr.isatty()
        self._shown_at = 0.0

    def show(self, told: Told) -> None:
        """The figures so far."""
        every_s = _SHOWN_EVERY_S if self._is_terminal else 20 * _SHOWN_EVERY_S
        if self._is_silent or perf_counter() < self._shown_at + every_s:
            return
        self._shown_at = perf_counter()
        self.say(table.line(told, self._faults), passing=True)

    def say(self, text: str, *, passing: bool = False) -> None:
        """A line, which the next one replaces if it is passing and this is a terminal."""
        if self._is_terminal:
            print(f"\r\033[K{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _rate(text: str) -> tuple[str, float]:
    kind, equals, number = text.partition("=")
    if not equals or kind not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: KIND=PER_DAY, with a kind of {', '.join(sorted(KINDS))}")
    return kind, float(number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the dice; the same seed is the same run (1)")
    parser.add_argument("--nodes", type=int, default=50, help="how many (50)")
    parser.add_argument("--days", type=float, help="how long (4, or as long as --faults need)")
    parser.add_argument("--faults", type=int, help="run seed after seed until so many were injected")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="for --faults (all cores)")
    parser.add_argument(
        "--rate", type=_rate, action="append", default=[], metavar="KIND=PER_DAY", help="how often, per node"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play the case in this file")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="where a case is to be written that failed"
    )
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--list", action="store_true", help="the kinds of faults and how often each strikes")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for."""
    given = _arguments()
    if given.list:
        print("\n".join(f"{kind:<26}{rate:g} a day" for kind, rate in KINDS.items()))
        return 0
    if given.replay is not None:
        case = case_file.read(given.replay)
        told = Fleet(case.nodes or [0]).run(case.faults, case.days)
        return _tell(told, as_json=given.json)
    plan = Plan(given.seed, given.nodes, given.days or 4.0, dict(given.rate))
    if given.faults is not None:
        return _campaign(plan, given)
    faults = drawn(plan.seed, plan.nodes, plan.days, plan.rates)
    display = Display(len(faults), is_silent=given.json)
    told = plan.run(display.show)
    display.show(told)
    if told.violation:
        _explain(plan, told, display, given.write)
    return _tell(told, as_json=given.json)


def _campaign(plan: Plan, given: argparse.Namespace) -> int:
    display, began = Display(given.faults, is_silent=given.json), perf_counter()

    def show(so_far: Campaign) -> None:
        so_far.told.wall_s = perf_counter() - began
        display.show(so_far.told)

    total = campaign(plan, given.faults, given.processes, show)
    total.told.wall_s = perf_counter() - began
    if total.broken is not None and total.broken_told is not None:
        _explain(total.broken, total.broken_told, display, given.write)
    return _tell(total.told, as_json=given.json)


def _explain(plan: Plan, told: Told, display: Display, path: Path | None) -> None:
    display.say(f"seed {plan.seed}: {told.broken_by}: {told.violation}")
    display.say("shrinking ...")
    faults = drawn(plan.seed, plan.nodes, plan.days, plan.rates)
    fewest = shrunk(faults, told, progress=lambda left: display.say(f"{left} faults", passing=True))
    for fault in fewest:
        display.say(json.dumps(fault.as_json()))
    path = path or Path(f"simulation-seed-{plan.seed}.json")
    case_file.write(path, case_file.Case(f"seed {plan.seed}: {told.violation}", tuple(fewest)))
    rates = "".join(f" --rate {kind}={rate:g}" for kind, rate in plan.rates.items())
    display.say(f"again, whole: --seed {plan.seed} --nodes {plan.nodes} --days {plan.days:g}{rates}")
    display.say(f"again, shrunk: --replay {path}; kept in tests/simulation/cases it is a test")


def _tell(told: Told, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(told.as_json()))
    else:
        print(file=sys.stderr)
        print(table.text(told))
    return 1 if told.violation else 0


if __name__ == "__main__":
    sys.exit(main())
