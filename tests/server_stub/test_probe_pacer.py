"""The pacer on real time with short intervals: every node's turn, never two checks of one node."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from server_stub.clock import SystemClock
from server_stub.probe_pacer import ProbePacer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Checks:
    """Counts checks; a check lasts as long as the test wants."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.most_at_once = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.changed = asyncio.Condition()

    async def __call__(self, node_id: str) -> None:
        self.begun[node_id] += 1
        self.under_way[node_id] += 1
        self.most_at_once = max(self.most_at_once, self.under_way.total())
        assert self.under_way[node_id] == 1
        async with self.changed:
            self.changed.notify_all()
        try:
            await self.may_end.wait()
            self.ended[node_id] += 1
        finally:
            self.under_way[node_id] -= 1

    async def until(self, node_id: str, begun: int) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.begun[node_id] >= begun)


@asynccontextmanager
async def pacing(checks: Checks, interval_s: float, concurrency: int = 100) -> AsyncIterator[ProbePacer]:
    pacer = ProbePacer(checks, SystemClock(), interval_s, concurrency)
    running = asyncio.create_task(pacer.run())
    yield pacer
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
    checks.may_end.clear()
    async with pacing(checks, 3600.0) as pacer:
        pacer.check_now("a")
        await checks.until("a", 1)
        pacer.check_now("a")
        await checks.until("a", 2)

    assert checks.ended["a"] == 0


async def test_a_check_that_overran_its_turns_is_not_doubled() -> None:
    checks = Checks()
    checks.may_end.clear()
    async with pacing(checks, 0.02) as pacer:
        pacer.watch("slow")
        pacer.watch("b")
        await checks.until("slow", 1)
        await asyncio.sleep(0.1)
        assert checks.begun["slow"] == 1
        checks.may_end.set()
        await checks.until("slow", 2)


async def test_checks_under_way_are_bounded() -> None:
    checks = Checks()
    checks.may_end.clear()
    async with pacing(checks, 3600.0, concurrency=3) as pacer:
        for number in range(10):
            pacer.check_now(f"n{number}")
        await checks.until("n0", 1)
        await asyncio.sleep(0.05)
        assert checks.most_at_once == 3
        checks.may_end.set()
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
    checks.may_end.clear()
    async with pacing(checks, 3600.0) as pacer:
        pacer.check_now("a")
        await checks.until("a", 1)

    assert checks.under_way["a"] == 0
