"""A run in a file: its nodes and its faults, to be played again exactly.

A case that once broke a rule stays in `cases/` and is played by the tests: no rule may break any more. The text scenarios
of tests/scenarios hold one nanny's mind; a case holds what those cannot: disk, network, server and several lives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.faults import Fault

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Case:
    """What is needed to run it."""

    what: str
    """What it once broke, or shows."""
    faults: tuple[Fault, ...]
    days: float = 0.0

    @property
    def nodes(self) -> list[int]:
        """The nodes that anything befalls."""
        return sorted({fault.node for fault in self.faults})


def write(path: Path, case: Case) -> None:
    """Keep a case.

    Raises:
        OSError: it cannot be written.
    """
    faults = ",\n  ".join(json.dumps(fault.as_json()) for fault in case.faults)
    what, days = json.dumps(case.what), json.dumps(case.days)
    path.write_text(
        f'{{"what": {what},\n "days": {days},\n "faults": [\n  {faults}\n ]}}\n', encoding="utf-8"
    )


def read(path: Path) -> Case:
    """The case that was kept.

    Raises:
        OSError: there is none.
        ValueError, KeyError: it is no case.
    """
    plain = json.loads(path.read_text(encoding="utf-8"))
    faults = tuple(Fault.of_json(one) for one in plain["faults"])
    return Case(str(plain["what"]), faults, float(plain["days"]))
