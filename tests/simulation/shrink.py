"""From a run that broke a rule to the fewest faults that still break it: delta debugging on the list of faults.

First only the faults of the node where it showed, up to that moment; then ever smaller parts are left out (Zeller's
ddmin); at last what remains is moved to the beginning of time. The same rule has to be broken, in the same words but for
names and numbers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.simulation.fleet import CONFIG, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nanny.core.config import PolicyConfig
    from tests.simulation.faults import Fault
    from tests.simulation.fleet import Told

RUNS_LIMIT: Final = 400
_FIRST_FAULT_AT: Final = 100.0
_SHARED: Final = frozenset({"server-restarts"})


def rule_of(violation: str) -> str:
    """What was broken, without the particulars."""
    return re.sub(r"[0-9.a-f-]*[0-9/][0-9./a-f-]*", "#", violation.partition(" (by ")[0])[:60]


def shrunk(
    faults: Sequence[Fault],
    told: Told,
    config: PolicyConfig = CONFIG,
    progress: Callable[[int], None] = lambda _count: None,
) -> list[Fault]:
    """Give the fewest faults, as far as they are found in a bounded number of runs.

    Args:
        faults: of the whole run.
        told: of the whole run: what was broken, where, when.
        config: of the run.
        progress: told how many faults are left.
    """
    rule, runs = rule_of(told.violation), 0

    def breaks(tried: Sequence[Fault]) -> bool:
        nonlocal runs
        runs += 1
        nodes = {fault.node for fault in tried} | where
        return rule_of(Fleet(sorted(nodes), config).run(tried).violation) == rule

    where = {int(told.broken_by.rpartition("-")[2])} if told.broken_by else set()
    left = [fault for fault in faults if fault.at <= told.virtual_s]
    for narrower in (
        [fault for fault in left if fault.node in where],
        [fault for fault in left if fault.node in where or fault.kind in _SHARED],
    ):
        if breaks(narrower):
            left = narrower
            break
    # The last ones matter most: halves are cut off the front first.
    while len(left) > 1 and breaks(left[len(left) // 2 :]):
        left = left[len(left) // 2 :]
    parts = 2
    while len(left) > 1 and runs < RUNS_LIMIT:
        size = max(1, -(-len(left) // parts))
        for begin in range(0, len(left), size):
            without = left[:begin] + left[begin + size :]
            if breaks(without):
                left = without
                parts = max(parts - 1, 2)
                progress(len(left))
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(left))
    moved = [replace(fault, at=round(fault.at - left[0].at + _FIRST_FAULT_AT, 3)) for fault in left]
    return moved if left and breaks(moved) else left
