import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.common.backoff import RETRY_AFTER_LIMIT_S, Backoff

BACKOFF = Backoff(base_s=1.0, ceiling_s=60.0)
ALMOST_ONE = math.nextafter(1.0, 0.0)
UNIT = st.floats(0.0, 1.0, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "window_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10**9, 60.0), (0, 1.0)]
)
def test_window_doubles_up_to_the_ceiling(attempt: int, window_s: float) -> None:
    assert BACKOFF.window_s(attempt) == window_s


@given(attempt=st.integers(1, 10**6), unit_random=UNIT)
def test_wait_lies_in_the_whole_window(attempt: int, unit_random: float) -> None:
    wait_s = BACKOFF.next(attempt, unit_random)

    assert 0.0 <= wait_s <= BACKOFF.window_s(attempt)


def test_jitter_is_full() -> None:
    assert BACKOFF.next(4, 0.0) == 0.0
    assert BACKOFF.next(4, 0.5) == 4.0
    assert BACKOFF.next(4, ALMOST_ONE) == pytest.approx(8.0)


@given(retry_after_s=st.floats(0.0, 10**6), unit_random=UNIT, attempt=st.integers(1, 50))
def test_nobody_comes_back_before_the_time_that_the_server_asked_for(
    retry_after_s: float, unit_random: float, attempt: int
) -> None:
    asked_s = min(retry_after_s, RETRY_AFTER_LIMIT_S)

    wait_s = BACKOFF.next(attempt, unit_random, retry_after_s)

    assert asked_s <= wait_s <= asked_s + max(asked_s / 2, BACKOFF.window_s(attempt))


def test_a_fleet_sent_away_together_comes_back_spread() -> None:
    waits_s = [BACKOFF.next(1, node / 1000, 30.0) for node in range(1000)]

    assert max(waits_s) - min(waits_s) > 14.0


@pytest.mark.parametrize("retry_after_s", [-1.0, math.nan])
def test_a_time_that_is_none_is_disregarded(retry_after_s: float) -> None:
    assert BACKOFF.next(2, 0.5, retry_after_s) == BACKOFF.next(2, 0.5)


def test_an_endless_time_is_cut_to_an_hour() -> None:
    assert BACKOFF.next(1, 0.0, math.inf) == RETRY_AFTER_LIMIT_S


@pytest.mark.parametrize(
    ("base_s", "ceiling_s", "factor"),
    [(0.0, 1.0, 2.0), (2.0, 1.0, 2.0), (1.0, 2.0, 0.5), (math.nan, 1.0, 2.0)],
)
def test_numbers_that_describe_no_growth_are_refused(base_s: float, ceiling_s: float, factor: float) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(base_s, ceiling_s, factor)
