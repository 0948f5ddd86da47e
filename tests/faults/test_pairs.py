"""Troubles two at a time: each pair of seven, and the node is whole in the end, with one new worker and no more.

While both last, the node does what it can by itself: a hung worker is replaced, a hung link too, an order is taken and
done. Then the outer causes end, and everything has to be as if nothing had been the matter.
"""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack, suppress
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from nanny.common.identifiers import uuid7
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.faults.troubles import (
    TROUBLES,
    DiskFull,
    DiskHung,
    NannyKilled,
    Starvation,
    Trouble,
    ground,
    why_no_ground,
)
from tests.support.processes import wait_until
from tests.support.real_nanny import Refused

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow
PAIRS = [
    pytest.param((first, second), id=f"{first.name}, {second.name}")
    for first, second in combinations(TROUBLES, 2)
]
PATIENCE_S = 40.0


@pytest.mark.parametrize("pair", PAIRS)
@fault("pair", "two troubles at once", by="each as if it were alone", why_not=why_no_ground)
def test_two_troubles_at_once_cost_one_worker(
    node: FaultNode, pair: tuple[type[Trouble], type[Trouble]]
) -> None:
    reason = next((why for why in (kind.why_not() for kind in pair) if why is not None), None)
    if reason is not None:
        pytest.skip(reason)
    with ground(node) as where, ExitStack() as ending:
        before = where.begin()
        troubles = [kind(where) for kind in pair]
        with judged(node, expects=_expected(pair)) as case:
            for trouble in troubles:
                ending.callback(trouble.ends)
                trouble.begins()
            for trouble in troubles:
                trouble.is_overcome()
            order = Order(node, str(before["incarnation"]))
            order.is_finished()
            for trouble in reversed(troubles):
                trouble.ends()
            after = node.wait_for(
                lambda status: status["phase"] == "running" and not status["journal_degraded"],
                "a whole node",
            )
            case.recovered()
            where.heard_running(after["incarnation"])
            # What was done is still known, whatever the disk was like when it was.
            assert order.send() == order.outcome
            if {NannyKilled, Starvation} & set(pair):
                case.excused.append((case.began_at, time.monotonic()))
        is_hang = any(kind.replaces_worker for kind in pair)
        assert order.outcome == ("already-satisfied" if is_hang else "done")


def _expected(pair: tuple[type[Trouble], type[Trouble]]) -> Expectation:
    """One new worker; the starved may fall once more, and what a disk did not take is not counted in the journal."""
    is_exact = not {Starvation, DiskFull, DiskHung} & set(pair)
    return Expectation(restarts=1 if is_exact else None, recover_within_s=20.0)


class Order:
    """A restart of the life that was there before: sent until there is an outcome, always under one id."""

    def __init__(self, node: FaultNode, target: str) -> None:
        self._node = node
        self._fields = {
            "command_id": uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10)),
            "kind": "restart",
            "reason": "test",
            "actor": "tester",
            "target": target,
        }
        self.outcome: str | None = None

    def send(self) -> str | None:
        """Ask; the outcome if there is one."""
        answer: dict[str, Any] = self._node.ask("command", **self._fields)
        return answer.get("outcome")

    def is_finished(self) -> None:
        """Wait for the outcome."""

        def asked() -> bool:
            with suppress(OSError, EOFError, Refused):
                self.outcome = self.send()
            return self.outcome is not None

        wait_until(asked, PATIENCE_S, "an outcome")
