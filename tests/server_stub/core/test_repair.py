"""The repair policy, purely: who is in need, what speaks against a repair, and that each decision has a reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.protocol.incarnation import Incarnation
from server_stub.core.node_facts import (
    ConnectionFact,
    Lifecycle,
    NannyFact,
    NodeFacts,
    ProbeClass,
    ProbeFact,
    Stored,
    Word,
)
from server_stub.core.repair import (
    Circumstances,
    NannysWord,
    Need,
    Repair,
    RepairMode,
    RepairSettings,
    Wait,
    Why,
    Withheld,
    decide,
    idempotency_key,
    nannys_word,
    need_of,
)
from server_stub.core.repair_budget import Refusal

NOW = 1000.0
LIMITS = RepairSettings(mode=RepairMode.ON)
LIFE, NEXT = Incarnation("e", 7), Incarnation("e", 8)
ROW = Stored(
    Lifecycle.ACTIVE, False, Word.READY, "", "", is_registered=True, has_healthz=True, has_link=True
)  # fmt: skip
OPEN = ConnectionFact(is_open=True, changed_at=10.0, heard_at=NOW - 1.0)
QUIET = ConnectionFact(is_open=True, changed_at=10.0, heard_at=NOW - 31.0)
CLOSED = ConnectionFact(is_open=False, changed_at=NOW - 5.0, heard_at=NOW - 5.0)


def nanny(phase: str = "running", at: float = NOW - 3.0, **changed: Any) -> NannyFact:
    fields: dict[str, Any] = {
        "desired_down": False,
        "desired_by": "default",
        "desired_reason": "",
        "desired_since_at": 0.0,
        "draining": False,
        "incarnation": LIFE,
        "conditions": (),
        "phase_since_at": 20.0,
    }
    return NannyFact(phase=phase, at=at, **(fields | changed))


def probe(result: ProbeClass, life: Incarnation | None = LIFE, where: str | None = None) -> ProbeFact:
    return ProbeFact(result, NOW - 2.0, 500.0, incarnation=life, where=where)


def facts(**changed: Any) -> NodeFacts:
    fields: dict[str, Any] = {"worker": OPEN, "link": OPEN, "nanny": nanny()}
    return NodeFacts(ROW, 0.0, **(fields | changed))


@pytest.mark.parametrize(
    ("changed", "beat_age_s", "word"),
    [
        ({}, 0.5, NannysWord.HEALTHY),
        ({}, None, NannysWord.HEALTHY),  # a program that doesn't beat
        ({}, 30.0, NannysWord.HEALTHY),
        ({}, 30.1, NannysWord.UNWELL),
        ({"nanny": nanny("degraded")}, 0.5, NannysWord.UNWELL),
        ({"nanny": nanny("starting")}, None, NannysWord.AT_WORK),
        ({"nanny": nanny("stopping")}, None, NannysWord.AT_WORK),
        ({"nanny": nanny("backoff")}, None, NannysWord.AT_WORK),
        ({"nanny": nanny("failed")}, None, NannysWord.AT_WORK),
        ({"nanny": nanny("down")}, None, NannysWord.AT_WORK),
        ({"nanny": nanny("unreachable")}, None, NannysWord.SILENT),  # link without its nanny
        ({"nanny": nanny("hibernating")}, 0.5, NannysWord.SILENT),
        ({"nanny": None}, 0.5, NannysWord.SILENT),
        ({"link": None}, 0.5, NannysWord.SILENT),
        ({"link": CLOSED}, 0.5, NannysWord.SILENT),
        ({"nanny": nanny(at=NOW - 30.0)}, 0.5, NannysWord.HEALTHY),
        ({"nanny": nanny(at=NOW - 30.1)}, 0.5, NannysWord.SILENT),
        ({"nanny": nanny(at=9.0)}, 0.5, NannysWord.SILENT),  # told before this connection
    ],
)
def test_what_the_nanny_says(changed: dict[str, Any], beat_age_s: float | None, word: NannysWord) -> None:
    assert nannys_word(facts(**changed), beat_age_s, NOW, LIMITS) is word


PHASE_OF = {
    NannysWord.HEALTHY: nanny("running"),
    NannysWord.UNWELL: nanny("degraded"),
    NannysWord.AT_WORK: nanny("backoff"),
    NannysWord.SILENT: nanny("unreachable"),
}


def test_the_whole_table_of_probe_and_nanny_and_workers_connection() -> None:
    """Every result of a probe, every word of the nanny, every state of the worker's connection."""
    found = {}
    for result, word, worker in product([None, *ProbeClass], NannysWord, [OPEN, QUIET, CLOSED, None]):
        said = facts(probe=None if result is None else probe(result), nanny=PHASE_OF[word], worker=worker)
        need = need_of(said, None, NOW, LIMITS)
        if need is not None:
            found[result, word, worker] = need.code

    heard = (NannysWord.HEALTHY, NannysWord.UNWELL)
    connections = (OPEN, QUIET, CLOSED, None)
    stalled = {(ProbeClass.STALLED, word, worker): "Stalled" for word, worker in product(heard, connections)}
    refusing = {
        (ProbeClass.FALLBACK, word, worker): "NotAccepting" for word, worker in product(heard, connections)
    }
    silent = {
        (result, NannysWord.UNWELL, worker): "WorkerSilent"
        for result, worker in product(
            (ProbeClass.REFUSED, ProbeClass.TIMEOUT, ProbeClass.RESET), (QUIET, CLOSED, None)
        )
    }
    assert found == stalled | refusing | silent


