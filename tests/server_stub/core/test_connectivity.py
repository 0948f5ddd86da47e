"""A node's word, axis by axis: the tables whole, both sides of each threshold, and what no order of facts may do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.protocol.incarnation import Incarnation
from server_stub.core.connectivity import (
    PHASES,
    WORD_OF_HEALTH,
    WORD_OF_LIFECYCLE,
    WORD_OF_REACHABILITY,
    Settings,
    evaluate,
    next_change_at,
)
from server_stub.core.node_facts import (
    ANSWERED,
    PRECEDENCE,
    ConnectionFact,
    Health,
    Lifecycle,
    NannyFact,
    NodeFacts,
    ProbeClass,
    ProbeFact,
    Reachability,
    Reason,
    Stored,
    Verdict,
    Word,
)

START = 1000.0
NOW = 2000.0
"""Long after the server's start."""
LIMITS = Settings(offline_timeout_s=100.0, silence_timeout_s=30.0)


def life(number: int) -> Incarnation:
    return Incarnation("epoch-1", number)


def stored(**changed: Any) -> Stored:
    return replace(
        Stored(
            lifecycle=Lifecycle.ACTIVE,
            unreachable=False,
            word=Word.READY,
            reason="Ready",
            detail="",
            is_registered=True,
            has_healthz=True,
            has_link=True,
        ),
        **changed,
    )


def open_since(at: float = NOW - 60.0, heard_at: float = NOW - 1.0) -> ConnectionFact:
    return ConnectionFact(is_open=True, changed_at=at, heard_at=heard_at)


def closed_at(at: float) -> ConnectionFact:
    return ConnectionFact(is_open=False, changed_at=at, heard_at=at)


def nanny(phase: str = "running", **changed: Any) -> NannyFact:
    return replace(
        NannyFact(
            phase=phase,
            desired_down=False,
            desired_by="default",
            desired_reason="",
            desired_since_at=START,
            draining=False,
            incarnation=life(7),
            conditions=(),
            at=NOW - 1.0,
            phase_since_at=NOW - 50.0,
        ),
        **changed,
    )


def probe(result: ProbeClass = ProbeClass.OK, **changed: Any) -> ProbeFact:
    status = {ProbeClass.OK: "ok", ProbeClass.STALLED: "stalled", ProbeClass.FALLBACK: "fallback"}.get(result)
    incarnation = life(7) if result in ANSWERED else None
    return replace(ProbeFact(result, NOW - 2.0, NOW - 40.0, status, incarnation), **changed)


def facts(**changed: Any) -> NodeFacts:
    """A healthy node with all three signs."""
    return replace(
        NodeFacts(
            stored=stored(),
            listening_since_at=START,
            probe=probe(),
            worker=open_since(),
            link=open_since(),
            nanny=nanny(),
            registered_incarnation=life(7),
            reborn_at=NOW - 50.0,
        ),
        **changed,
    )


def judge(now: float = NOW, **changed: Any) -> Verdict:
    return evaluate(facts(**changed), now, LIMITS)


def test_a_node_with_all_signs_is_ready() -> None:
    verdict = judge()

    assert (verdict.word, verdict.reason, verdict.reasons) == (Word.READY, Reason("Ready"), ())


def test_every_state_of_each_axis_has_its_word() -> None:
    assert set(WORD_OF_LIFECYCLE) == set(Lifecycle)
    assert set(WORD_OF_REACHABILITY) == set(Reachability) - {Reachability.AWAITED}
    assert set(WORD_OF_HEALTH) == set(Health)


def test_the_words_rank_as_designed() -> None:
    assert " > ".join(PRECEDENCE) == (
        "MAINTENANCE > DRAINING > NOT_READY > UNKNOWN > UNREACHABLE > STALLED > DEGRADED > PENDING > READY"
    )


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        ("starting", Word.PENDING),
        ("running", Word.READY),
        ("degraded", Word.DEGRADED),
        ("stopping", Word.PENDING),
        ("backoff", Word.PENDING),
        ("down", Word.PENDING),
        ("failed", Word.NOT_READY),
    ],
)
def test_each_phase_of_the_nanny_has_its_word(phase: str, word: Word) -> None:
    verdict = judge(probe=probe(at=NOW - 51.0), nanny=nanny(phase), reborn_at=NOW - 55.0)

    assert verdict.word is word
    assert phase in PHASES


def test_a_phase_of_a_newer_nanny_leaves_the_word_to_the_probe() -> None:
    assert judge(nanny=nanny("hibernating")).word is Word.READY
    assert judge(nanny=nanny("hibernating"), probe=probe(ProbeClass.STALLED)).word is Word.STALLED


