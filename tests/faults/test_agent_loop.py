"""Faults 7, 8, 9 and 12 with the repository's own agent: each time /healthz answers with what is true.

Its loop stands or spins, its interpreter is held, its descriptors are used up. The probe is an operator's: a fresh
connection each time. What the nanny does about it is judged by the oracles.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_makers as make
from tests.faults.fault_node import LOST_AFTER_S, STARVATION_LIMIT_S
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.support.processes import wait_until
from tests.support.vitals_subject import Answer, http_get

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow
STALLED_AFTER_S = 2.5


def begin(node: FaultNode) -> None:
    """The agent says stalled well before the nanny acts on it, so that a probe can see both."""
    command, environment = make.own_agent(node, stall_warn_s="0.3", stall_timeout_s="0.7")
    node.begin(
        command,
        "--port=0",
        "--fallback-after-s=0.3",
        environment,
        stall_timeout_s=STALLED_AFTER_S,
        starvation_limit_s=STARVATION_LIMIT_S,
    )


def probe(node: FaultNode) -> Answer:
    """A new connection to /healthz."""
    host, _, port = node.status()["healthz"].rpartition(":")
    return http_get((host, int(port)), "/healthz", timeout_s=20)


def answers(node: FaultNode, status: int, word: str) -> None:
    """Wait until /healthz has this status and says this word."""
    last: list[Any] = [None]

    def says() -> bool:
        with suppress(OSError):
            last[0] = probe(node)
            return bool(last[0].status == status and json.loads(last[0].body)["status"] == word)
        return False

    try:
        wait_until(says, 20.0, f"/healthz to be {status} {word}")
    except AssertionError as error:
        raise AssertionError(f"{error}; the last answer: {last[0]}") from None


STALL = Expectation(
    detect_within_s=STALLED_AFTER_S + 0.5,
    recover_within_s=STALLED_AFTER_S + 3.0,
    cause=("stalled",),
    evidence=True,
)


@pytest.mark.parametrize("order", ["block 60", "spin 60"])
@fault("7", "loop dead, HTTP thread alive", by="nanny: loop lag in the beats; /healthz 503 stalled")
def test_a_standing_loop_is_seen_behind_a_thread_that_answers(node: FaultNode, order: str) -> None:
    begin(node)
    answers(node, 200, "ok")
    with judged(node, expects=STALL) as case:
        make.order(node, order)
        case.begins()
        answers(node, 503, "stalled")
    answers(node, 200, "ok")


@fault("8", "C code holds the GIL", by="nanny: beats lost; /healthz 503 from the nanny itself")
def test_a_held_interpreter_is_replaced_and_healthz_answered_meanwhile(node: FaultNode) -> None:
    begin(node)
    answers(node, 200, "ok")
    expects = Expectation(
        detect_within_s=LOST_AFTER_S, recover_within_s=LOST_AFTER_S + 4.0, cause=("lost",), evidence=True
    )
    with judged(node, expects=expects) as case:
        make.order(node, "gil 60")
        case.begins()
        answers(node, 503, "fallback")
    answers(node, 200, "ok")


@fault("9", "loop blocked, beats from another thread flow", by="nanny: the age that each beat carries")
def test_beats_alone_prove_nothing(node: FaultNode) -> None:
    node.begin(make.blocks_loop_while_beating(node))
    for _ in range(2):
        with judged(node, expects=STALL) as case:
            make.cue(node)
            case.begins()


@fault("12", "descriptors used up, agent lives", by="the agent itself; no restart")
def test_an_agent_without_descriptors_is_kept_and_serves_again_when_it_has_some(node: FaultNode) -> None:
    begin(node)
    answers(node, 200, "ok")
    pid = node.status()["worker"]["pid"]
    with judged(node, expects=Expectation(restarts=0)):
        before = make.limit_descriptors(pid, make.descriptors_of(pid))
        # Nobody can accept: the nanny does, and says what it knows.
        answers(node, 503, "fallback")
        make.limit_descriptors(pid, before[0])
        answers(node, 200, "ok")
