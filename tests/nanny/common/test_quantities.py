"""Durations and instants as people write and read them."""

import pytest

from nanny.common.quantities import duration, instant, parse_duration, size, utc

NOON = 1777636800.0
"""2026-05-01T12:00:00Z"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90.0), ("90s", 90.0), ("40ms", 0.04), ("30m", 1800.0), ("2h", 7200.0), ("1d", 86400.0), ("1h30m", 5400.0), ("1.5h", 5400.0), (" 5 min", 300.0)],
)  # fmt: skip
def test_a_duration_is_read_as_people_write_it(text: str, expected: float) -> None:
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "0", "-5s", "5x", "m", "1..5s", ".", "nan", "inf", "1e3", "5s!", "٣s", "9" * 400]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "0 ms"), (-1.0, "0 ms"), (0.0364, "36 ms"), (0.9999, "1.0 s"), (1.26, "1.3 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (250, "4 min 10 s"), (3600, "1 h"), (11100, "3 h 5 min"), (187200, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_is_told_in_two_units_at_most(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "0 B"), (812, "812 B"), (3482, "3.4 KiB"), (200 << 20, "200 MiB"), (5 << 40, "5.12e+03 GiB")])  # fmt: skip
def test_a_size_is_told_in_binary_units(count: int, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2h", NOON - 7200), ("2026-05-01T12:00", NOON), ("2026-05-01 12:00:30Z", NOON + 30), ("2026-05-01T12:00:00.123Z", NOON), ("2026-05-01", NOON - 43200)],
)  # fmt: skip
def test_an_instant_is_ago_or_utc(text: str, expected: float) -> None:
    assert instant(text, NOON) == expected


def test_what_is_no_instant_is_refused_with_examples() -> None:
    with pytest.raises(ValueError, match="2h for two hours ago"):
        instant("yesterday", NOON)


def test_wall_time_is_told_in_utc() -> None:
    assert utc(NOON) == "2026-05-01 12:00:00Z"
