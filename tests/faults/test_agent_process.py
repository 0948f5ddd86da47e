"""Faults 1 to 15: what goes wrong inside the worker's own process, each with the nanny's own eyes as witness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import fault_makers
from tests.faults.fault_node import LOST_AFTER_S
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode


@fault("6", "SIGSTOP of the worker", by="nanny: beats lost, state T")
def test_a_stopped_worker_is_replaced_both_times(node: FaultNode) -> None:
    node.begin()
    for _ in range(2):
        with judged(
            node,
            expects=Expectation(
                detect_within_s=LOST_AFTER_S,
                recover_within_s=LOST_AFTER_S + 1,
                cause=("lost", "process state T"),
                evidence=True,
            ),
        ):
            fault_makers.stop(node.status()["worker"]["pid"])