@pytest.mark.parametrize("result", list(ProbeClass))
def test_a_probe_that_fails_while_the_nanny_says_healthy_is_never_a_need(result: ProbeClass) -> None:
    said = facts(probe=probe(result), worker=CLOSED)

    need = need_of(said, 0.5, NOW, LIMITS)

    assert (need is None) == (result not in {ProbeClass.STALLED, ProbeClass.FALLBACK})


def test_a_stall_of_an_earlier_life_is_no_need() -> None:
    assert need_of(facts(probe=probe(ProbeClass.STALLED, NEXT)), 0.5, NOW, LIMITS) is None
    assert need_of(facts(probe=probe(ProbeClass.STALLED, None)), 0.5, NOW, LIMITS) == Need(
        LIFE, "Stalled", ""
    )


def test_a_need_says_where_the_loop_stands_and_which_life_is_meant() -> None:
    said = facts(probe=probe(ProbeClass.STALLED, where="module:function"))

    assert need_of(said, 0.5, NOW, LIMITS) == Need(LIFE, "Stalled", "in module:function")


def test_a_worker_never_seen_counts_as_silent_only_after_a_whole_offline_timeout() -> None:
    said = facts(probe=probe(ProbeClass.TIMEOUT), worker=None, nanny=nanny("degraded"))

    assert need_of(replace(said, listening_since_at=NOW - 99.0), None, NOW, LIMITS) is None
    assert need_of(replace(said, listening_since_at=NOW - 100.0), None, NOW, LIMITS) is not None


FREE = Circumstances(
    lifecycle=Lifecycle.ACTIVE,
    listening_since_at=0.0,
    is_held=False,
    is_demotion_brake_on=False,
    has_open_command=False,
    node_refusal=None,
    fleet_refusal=None,
)
NEED = Need(LIFE, "Stalled", "in module:function")
SPENT = Refusal(2000.0, "spent")


@pytest.mark.parametrize(
    ("since_at", "decision"),
    [
        (NOW - 89.9, Wait(NOW + 0.1, "Stalled: in module:function")),
        (NOW - 90.0, Repair(LIFE, "Stalled: in module:function", is_dry_run=False)),
    ],
)
def test_a_need_has_to_last(since_at: float, decision: Wait | Repair) -> None:
    found = decide(NEED, since_at, FREE, NOW, LIMITS)

    if isinstance(decision, Wait):
        assert isinstance(found, Wait)
        assert found.until_at == pytest.approx(decision.until_at)
        assert found.reason == decision.reason
    else:
        assert found == decision


