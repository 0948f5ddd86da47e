"""Conditions last, events pass, and one look convinces nobody but where it is conclusive."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.conditions import Conditions, ConditionType, Debounce, Reading, observe
from nanny.protocol.messages import Condition, ConditionStatus, WorkerReport, from_wire, to_wire

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
KIND = ConditionType.GPU_LOST
DEBOUNCE = {KIND: Debounce(raise_after=2, clear_after=3, boot_grace_s=100.0)}
LETTERS = {"T": TRUE, "F": FALSE, "U": UNKNOWN}


def reading(status: ConditionStatus, *, is_conclusive: bool = False, reason: str = "R") -> Reading:
    return Reading(KIND, status, reason, f"it is {status}", is_conclusive)


def watch(looks: Iterable[Reading], uptime_s: float = 1000.0) -> tuple[str, list[str], Conditions]:
    """Statuses after each look, as letters; changes as before>after; what holds at the end."""
    conditions, held, changes = Conditions(), "", list[str]()
    for now, look in enumerate(looks):
        conditions, changed = observe(conditions, [look], float(now), uptime_s, DEBOUNCE)
        held += conditions.current[KIND].status[0] if KIND in conditions.current else "-"
        changes += [f"{c.before.status[0] if c.before else '-'}>{c.after.status[0]}" for c in changed]
    return held, changes, conditions


@pytest.mark.parametrize(
    ("looks", "held", "changes"),
    [
        ("FFF", "FFF", []),
        ("T", "-", []),
        ("TT", "-T", ["->T"]),
        ("FTFTFT", "FFFFFF", []),
        ("FTT", "FFT", ["F>T"]),
        ("TTFFTFFF", "-TTTTTTF", ["->T", "T>F"]),
        ("TTUUU", "-TTTU", ["->T", "T>U"]),
        ("U", "U", ["->U"]),
        ("UF", "UF", ["->U", "U>F"]),
        ("FUUU", "FFFU", ["F>U"]),
        ("TTTTTT", "-TTTTT", ["->T"]),
    ],
)
def test_it_takes_so_many_looks_in_a_row(looks: str, held: str, changes: list[str]) -> None:
    assert watch(reading(LETTERS[letter]) for letter in looks)[:2] == (held, changes)


def test_nothing_is_raised_in_the_grace_after_a_boot_and_at_once_after_it() -> None:
    conditions = Conditions()
    for now in range(10):
        conditions, changed = observe(conditions, [reading(TRUE)], float(now), 50.0, DEBOUNCE)
        assert (KIND in conditions.current, changed) == (False, ())
    conditions, changed = observe(conditions, [reading(TRUE)], 60.0, 110.0, DEBOUNCE)
    assert [change.after.since_at for change in changed] == [60.0]


def test_a_conclusive_look_needs_no_second_and_no_grace() -> None:
    held, changes, _ = watch([reading(TRUE, is_conclusive=True)], uptime_s=0.0)
    assert (held, changes) == ("T", ["->T"])


def test_a_later_look_renews_the_message_but_not_the_time() -> None:
    looks = [reading(TRUE), reading(TRUE), reading(TRUE, reason="Worse")]
    condition = watch(looks)[2].current[KIND]
    assert (condition.reason, condition.since_at) == ("Worse", 1.0)


def test_a_type_without_a_reading_keeps_what_it_has() -> None:
    before = watch([reading(TRUE), reading(TRUE)])[2]
    assert observe(before, [], 99.0, 1000.0, DEBOUNCE) == (before, ())


def test_on_the_wire_it_has_an_age_and_no_instant() -> None:
    part = watch([reading(TRUE), reading(TRUE)])[2].current[KIND].to_wire_part(11.0)
    assert part == Condition("GpuLost", TRUE, "R", "it is True", 10.0)
    report = WorkerReport(seq=1, loop_lag_s=0.0, telemetry={}, conditions=(part,))
    assert from_wire(to_wire(report)) == report


@given(st.text("TFU", max_size=40))
def test_true_is_held_only_after_two_true_looks_in_a_row(looks: str) -> None:
    held = watch(reading(LETTERS[letter]) for letter in looks)[0]
    for at, now_held in enumerate(held):
        if now_held == "T" and (at == 0 or held[at - 1] != "T"):
            assert looks[at - 1 : at + 1] == "TT"
        if now_held != "T" and at > 0 and held[at - 1] == "T":
            assert set(looks[at - 2 : at + 1]) == {looks[at]}


@given(st.text("TFU", max_size=40))
def test_an_event_is_told_exactly_when_what_holds_changes(looks: str) -> None:
    held, changes, _ = watch(reading(LETTERS[letter]) for letter in looks)
    moves = [f"{a}>{b}" for a, b in zip("-" + held, held, strict=False) if a != b]
    assert changes == [move for move in moves if move != "->F"]
