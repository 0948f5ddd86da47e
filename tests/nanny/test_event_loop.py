"""The loop's promises, tried with real descriptors and a clock of our own."""

import os
from collections.abc import Callable, Iterator

import pytest

from nanny.event_loop import REST_S, DeadlineSource, EventLoop
from nanny.linux.clocks import Reading


class HandClock:
    """Moves only by hand, and by a step with each reading if told so."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.suspended_s = 0.0

    def read(self) -> Reading:
        return Reading(self.monotonic_s, self.monotonic_s + self.suspended_s, 0.0)


class Once:
    """A deadline that is served once; `do` is called then."""

    def __init__(self, told: "Told", at: float, do: Callable[[float], object]) -> None:
        self._at: float | None = at
        self._do = do
        told.loop.add_source(DeadlineSource(lambda: self._at, self._due))

    def _due(self, now: float) -> None:
        self._at = None
        self._do(now)


class Told:
    """What a loop told."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.late: list[float] = []
        self.away: list[float] = []
        self.errors: list[str] = []
        self.loop = EventLoop(self.clock, 1.0, self.late.append, self.away.append)
        self.loop.on_error = lambda what, error: self.errors.append(f"{what}: {error}")


@pytest.fixture
def told(leaves_nothing_behind: None) -> Iterator[Told]:
    made = Told()
    yield made
    made.loop.close()


@pytest.fixture
def pipe(leaves_nothing_behind: None) -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


def test_what_is_ready_is_served_before_what_is_due(told: Told, pipe: tuple[int, int]) -> None:
    order: list[str] = []
    told.loop.watch(pipe[0], lambda: order.append(os.read(pipe[0], 9).decode()))
    Once(told, 1000.5, lambda _: order.append("due"))
    os.write(pipe[1], b"beat")
    told.clock.monotonic_s = 1000.5
    told.loop.turn()
    assert order == ["beat", "due"]


def test_a_deadline_is_never_served_before_its_time(told: Told) -> None:
    served: list[float] = []
    Once(told, 1000.000_5, served.append)
    told.loop.turn()
    assert served == []
    told.clock.monotonic_s = 1000.001
    told.loop.turn()
    assert served == [1000.001]


def test_a_late_timer_is_told_before_anything_is_served(told: Told) -> None:
    order: list[str] = []
    Once(told, 1000.0, lambda _: order.append(f"due, late {told.late}"))
    told.clock.monotonic_s = 1003.0
    told.loop.turn()
    assert order == ["due, late [3.0]"]


def test_a_deadline_that_fell_due_while_a_turn_took_its_time_was_late(
    told: Told, pipe: tuple[int, int]
) -> None:
    def take_time() -> None:
        os.read(pipe[0], 1)
        told.clock.monotonic_s += 0.75

    told.loop.watch(pipe[0], take_time)
    os.write(pipe[1], b"a")
    told.loop.turn()
    Once(told, 1000.25, lambda _: None)
    told.loop.turn()
    assert (told.loop.latest_s, told.late) == (0.5, [])


def test_a_turn_that_stood_still_in_the_middle_is_late_too_and_drains_again(
    told: Told, pipe: tuple[int, int]
) -> None:
    """SIGSTOP may meet us in a callback; the beats that came meanwhile are served before any deadline."""
    order: list[str] = []

    def stand_still() -> None:
        order.append(os.read(pipe[0], 1).decode())
        if order == ["a"]:
            told.clock.monotonic_s += 5.0
            os.write(pipe[1], b"b")

    told.loop.watch(pipe[0], stand_still)
    Once(told, 1001.0, lambda _: order.append("due"))
    os.write(pipe[1], b"a")
    told.loop.turn()
    assert order == ["a", "b", "due"]
    assert told.late == [5.0]


def test_time_in_suspend_is_told_as_being_away(told: Told) -> None:
    told.clock.suspended_s = 3600.0
    told.loop.add_source(DeadlineSource(lambda: 1000.0, lambda _: None))
    told.loop.turn()
    assert told.away == [3600.0]
    told.loop.turn()
    assert told.away == [3600.0]


def test_a_clock_that_steps_back_moves_nothing_back(told: Told) -> None:
    told.loop.add_source(DeadlineSource(lambda: 999.0, lambda _: None))
    told.clock.monotonic_s = 990.0
    told.loop.turn()
    assert told.loop.now == 1000.0


def test_a_callback_that_raises_is_told_and_its_descriptor_rests(told: Told, pipe: tuple[int, int]) -> None:
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise ValueError("oh no")

    told.loop.watch(pipe[0], broken)
    told.loop.add_source(DeadlineSource(lambda: told.loop.now, lambda _: None))
    os.write(pipe[1], b"x")
    for _ in range(5):
        told.loop.turn()
    assert (len(calls), told.errors, told.loop.errors_total) == (1, ["descriptor: oh no"], 1)
    told.clock.monotonic_s += REST_S
    told.loop.turn()
    assert len(calls) == 2, "a second later it is tried again"
    told.loop.unwatch(pipe[0])
    told.clock.monotonic_s += REST_S
    told.loop.turn()
    assert len(calls) == 2


def test_a_resting_number_may_be_watched_anew(told: Told, pipe: tuple[int, int]) -> None:
    def broken() -> None:
        raise ValueError

    heard: list[bytes] = []
    told.loop.watch(pipe[0], broken)
    told.loop.add_source(DeadlineSource(lambda: told.loop.now, lambda _: None))
    os.write(pipe[1], b"x")
    told.loop.turn()
    told.loop.unwatch(pipe[0])
    told.loop.watch(pipe[0], lambda: heard.append(os.read(pipe[0], 9)))
    told.loop.turn()
    told.clock.monotonic_s += REST_S
    told.loop.turn()
    assert (heard, told.loop.errors_total) == ([b"x"], 1)


def test_a_deadline_that_raises_rests_and_the_others_are_served(told: Told) -> None:
    calls: list[str] = []

    def broken(_now: float) -> None:
        calls.append("broken")
        raise ValueError("oh no")

    told.loop.add_source(DeadlineSource(lambda: 1000.0, broken))
    told.loop.add_source(DeadlineSource(lambda: told.loop.now, lambda _: calls.append("whole")))
    for _ in range(3):
        told.loop.turn()
    assert calls == ["broken", "whole", "whole", "whole"]
    told.clock.monotonic_s += REST_S
    told.loop.turn()
    assert calls[-2:] == ["broken", "whole"]


def test_a_source_that_can_not_say_its_deadline_ends_nothing(told: Told) -> None:
    def broken() -> float | None:
        raise ZeroDivisionError

    served: list[float] = []
    told.loop.add_source(DeadlineSource(broken, lambda _: None))
    told.loop.add_source(DeadlineSource(lambda: told.loop.now, served.append))
    told.loop.turn()
    assert (len(served), told.loop.errors_total) == (1, 1)