@pytest.mark.parametrize(
    ("result", "word", "code"),
    [
        (ProbeClass.OK, Word.READY, "Ready"),
        (ProbeClass.STALLED, Word.STALLED, "Stalled"),
        (ProbeClass.FALLBACK, Word.STALLED, "NotAccepting"),
        (ProbeClass.REFUSED, Word.UNREACHABLE, "ProbePathBlocked"),
        (ProbeClass.TIMEOUT, Word.UNREACHABLE, "ProbePathBlocked"),
        (ProbeClass.RESET, Word.UNREACHABLE, "ProbePathBlocked"),
        (ProbeClass.BAD_ANSWER, Word.UNREACHABLE, "ProbePathBlocked"),
        (ProbeClass.DNS, Word.UNREACHABLE, "ProbePathBlocked"),
        (ProbeClass.NO_ROUTE, Word.UNREACHABLE, "ProbePathBlocked"),
        (ProbeClass.SERVER_FAULT, Word.UNKNOWN, "ServerFault"),
    ],
)
def test_each_class_of_probe_has_its_word_while_the_nanny_says_running(
    result: ProbeClass, word: Word, code: str
) -> None:
    verdict = judge(probe=probe(result))

    assert (verdict.word, verdict.reason.code) == (word, code)
    assert verdict.unreachable is (word is Word.UNREACHABLE)


def test_a_failed_probe_without_a_nanny_is_no_blocked_path() -> None:
    verdict = judge(probe=probe(ProbeClass.TIMEOUT), link=closed_at(NOW - 5.0))

    assert (verdict.word, verdict.reason.code) == (Word.UNREACHABLE, "ProbeFailed")


@pytest.mark.parametrize(("age_s", "word"), [(29.9, Word.NOT_READY), (30.0, Word.STALLED)])
def test_the_nannys_last_word_holds_while_its_link_reconnects(age_s: float, word: Word) -> None:
    verdict = judge(
        probe=probe(ProbeClass.FALLBACK), nanny=nanny("failed", at=NOW - 31.0), link=closed_at(NOW - age_s)
    )

    assert verdict.word is word


def test_the_nanny_explains_why_only_it_answers() -> None:
    verdict = judge(probe=probe(ProbeClass.FALLBACK), nanny=nanny("backoff"))

    assert (verdict.word, verdict.reason.code) == (Word.PENDING, "NannyBackoff")


def test_stalled_says_where_and_since_when() -> None:
    verdict = judge(probe=probe(ProbeClass.STALLED, where="module:function"))

    assert verdict.reason == Reason("Stalled", "stalled: in module:function", NOW - 40.0)


# Time, both sides of each threshold


@pytest.mark.parametrize(("age_s", "word"), [(99.9, Word.UNREACHABLE), (100.0, Word.NOT_READY)])
def test_offline_is_a_hundred_seconds_without_any_sign(age_s: float, word: Word) -> None:
    silent = NOW - age_s
    verdict = judge(
        probe=probe(ProbeClass.TIMEOUT),
        worker=closed_at(silent),
        link=closed_at(silent - 5.0),
        nanny=nanny("running"),
    )

    assert verdict.word is word
    assert (verdict.reason.code == "Offline") is (word is Word.NOT_READY)


@pytest.mark.parametrize("sign", ["probe", "worker", "link"])
def test_each_sign_alone_keeps_a_node_from_being_offline(sign: str) -> None:
    silent = NOW - 500.0
    signs: dict[str, Any] = {
        "probe": probe(ProbeClass.TIMEOUT),
        "worker": closed_at(silent),
        "link": closed_at(silent),
    }
    signs[sign] = probe(ProbeClass.OK) if sign == "probe" else open_since()

    assert judge(**signs).reachability is not Reachability.OFFLINE


@pytest.mark.parametrize(("age_s", "word"), [(29.9, Word.READY), (30.0, Word.DEGRADED)])
@pytest.mark.parametrize("role", ["link", "worker"])
def test_a_missing_connection_counts_after_the_silence_timeout(role: str, age_s: float, word: Word) -> None:
    missing: dict[str, Any] = {role: closed_at(NOW - age_s)}

    verdict = judge(**missing)

    assert verdict.word is word


def test_a_node_that_never_had_a_link_is_not_blamed_for_its_silence() -> None:
    verdict = judge(stored=stored(has_link=False), link=None, nanny=None)

    assert verdict.word is Word.READY


# A server that has just started


