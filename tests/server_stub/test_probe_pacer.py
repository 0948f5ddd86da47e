"""The pacer on real time with short intervals: every node's turn, never two checks of one node."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from server_stub.clock import SystemClock
from server_stub.probe_pacer import LATE_S, ProbePacer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ClockOfTheTest:
    """Time that moves when the test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Running:
    """A check under way."""

    def __init__(self, checks: Checks, node_id: str) -> None:
        self._checks = checks
        self._node_id = node_id

    def cancel(self) -> None:
        self._checks.under_way.pop(self._node_id)


class Checks:
    """Counts checks; a check lasts as long as the test wants."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.under_way: dict[str, Running] = {}
        self.most_at_once = 0
        self.are_held = False
        self.without_address: set[str] = set()
        self.changed = asyncio.Condition()
        self._woken: set[asyncio.Task[None]] = set()
        self.pacer: ProbePacer

    def __call__(self, node_id: str) -> Running | None:
        assert node_id not in self.under_way
        self.begun[node_id] += 1
        waking = asyncio.create_task(self._wake())
        self._woken.add(waking)
        waking.add_done_callback(self._woken.discard)
        if node_id in self.without_address:
            return None
        self.under_way[node_id] = Running(self, node_id)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        if not self.are_held:
            asyncio.get_running_loop().call_soon(self.end, node_id)
        return self.under_way[node_id]

    def end(self, node_id: str) -> None:
        if self.under_way.pop(node_id, None) is not None:
            self.ended[node_id] += 1
            self.pacer.ended(node_id)

    def end_all(self) -> None:
        self.are_held = False
        for node_id in list(self.under_way):
            self.end(node_id)

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, node_id: str, begun: int) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.begun[node_id] >= begun)


@asynccontextmanager
async def pacing(checks: Checks, interval_s: float, concurrency: int = 100) -> AsyncIterator[ProbePacer]:
    pacer = checks.pacer = ProbePacer(checks, SystemClock(), interval_s, concurrency)
    running = asyncio.create_task(pacer.run())
    try:
        yield pacer
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_each_watched_node_is_checked_again_and_again() -> None:
    checks = Checks()
    async with pacing(checks, 0.05) as pacer:
        for name in "abc":
            pacer.watch(name)
        for name in "abc":
            await checks.until(name, 3)

    assert set(checks.begun) == {"a", "b", "c"}


async def test_a_check_asked_for_at_once_does_not_wait_for_its_turn() -> None:
    checks = Checks()
    async with pacing(checks, 3600.0) as pacer:
        pacer.watch("a")
        pacer.check_now("a")
        await checks.until("a", 1)

    assert checks.begun == {"a": 1}


async def test_a_check_asked_for_at_once_replaces_the_one_under_way() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 3600.0) as pacer:
        pacer.check_now("a")
        await checks.until("a", 1)
        pacer.check_now("a")
        await checks.until("a", 2)

    assert checks.ended["a"] == 0


async def test_a_check_that_overran_its_turns_is_not_doubled() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 0.02) as pacer:
        pacer.watch("slow")
        pacer.watch("b")
        await checks.until("slow", 1)
        await asyncio.sleep(0.1)
        assert checks.begun["slow"] == 1
        checks.end_all()
        await checks.until("slow", 2)


async def test_checks_under_way_are_bounded() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 3600.0, concurrency=3) as pacer:
        for number in range(10):
            pacer.check_now(f"n{number}")
        await checks.until("n0", 1)
        await asyncio.sleep(0.05)
        assert checks.most_at_once == 3
        checks.end_all()
        for number in range(10):
            await checks.until(f"n{number}", 1)


async def test_a_soon_check_comes_before_the_turn_and_never_delays_it() -> None:
    checks = Checks()
    async with pacing(checks, 3600.0) as pacer:
        pacer.watch("a")
        pacer.check_in("a", 0.01)
        pacer.check_in("a", 3000.0)
        await checks.until("a", 1)


async def test_the_end_cancels_checks_under_way() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 3600.0) as pacer:
        pacer.check_now("a")
        await checks.until("a", 1)

    assert checks.under_way == {}


async def test_a_node_that_is_unwatched_is_checked_no_more() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 0.02) as pacer:
        pacer.watch("gone")
        pacer.watch("there")
        await checks.until("gone", 1)
        pacer.unwatch("gone")
        assert "gone" not in checks.under_way
        checks.end_all()
        await checks.until("there", 3)

    assert checks.begun["gone"] == 1
    assert len(pacer) == 1


async def test_a_node_with_nothing_to_check_keeps_its_turns() -> None:
    checks = Checks()
    checks.without_address = {"mute"}
    async with pacing(checks, 0.02) as pacer:
        pacer.watch("mute")
        await checks.until("mute", 3)

    assert checks.ended["mute"] == 0


async def test_who_waits_for_room_is_checked_once_however_often_it_was_asked_for() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 3600.0, concurrency=1) as pacer:
        pacer.check_now("first")
        await checks.until("first", 1)
        for _ in range(3):
            pacer.check_now("second")
            await asyncio.sleep(0)
        checks.end_all()
        await checks.until("second", 1)
        pacer.check_now("third")
        await checks.until("third", 1)

    assert checks.begun == {"first": 1, "second": 1, "third": 1}


async def test_nobody_waits_for_room_in_vain_though_checks_are_cancelled() -> None:
    checks = Checks()
    checks.are_held = True
    async with pacing(checks, 3600.0, concurrency=1) as pacer:
        pacer.check_now("first")
        await checks.until("first", 1)
        pacer.check_now("second")
        pacer.unwatch("first")
        await checks.until("second", 1)

    assert checks.most_at_once == 1


async def test_a_check_that_begins_long_after_its_turn_is_counted_as_late() -> None:
    clock = ClockOfTheTest()
    begun = asyncio.Event()

    def begin(_node_id: str) -> None:
        begun.set()

    pacer = ProbePacer(begin, clock, 15.0, 10)
    pacer.watch("a")
    clock.now += 15.0 + LATE_S
    running = asyncio.create_task(pacer.run())
    async with asyncio.timeout(20):
        await begun.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

    assert (pacer.take_late(), pacer.take_late()) == (1, 0)
