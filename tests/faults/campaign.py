"""The fault campaign as a command: every registered case in turn, live progress, a table at the end.

``python -m tests.faults [--list] [--only NAME…] [--json]``. The same cases that pytest runs, in this process, one
after the other, since each one's times are measured. Exit status 1 when a case failed, 2 for a wrong name. A case that
this machine can't do is skipped with the reason, and said so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

from tests.faults.fault_node import fault_node
from tests.faults.registry import Case, cases_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEALED = "healed"
SKIPPED = "skipped"
FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one case; times in seconds, the worst of its judged blocks."""

    number: str
    name: str
    fault: str
    detected_by: str
    cause: str
    detect_s: float | None
    recover_s: float | None
    evidence: str
    verdict: str
    why: str
    took_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--list", action="store_true", help="show the cases and run none")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="cases whose name or number this is, or begins so"
    )
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout")
    options = parser.parse_args(arguments)
    cases = chosen(all_cases(), options.only)
    if not cases:
        sys.stderr.write(f"no case is named {' or '.join(options.only)}; see --list\n")
        return 2
    if options.list:
        for case in cases:
            print(f"{case.fault.number:>5}  {case.name:<88}  {case.fault.title}")
        return 0
    rows = run(cases, sys.stderr)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print(table(rows))
    return 1 if any(row.verdict == FAILED for row in rows) else 0


def all_cases() -> list[Case]:
    """Every case of every module beside this one, in the order of their numbers."""
    found: list[Case] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if "@fault(" in path.read_text():
            found += cases_in(importlib.import_module(f"tests.faults.{path.stem}"))
    return sorted(found, key=lambda case: (_order(case), case.name))


def _order(case: Case) -> float:
    """The first of its numbers; pairs come last."""
    first = _numbers(case)[0]
    return int(first) if first.isdigit() else float("inf")


def _numbers(case: Case) -> list[str]:
    return case.fault.number.split(", ")


def chosen(cases: Iterable[Case], only: Sequence[str] | None) -> list[Case]:
    """Those that are asked for, by number or by the beginning of their name."""
    if only is None:
        return list(cases)
    return [
        case
        for case in cases
        if any(one in _numbers(case) or case.name.startswith(one.removeprefix("test_")) for one in only)
    ]


def run(cases: Sequence[Case], progress: TextIO) -> list[Row]:
    """Run them; what went wrong is told on `progress` as it happens."""
    rows = []
    for count, case in enumerate(cases, 1):
        progress.write(f"[{count:>3}/{len(cases)}] {case.fault.number:>4}  {case.fault.title} … ")
        progress.flush()
        row = run_one(case)
        rows.append(row)
        times = f"detected {_seconds(row.detect_s)}, recovered {_seconds(row.recover_s)}"
        progress.write(
            f"{row.verdict} ({times})\n" if row.verdict == HEALED else f"{row.verdict}: {row.why}\n"
        )
        progress.flush()
    return rows


def run_one(case: Case) -> Row:
    """Run one case on a node of its own."""
    began = time.monotonic()
    reason = case.fault.why_not()
    verdicts, verdict, why = [], HEALED, ""
    if reason is not None:
        verdict, why = SKIPPED, reason
    else:
        try:
            with fault_node() as node:
                try:
                    case.run(node)
                finally:
                    verdicts = node.verdicts
        except pytest.skip.Exception as skipped:
            verdict, why = SKIPPED, str(skipped)
        except Exception:
            verdict, why = FAILED, f"{case.name}\n{traceback.format_exc()}"
    return Row(
        number=case.fault.number,
        name=case.name,
        fault=case.fault.title,
        detected_by=case.fault.detected_by,
        cause=verdicts[-1].cause if verdicts else "",
        detect_s=max((one.detect_s for one in verdicts if one.detect_s is not None), default=None),
        recover_s=max((one.recover_s for one in verdicts if one.recover_s is not None), default=None),
        evidence=verdicts[-1].evidence if verdicts else "-",
        verdict=verdict,
        why=why,
        took_s=round(time.monotonic() - began, 3),
    )


def table(rows: Sequence[Row]) -> str:
    """The table for people, and one line that sums it up."""
    heads = ("no", "fault", "detected by", "detect", "recover", "evidence", "verdict")
    cells = [
        (
            row.number,
            row.fault[:76],
            row.detected_by[:52],
            _seconds(row.detect_s),
            _seconds(row.recover_s),
            row.evidence,
            row.verdict,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [heads, *cells]) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [heads, *cells]]  # fmt: skip
    lines.insert(1, "  ".join("-" * width for width in widths))
    failed = [row for row in rows if row.verdict == FAILED]
    skipped = [row for row in rows if row.verdict == SKIPPED]
    healed = len(rows) - len(failed) - len(skipped)
    lines.append("")
    lines.append(
        f"{healed} healed, {len(failed)} failed, {len(skipped)} skipped, in {sum(row.took_s for row in rows):.0f} s"
    )
    lines += [f"skipped: {row.name}: {row.why}" for row in skipped]
    lines += [f"failed: {row.name}" for row in failed]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
