"""The loop's stamp: due while it turns, overdue while it doesn't, absent where no loop is watched."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from agent.vitals.loop_lag import LoopTick
from agent.vitals.stall_stack import stack_of

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def test_without_a_loop_there_is_no_lag() -> None:
    assert LoopTick().lag_s(1e9) is None


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_turning_loop_renews_the_stamp_and_names_its_thread(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    tick = LoopTick(0.01)

    async def turn() -> None:
        tick.attach(asyncio.get_running_loop())
        first = tick.due_at
        while tick.due_at == first or tick.thread_id is None:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(turn(), 10))
        assert tick.thread_id == threading.get_ident()
        tick.detach()

    assert tick.lag_s(1e9) is None


def test_a_loop_that_stands_still_lags_from_when_the_stamp_was_due() -> None:
    tick = LoopTick(0.2)
    tick.due_at = 100.0

    assert [tick.lag_s(99.0), tick.lag_s(103.0), tick.lag_s(103.0, since=102.0)] == [0.0, 3.0, 1.0]


def test_attaching_another_loop_ends_the_ticks_of_the_former() -> None:
    tick = LoopTick(0.001)

    async def turn(tick: LoopTick) -> None:
        tick.attach(asyncio.get_running_loop())
        await asyncio.sleep(0.02)

    asyncio.run(turn(tick))
    tick.attach(_Never())
    due_at = tick.due_at
    asyncio.run(asyncio.sleep(0.02))

    assert tick.due_at == due_at


def test_a_thread_is_found_where_it_stands_innermost_first() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stand_here() -> None:
        entered.set()
        leave.wait(30)

    thread = threading.Thread(target=stand_here)
    thread.start()
    try:
        assert entered.wait(10)
        deadline = time.monotonic() + 10
        while True:
            stack = stack_of(thread.ident or 0)
            assert stack is not None
            if "wait" in stack.stalled_at or time.monotonic() > deadline:
                break
    finally:
        leave.set()
        thread.join()

    assert stack.stalled_at.startswith("threading:")
    names = [line.split()[0] for line in stack.text.split("\n")]
    assert any(name.endswith("stand_here") for name in names)
    assert names[-1] == "Thread._bootstrap"


def test_a_thread_that_is_gone_stands_nowhere() -> None:
    assert stack_of(12345) is None


class _Never:
    """A loop that never turns."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle:
        raise AssertionError

    def call_soon_threadsafe(self, callback: Callable[[], None], /) -> None:
        return