@pytest.mark.parametrize("before", [word for word in Word if word is not Word.MAINTENANCE])
@pytest.mark.parametrize("probed", [None, probe(ProbeClass.TIMEOUT), probe(ProbeClass.SERVER_FAULT)])
def test_a_server_that_just_started_keeps_the_stored_word_of_a_silent_node(
    before: Word, probed: ProbeFact | None
) -> None:
    silent = facts(
        stored=stored(
            word=before, reason="Before", detail="as before", unreachable=before is Word.UNREACHABLE
        ),
        listening_since_at=NOW - 99.9,
        probe=probed,
        worker=None,
        link=None,
        nanny=None,
        registered_incarnation=None,
        reborn_at=None,
    )

    verdict = evaluate(silent, NOW, LIMITS)

    assert (verdict.word, verdict.unreachable) == (before, before is Word.UNREACHABLE)
    later = evaluate(silent, NOW + 0.1, LIMITS)
    assert later.word in {Word.NOT_READY, Word.UNKNOWN}


def test_what_a_node_says_counts_at_once_however_young_the_server_is() -> None:
    verdict = judge(
        listening_since_at=NOW - 1.0, probe=None, worker=None, reborn_at=None, nanny=nanny("failed")
    )

    assert (verdict.word, verdict.reason.code) == (Word.NOT_READY, "NannyFailed")


# Lives


def test_a_registered_life_that_was_not_probed_is_pending() -> None:
    verdict = judge(registered_incarnation=life(8), nanny=nanny(incarnation=life(8)))

    assert (verdict.word, verdict.reason.code) == (Word.PENDING, "NotProbed")


def test_a_life_that_the_nanny_started_is_pending_although_the_old_one_answered_well() -> None:
    verdict = judge(nanny=nanny("starting", incarnation=life(8), phase_since_at=NOW - 1.0))

    assert verdict.word is Word.PENDING


def test_a_good_probe_of_the_same_life_overrules_starting() -> None:
    verdict = judge(nanny=nanny("starting", phase_since_at=NOW - 3.0), probe=probe(at=NOW - 2.0))

    assert verdict.word is Word.READY


def test_a_registration_alone_is_pending() -> None:
    verdict = judge(probe=None, reborn_at=NOW - 1.0)

    assert (verdict.word, verdict.reason.code) == (Word.PENDING, "NotProbed")


def test_a_node_known_by_its_link_alone_is_pending() -> None:
    verdict = judge(
        stored=stored(is_registered=False, has_healthz=False), probe=None, worker=None, reborn_at=None
    )

    assert (verdict.word, verdict.reason.code) == (Word.PENDING, "NotRegistered")


def test_a_worker_without_healthz_is_as_reachable_as_its_connection() -> None:
    bare = stored(has_healthz=False)

    assert judge(stored=bare, probe=None).word is Word.READY
    assert judge(stored=bare, probe=None, worker=closed_at(NOW - 1.0)).word is Word.UNREACHABLE


# What people want


def test_a_stopped_node_says_who_stopped_it_and_when() -> None:
    verdict = judge(
        nanny=nanny(
            "down", desired_down=True, desired_by="root", desired_reason="disk", desired_since_at=NOW - 9.0
        )
    )

    assert verdict.lifecycle is Lifecycle.STOPPED
    assert (verdict.word, verdict.reason) == (
        Word.NOT_READY,
        Reason("Stopped", "stopped by root: disk", NOW - 9.0),
    )


def test_stopped_outlives_the_link_until_the_worker_answers_again() -> None:
    down = nanny("down", desired_down=True, at=NOW - 10.0)
    without_link: dict[str, Any] = {"nanny": down, "link": closed_at(NOW - 8.0)}

    assert judge(**without_link, probe=probe(ProbeClass.FALLBACK)).lifecycle is Lifecycle.STOPPED
    assert judge(**without_link, probe=probe(at=NOW - 2.0)).lifecycle is Lifecycle.ACTIVE
    assert judge(**without_link, probe=probe(at=NOW - 11.0)).lifecycle is Lifecycle.STOPPED


def test_stopped_outlives_a_restart_of_the_server() -> None:
    before = stored(lifecycle=Lifecycle.STOPPED, word=Word.NOT_READY, reason="Stopped", detail="by root")

    verdict = judge(
        stored=before,
        listening_since_at=NOW - 5.0,
        nanny=None,
        link=None,
        worker=None,
        probe=None,
        reborn_at=None,
    )

    assert (verdict.word, verdict.lifecycle, verdict.reason.detail) == (
        Word.NOT_READY,
        Lifecycle.STOPPED,
        "by root",
    )


def test_a_started_node_leaves_stopped_behind() -> None:
    before = stored(lifecycle=Lifecycle.STOPPED, word=Word.NOT_READY, reason="Stopped", detail="by root")

    assert judge(stored=before).word is Word.READY


