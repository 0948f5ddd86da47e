"""The watch over the server's own loop: a loop that was held shows, one that was not doesn't."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from server_stub import loop_watch
from server_stub.log import configure
from server_stub.loop_watch import LoopWatch
from server_stub.metrics import Metrics

if TYPE_CHECKING:
    import pytest

HELD_S = 0.3


async def test_a_loop_that_was_held_shows_by_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "TOLD_EVERY", 10)
    metrics = Metrics()
    watch = LoopWatch(metrics, configure("error"))
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(loop_watch.TICK_S * 1.5)
    time.sleep(HELD_S)  # noqa: ASYNC251 (that is the trouble)
    async with asyncio.timeout(30):
        while metrics.value("loop_lag_seconds") == 0:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(loop_watch.TICK_S)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

    assert metrics.value("loop_lag_seconds") >= HELD_S - loop_watch.TICK_S
    assert watch.quantile(1.0) >= HELD_S - loop_watch.TICK_S
    assert watch.quantile(0.0) < HELD_S


def test_before_the_first_tick_there_is_no_lag() -> None:
    assert LoopWatch(Metrics(), configure("error")).quantile(0.99) == 0.0
