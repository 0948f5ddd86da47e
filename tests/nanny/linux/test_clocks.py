"""One reading holds all three clocks of one moment."""

import time
from pathlib import Path

from nanny.linux.clocks import Clock, OffsetClock, Reading, SystemClock


def test_a_reading_lies_between_two_looks_at_each_clock() -> None:
    clock: Clock = SystemClock()
    before = Reading(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    reading = clock.read()
    after = Reading(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    assert before.monotonic_s <= reading.monotonic_s <= after.monotonic_s
    assert before.boottime_s <= reading.boottime_s <= after.boottime_s
    assert abs(reading.wall_s - before.wall_s) < 60  # wall time may be stepped, but is the same epoch


def test_boottime_is_never_behind_monotonic() -> None:
    reading = SystemClock().read()
    assert reading.boottime_s >= reading.monotonic_s - 0.001


def test_offsets_move_wall_time_and_boottime_and_never_the_monotonic_clock(tmp_path: Path) -> None:
    offsets = tmp_path / "offsets"
    clock: Clock = OffsetClock(str(offsets))
    for text, wall_s, boottime_s in (
        ("", 0, 0),
        ("3600 0", 3600, 0),
        ("-3600 600", -3600, 600),
        ("x", -3600, 600),
    ):
        offsets.write_text(text)
        real, reading = SystemClock().read(), clock.read()
        assert abs(reading.wall_s - real.wall_s - wall_s) < 60
        assert abs(reading.boottime_s - real.boottime_s - boottime_s) < 60
        assert abs(reading.monotonic_s - real.monotonic_s) < 60