def test_draining_is_the_nannys_word_and_ranks_above_all_but_maintenance() -> None:
    assert judge(nanny=nanny(draining=True)).word is Word.DRAINING
    assert judge(nanny=nanny("failed", draining=True)).word is Word.DRAINING
    in_maintenance = stored(
        lifecycle=Lifecycle.MAINTENANCE, word=Word.MAINTENANCE, reason="Maintenance", detail="fans"
    )
    assert judge(stored=in_maintenance, nanny=nanny("failed", draining=True)).word is Word.MAINTENANCE


def test_conditions_degrade_a_healthy_node_and_spare_a_stalled_one() -> None:
    told: dict[str, Any] = {
        "worker_conditions": ("NodeStarved",),
        "nanny": nanny(conditions=("GpuDriverUnresponsive",)),
    }

    assert judge(**told).reason == Reason("Conditions", "conditions hold: GpuDriverUnresponsive, NodeStarved")
    assert judge(**told).word is Word.DEGRADED
    assert judge(**told, probe=probe(ProbeClass.STALLED)).word is Word.STALLED


# Properties

INSTANTS = st.floats(START, NOW)
CONNECTIONS = st.none() | st.builds(
    lambda is_open, at: ConnectionFact(is_open, at, at), st.booleans(), INSTANTS
)
PROBES = st.none() | st.builds(
    ProbeFact,
    st.sampled_from(ProbeClass),
    INSTANTS,
    INSTANTS,
    st.sampled_from([None, "ok", "starting", "stalled", "fallback"]),
    st.none() | st.builds(life, st.integers(1, 3)),
)
NANNIES = st.none() | st.builds(
    NannyFact,
    st.sampled_from([*PHASES, "new-phase"]),
    st.booleans(),
    st.just("root"),
    st.just(""),
    INSTANTS,
    st.booleans(),
    st.none() | st.builds(life, st.integers(1, 3)),
    st.sampled_from([(), ("NodeStarved",)]),
    INSTANTS,
    INSTANTS,
)
STORED = st.builds(
    Stored,
    st.sampled_from(Lifecycle),
    st.booleans(),
    st.sampled_from(Word),
    st.just("Before"),
    st.just("as before"),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
FACTS = st.builds(
    NodeFacts,
    STORED,
    st.sampled_from([START, NOW - 50.0, NOW]),
    PROBES,
    CONNECTIONS,
    CONNECTIONS,
    NANNIES,
    st.none() | st.builds(life, st.integers(1, 3)),
    st.none() | INSTANTS,
    st.sampled_from([(), ("NodeStarved",)]),
)


@given(FACTS)
def test_the_word_is_always_the_gravest_and_ready_only_with_nothing_against_it(known: NodeFacts) -> None:
    verdict = evaluate(known, NOW, LIMITS)

    assert verdict.word in PRECEDENCE
    assert PRECEDENCE.index(verdict.word) <= PRECEDENCE.index(WORD_OF_LIFECYCLE[verdict.lifecycle])
    if verdict.word is Word.READY:
        assert verdict.reasons == ()
        assert verdict.lifecycle is Lifecycle.ACTIVE
        assert verdict.reachability in {Reachability.REACHABLE, Reachability.AWAITED}


@given(FACTS)
def test_a_node_that_gave_no_sign_to_a_young_server_never_gets_worse(known: NodeFacts) -> None:
    silent = replace(
        known,
        listening_since_at=NOW - 99.0,
        probe=None,
        worker=None,
        link=None,
        nanny=None,
        registered_incarnation=None,
        reborn_at=None,
        worker_conditions=(),
    )
    before = silent.stored
    is_consistent = (before.word is Word.MAINTENANCE) is (before.lifecycle is Lifecycle.MAINTENANCE)
    if is_consistent and WORD_OF_LIFECYCLE[before.lifecycle] in {Word.READY, before.word}:
        verdict = evaluate(silent, NOW, LIMITS)
        assert (verdict.word, verdict.unreachable) == (before.word, before.unreachable)


@given(FACTS)
@settings(max_examples=300)
def test_nothing_changes_before_the_next_instant_that_was_announced(known: NodeFacts) -> None:
    change_at = next_change_at(known, NOW, LIMITS)
    quiet_until = NOW + 1000.0 if change_at is None else change_at
    just_before = NOW + (quiet_until - NOW) * 0.999

    assert evaluate(known, just_before, LIMITS) == evaluate(known, NOW, LIMITS)


@given(FACTS)
def test_storing_a_verdict_is_enough_once(known: NodeFacts) -> None:
    verdict = evaluate(known, NOW, LIMITS)
    after = replace(
        known.stored,
        lifecycle=verdict.lifecycle,
        unreachable=verdict.unreachable,
        word=verdict.word,
        reason=verdict.reason.code,
        detail=verdict.reason.detail,
    )

    assert not evaluate(replace(known, stored=after), NOW, LIMITS).differs_from(after)
