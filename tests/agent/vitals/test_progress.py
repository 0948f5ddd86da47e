"""Progress points and announced work: ages in, ages out, with a total that no one exceeds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.vitals.progress import Expectation, Expectations, ProgressPoints


def test_an_age_counts_from_the_last_touch_and_never_before_since() -> None:
    points = ProgressPoints()
    point = points.add("reconcile", 30.0, critical=True)
    point.touched_at = 100.0

    assert [age.age_s for age in points.ages(110.0)] == [10.0]
    assert [age.age_s for age in points.ages(110.0, since=108.0)] == [2.0]
    assert [age.age_s for age in points.ages(99.0)] == [0.0]


def test_a_point_that_is_closed_is_watched_no_more() -> None:
    points = ProgressPoints()
    with points.add("a", 1.0, critical=False), points.add("b", 1.0, critical=True):
        assert [age.name for age in points.ages(0.0)] == ["a", "b"]

    assert points.ages(0.0) == ()


@pytest.mark.parametrize("name", ["", "a" * 49, "a:b", "a,b", "ä", "a b", "a\nb"])
def test_names_that_would_not_survive_the_beat_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="progress point"):
        ProgressPoints().add(name, 1.0, critical=False)


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan")])
def test_a_deadline_is_positive(deadline_s: float) -> None:
    with pytest.raises(ValueError, match="deadline_s"):
        ProgressPoints().add("a", deadline_s, critical=False)


def test_a_name_is_taken_once_and_places_are_bounded() -> None:
    points = ProgressPoints()
    for number in range(64):
        points.add(f"p{number}", 1.0, critical=False)

    with pytest.raises(ValueError, match="exists already"):
        points.add("p0", 1.0, critical=False)
    with pytest.raises(ValueError, match="64 points"):
        points.add("p64", 1.0, critical=False)


def test_work_is_announced_while_it_lasts_and_what_it_did_not_use_is_given_back() -> None:
    expectations = Expectations(600.0)

    with Expectation(expectations, 120.0, "loading") as granted_s:
        current = expectations.current(time.monotonic())
        left_s = expectations.left_s

    now = time.monotonic()
    assert granted_s == 120.0
    assert current is not None
    assert current[1] == "loading"
    assert 100.0 < current[0] <= 120.0
    assert left_s == 480.0
    assert expectations.current(now) is None
    assert expectations.left_s > 580.0
    assert now - 5.0 < expectations.over_since(now) <= now


def test_work_that_overruns_is_over_when_its_time_is() -> None:
    expectations = Expectations(600.0)
    with Expectation(expectations, 10.0, "loading"):
        later = time.monotonic() + 100.0

        assert expectations.current(later) is None
        assert later - 91.0 < expectations.over_since(later) < later - 89.0


def test_of_overlapping_spans_the_longest_is_told() -> None:
    expectations = Expectations(600.0)
    with Expectation(expectations, 100.0, "long"), Expectation(expectations, 10.0, "short"):
        assert (expectations.current(time.monotonic()) or (0, ""))[1] == "long"


@given(st.lists(st.floats(0, 1000), max_size=20))
def test_no_life_is_granted_more_than_its_total(timeouts: list[float]) -> None:
    expectations = Expectations(600.0)

    granted = [expectations.begin(Expectation(expectations, t, ""), t) for t in timeouts]

    assert sum(granted) <= 600.0 + 1e-6
    assert (expectations.refused_total > 0) == any(g < t for g, t in zip(granted, timeouts, strict=True))
