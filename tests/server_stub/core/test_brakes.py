"""The demotion brake, purely: which words count, the threshold on both sides, hysteresis, lifting, restarts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_stub.core.brakes import (
    BAD,
    Brake,
    BrakeChange,
    BrakeSettings,
    Counts,
    Standing,
    decide,
    is_calm,
    is_demotion,
    is_tripped,
    lift,
    reason_of,
    rests_on_reach,
    standing_of,
    standing_of_stored,
)
from server_stub.core.connectivity import WORD_OF_REACHABILITY
from server_stub.core.fleet_tally import FleetTally
from server_stub.core.node_facts import (
    PRECEDENCE,
    Health,
    Lifecycle,
    Reachability,
    Reason,
    Stored,
    Verdict,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = BrakeSettings()


def stored(word: Word = Word.READY, lifecycle: Lifecycle = Lifecycle.ACTIVE) -> Stored:
    fields: dict[str, Any] = {"unreachable": False, "reason": "", "detail": ""}
    return Stored(lifecycle, word=word, is_registered=True, has_healthz=True, has_link=True, **fields)


def verdict(
    word: Word = Word.READY,
    reach: Reachability = Reachability.REACHABLE,
    lifecycle: Lifecycle = Lifecycle.ACTIVE,
) -> Verdict:
    return Verdict(word, Reason(word), (), lifecycle, reach, Health.HEALTHY, unreachable=False)


GONE = verdict(Word.UNREACHABLE, Reachability.UNREACHABLE)
OFFLINE = verdict(Word.NOT_READY, Reachability.OFFLINE)
READY = verdict()


def test_only_what_the_server_cannot_reach_is_a_demotion_and_only_to_a_graver_word() -> None:
    """The whole table: every stored word, every word of a verdict, every reachability, every lifecycle."""
    for before, word, reach, life in product(Word, Word, Reachability, Lifecycle):
        found = is_demotion(stored(before), verdict(word, reach, life))

        is_own_view = reach in {Reachability.UNREACHABLE, Reachability.UNKNOWN, Reachability.OFFLINE}
        is_said_by_it = WORD_OF_REACHABILITY.get(reach) is word
        is_graver = PRECEDENCE.index(word) < PRECEDENCE.index(before)
        assert found == (life is Lifecycle.ACTIVE and is_own_view and is_said_by_it and is_graver)
        assert not found or word in BAD
        assert not found or before not in {Word.MAINTENANCE, Word.DRAINING}


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        (verdict(Word.STALLED), True),
        (verdict(Word.DEGRADED), True),
        (verdict(Word.NOT_READY), True),  # its nanny says failed
        (verdict(Word.NOT_READY, Reachability.UNREACHABLE), True),  # failed, and its probe fails
        (verdict(Word.NOT_READY, Reachability.OFFLINE, Lifecycle.STOPPED), True),
        (verdict(Word.DRAINING, Reachability.OFFLINE, Lifecycle.DRAINING), True),
        (verdict(Word.MAINTENANCE, Reachability.UNREACHABLE, Lifecycle.MAINTENANCE), True),
        (GONE, False),
        (OFFLINE, False),
        (verdict(Word.UNKNOWN, Reachability.UNKNOWN), False),
    ],
)
def test_what_a_node_or_a_person_says_passes(said: Verdict, passes: bool) -> None:
    assert is_demotion(stored(Word.READY), said) is not passes


def test_what_was_written_before_the_threshold_goes_no_further() -> None:
    assert is_demotion(stored(Word.UNREACHABLE), OFFLINE)
    assert not is_demotion(stored(Word.UNREACHABLE), GONE)


@pytest.mark.parametrize("before", list(Standing))
def test_maintenance_draining_and_stopped_nodes_never_count(before: Standing) -> None:
    for life in (Lifecycle.MAINTENANCE, Lifecycle.DRAINING, Lifecycle.STOPPED):
        assert standing_of(verdict(Word.NOT_READY, Reachability.OFFLINE, life), before) is Standing.ASIDE
        assert standing_of_stored(stored(Word.NOT_READY, life)) is Standing.ASIDE


@pytest.mark.parametrize(
    ("counts", "is_on"),
    [
        (Counts(fleet=20, in_reach=10, turned=10), True),
        (Counts(fleet=19, in_reach=0, turned=19), False),
        (Counts(fleet=20, in_reach=11, turned=9), False),
        (Counts(fleet=20, in_reach=9, turned=9), False),  # all the others were gone before
        (Counts(fleet=100, in_reach=51, turned=49), False),
        (Counts(fleet=100, in_reach=50, turned=50), True),
        (Counts(fleet=100, in_reach=70, turned=30), False),  # a rack
        (Counts(fleet=100, in_reach=10, turned=10), True),  # 80 were gone long before
        (Counts(fleet=0, in_reach=0, turned=0), False),
    ],
)
def test_the_threshold_on_both_sides(counts: Counts, is_on: bool) -> None:
    brake, change = decide(Brake(), counts, 7.0, LIMITS, may_release=True)

    assert brake == (Brake(is_on=True, since_at=7.0) if is_on else Brake())
    assert change is (BrakeChange.ON if is_on else None)


@pytest.mark.parametrize(
    ("counts", "is_off"),
    [
        (Counts(fleet=100, in_reach=75, turned=25), False),
        (Counts(fleet=100, in_reach=76, turned=24), True),
        (Counts(fleet=20, in_reach=15, turned=5), False),
        (Counts(fleet=20, in_reach=16, turned=4), True),
        (Counts(fleet=19, in_reach=0, turned=19), True),
    ],
)
def test_it_is_released_well_below_the_threshold(counts: Counts, is_off: bool) -> None:
    on = Brake(is_on=True, since_at=1.0)

    calm, change = decide(on, counts, 9.0, LIMITS, may_release=True)

    assert (calm, change) == (replace(on, calm_since_at=9.0 if is_off else None), None)
    assert decide(calm, counts, 33.9, LIMITS, may_release=True)[1] is None
    assert decide(calm, counts, 34.0, LIMITS, may_release=True)[1] is (BrakeChange.OFF if is_off else None)


def test_it_is_released_only_after_each_node_has_had_its_turn_in_an_unbroken_calm() -> None:
    """Else those that are probed last, in a fleet that comes back, would be demoted at the release."""
    calm, gone = Counts(fleet=100, in_reach=90, turned=10), Counts(fleet=100, in_reach=50, turned=50)
    brake = Brake(is_on=True, since_at=1.0)
    for now, counts in ((10.0, calm), (30.0, calm), (31.0, gone), (32.0, calm), (56.0, calm)):
        brake, change = decide(brake, counts, now, LIMITS, may_release=True)
        assert (brake.is_on, change) == (True, None)

    assert decide(brake, calm, 57.0, LIMITS, may_release=True) == (Brake(since_at=57.0), BrakeChange.OFF)


def test_a_brake_of_an_earlier_process_stays_until_the_server_has_listened() -> None:
    on = Brake(is_on=True)

    assert decide(on, Counts(0, 0, 0), 9.0, LIMITS, may_release=False) == (on, None)


def test_a_lifted_brake_is_off_for_so_long_and_then_decides_anew() -> None:
    all_gone = Counts(fleet=50, in_reach=0, turned=50)
    lifted = lift(10.0, 60.0)

    assert not lifted.is_on
    assert decide(lifted, all_gone, 69.9, LIMITS, may_release=True) == (lifted, None)
    ended, change = decide(lifted, all_gone, 70.0, LIMITS, may_release=True)
    assert (ended, change) == (Brake(since_at=70.0), BrakeChange.LIFT_ENDED)
    assert decide(ended, all_gone, 70.0, LIMITS, may_release=True)[1] is BrakeChange.ON


def test_the_reason_names_the_numbers_and_the_suspect() -> None:
    assert reason_of(Counts(30, 10, 12), LIMITS) == (
        "12 of 22 nodes that were in reach went out of reach within 300 s: the server suspects itself"
    )


def tallied(*judged: tuple[str, Word, Verdict]) -> FleetTally:
    tally = FleetTally()
    for node_id, word, said in judged:
        tally.note(node_id, stored(word), said, 0.0)
    return tally


def test_a_node_that_was_gone_before_this_server_looked_has_not_turned() -> None:
    assert tallied(("a", Word.UNREACHABLE, GONE), ("b", Word.NOT_READY, OFFLINE)).counts() == Counts(2, 0, 0)


def test_a_node_that_is_awaited_counts_as_its_row_says() -> None:
    awaited = verdict(Word.NOT_READY, Reachability.AWAITED)
    tally = tallied(("a", Word.NOT_READY, awaited), ("b", Word.READY, verdict(reach=Reachability.AWAITED)))
    tally.note("a", stored(Word.NOT_READY), OFFLINE, 100.0)
    tally.note("b", stored(Word.READY), OFFLINE, 100.0)

    assert tally.counts() == Counts(fleet=2, in_reach=0, turned=1)
    assert tally.turned() == ("b",)


def test_a_new_node_cannot_be_lost_but_one_between_two_lives_can() -> None:
    pending = verdict(Word.PENDING, Reachability.UNPROVEN)
    tally = tallied(("new", Word.PENDING, pending), ("reborn", Word.READY, READY))
    tally.note("reborn", stored(Word.READY), pending, 1.0)
    for node_id in ("new", "reborn"):
        tally.note(node_id, stored(Word.PENDING), GONE, 2.0)

    assert tally.turned() == ("reborn",)


def test_a_node_that_came_back_has_not_turned() -> None:
    tally = tallied(("a", Word.READY, GONE))
    tally.note("a", stored(Word.UNREACHABLE), READY, 1.0)

    assert tally.counts() == Counts(fleet=1, in_reach=1, turned=0)


def test_turning_ages_out_of_the_window_and_the_node_stays_gone() -> None:
    tally = tallied(("a", Word.READY, GONE))
    tally.note("b", stored(), GONE, 50.0)
    tally.age_out(50.0)
    tally.note("a", stored(Word.UNREACHABLE), OFFLINE, 60.0)

    assert tally.turned() == ("b",)
    assert tally.counts() == Counts(fleet=2, in_reach=0, turned=1)


def test_what_people_accepted_as_gone_does_not_count_again() -> None:
    tally = tallied(("a", Word.READY, GONE))
    tally.accept()
    tally.note("a", stored(Word.READY), GONE, 1.0)

    assert tally.counts() == Counts(fleet=1, in_reach=0, turned=0)


def test_a_forgotten_node_is_in_no_number() -> None:
    tally = tallied(("a", Word.READY, GONE), ("b", Word.READY, READY))
    tally.forget("a")
    tally.forget("a")

    assert tally.counts() == Counts(fleet=1, in_reach=1, turned=0)


SAID = st.sampled_from(
    [
        READY,
        GONE,
        OFFLINE,
        verdict(Word.STALLED),
        verdict(Word.PENDING, Reachability.UNPROVEN),
        verdict(Word.UNKNOWN, Reachability.UNKNOWN),
        verdict(Word.READY, Reachability.AWAITED),
        verdict(Word.MAINTENANCE, Reachability.UNREACHABLE, Lifecycle.MAINTENANCE),
        verdict(Word.NOT_READY, Reachability.REACHABLE, Lifecycle.STOPPED),
    ]
)
HAPPENING = st.one_of(
    st.tuples(st.just("judged"), st.integers(0, 29), SAID),
    st.tuples(st.just("all"), st.sampled_from([19, 20, 30]), SAID),
    st.tuples(st.just("forgotten"), st.integers(0, 29)),
    st.tuples(st.just("passed"), st.sampled_from([0.0, 1.0, 299.0, 301.0])),
    st.tuples(st.just("lifted"), st.sampled_from([1.0, 600.0])),
)


@given(st.lists(HAPPENING, max_size=60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_over_any_course_of_events(happenings: Sequence[tuple[Any, ...]], may_release: bool) -> None:
    """The numbers agree with a plain count, a small fleet has no brake, and each change has its ground."""
    tally, brake, now = FleetTally(), Brake(), 0.0
    rows = {f"n{number}": stored(Word.PENDING) for number in range(30)}
    noted: dict[str, Verdict] = {}
    for happening in happenings:
        match happening:
            case ("judged", number, said):
                judged = {f"n{number}": said}
            case ("all", number, said):
                judged = {f"n{one}": said for one in range(number)}
            case ("forgotten", number):
                judged = {}
                tally.forget(f"n{number}")
                noted.pop(f"n{number}", None)
            case ("passed", seconds):
                judged, now = {}, now + seconds
            case ("lifted", for_s):
                judged, brake = {}, lift(now, for_s)
                tally.accept()
        for node_id, said in judged.items():
            tally.note(node_id, rows[node_id], said, now)
            noted[node_id] = said
        if not brake.is_on:
            tally.age_out(now - LIMITS.window_s)
        counts = tally.counts()
        before = brake
        brake, change = decide(brake, counts, now, LIMITS, may_release=may_release)
        for node_id, said in judged.items():
            if not (brake.is_on and is_demotion(rows[node_id], said)):
                rows[node_id] = replace(rows[node_id], word=said.word)

        aside = sum(said.lifecycle is not Lifecycle.ACTIVE for said in noted.values())
        assert counts.fleet == len(noted) - aside
        assert counts.in_reach + counts.turned <= counts.fleet
        assert all(
            rests_on_reach(noted[one]) or noted[one].reachability is Reachability.AWAITED
            for one in tally.turned()
        )
        assert not (brake.is_on and brake.lifted_until_at is not None)
        if change is BrakeChange.ON:
            assert is_tripped(counts, LIMITS)
            assert counts.fleet >= LIMITS.fleet
        if change is BrakeChange.OFF:
            assert is_calm(counts, LIMITS)
            assert may_release
        if counts.fleet < LIMITS.fleet and not before.is_on:
            assert not brake.is_on
        assert (change is None) == (replace(before, calm_since_at=None) == replace(brake, calm_since_at=None))