def test_in_a_dry_run_it_is_only_said() -> None:
    assert decide(NEED, 0.0, FREE, NOW, RepairSettings()) == Repair(
        LIFE, "Stalled: in module:function", is_dry_run=True
    )


AGAINST: dict[Why, dict[str, Any]] = {
    Why.MAINTENANCE: {"lifecycle": Lifecycle.MAINTENANCE},
    Why.DRAINING: {"lifecycle": Lifecycle.DRAINING},
    Why.STOPPED: {"lifecycle": Lifecycle.STOPPED},
    Why.HELD: {"is_held": True},
    Why.JUST_STARTED: {"listening_since_at": NOW - 50.0},
    Why.DEMOTION_BRAKE: {"is_demotion_brake_on": True},
    Why.COMMAND_OPEN: {"has_open_command": True},
    Why.INCARNATION_UNKNOWN: {},
    Why.NODE_BUDGET: {"node_refusal": SPENT},
    Why.FLEET_BUDGET: {"fleet_refusal": SPENT},
}


def test_every_reason_against_is_tried() -> None:
    assert list(AGAINST) == list(Why)


@pytest.mark.parametrize("why", list(Why))
def test_each_reason_against_holds_alone_and_says_so(why: Why) -> None:
    need = replace(NEED, incarnation=None) if why is Why.INCARNATION_UNKNOWN else NEED

    found = decide(need, 0.0, replace(FREE, **AGAINST[why]), NOW, LIMITS)

    assert isinstance(found, Withheld)
    assert found.why is why
    assert found.reason.startswith("Stalled: in module:function; withheld: ")
    expected_until = {Why.JUST_STARTED: NOW + 50.0, Why.NODE_BUDGET: 2000.0, Why.FLEET_BUDGET: 2000.0}
    assert found.until_at == expected_until.get(why)


CIRCUMSTANCES = st.builds(
    Circumstances,
    lifecycle=st.sampled_from(Lifecycle),
    listening_since_at=st.sampled_from([0.0, NOW - 50.0]),
    is_held=st.booleans(),
    is_demotion_brake_on=st.booleans(),
    has_open_command=st.booleans(),
    node_refusal=st.sampled_from([None, SPENT]),
    fleet_refusal=st.sampled_from([None, SPENT]),
    is_command_brake_lifted=st.booleans(),
)


@given(
    CIRCUMSTANCES,
    st.sampled_from([LIFE, None]),
    st.sampled_from([0.0, NOW - 10.0]),
    st.sampled_from(RepairMode),
)
def test_a_repair_needs_everything_and_every_decision_has_its_reason(
    around: Circumstances, life: Incarnation | None, since_at: float, mode: RepairMode
) -> None:
    found = decide(replace(NEED, incarnation=life), since_at, around, NOW, replace(LIMITS, mode=mode))

    assert found.reason
    may = (
        life is not None
        and since_at == 0.0
        and around.lifecycle is Lifecycle.ACTIVE
        and around.listening_since_at == 0.0
        and not around.is_held
        and not around.is_demotion_brake_on
        and not around.has_open_command
        and around.node_refusal is None
        and (around.fleet_refusal is None or around.is_command_brake_lifted)
    )
    assert isinstance(found, Repair) == may
    if isinstance(found, Repair):
        assert found.is_dry_run == (mode is not RepairMode.ON)


def test_the_key_is_that_of_the_node_the_life_and_the_episode() -> None:
    keys = {
        idempotency_key(node_id, life, episode)
        for node_id, life, episode in product(("a", "a:e"), ("e/7", "/7", "e/8"), (0, 1, 11))
    }

    assert len(keys) == 18
    assert idempotency_key("a", "e/7", 0) in keys
    assert all(len(key) <= 256 and key.isascii() for key in keys)
