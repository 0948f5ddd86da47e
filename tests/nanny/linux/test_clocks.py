"""One reading holds all three clocks of one moment."""

import time

from nanny.linux.clocks import Clock, Reading, SystemClock


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
