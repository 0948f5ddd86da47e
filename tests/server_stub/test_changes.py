"""Waiting for change: nothing is lost between look and wait, and the waiters are bounded."""

from __future__ import annotations

import asyncio

import pytest

from server_stub import changes as module
from server_stub.changes import Changes, TooManyWaiters


async def test_a_change_before_the_wait_is_not_missed() -> None:
    changes = Changes(100)
    seen = changes.revision("a")
    changes.mark(["a"])

    async with asyncio.timeout(5):
        await changes.wait_beyond("a", seen, 60.0)

    assert changes.revision("a") > seen


async def test_a_change_of_the_subject_wakes_and_another_does_not() -> None:
    changes = Changes(100)
    waiting = asyncio.create_task(changes.wait_beyond("a", changes.revision("a"), 60.0))
    await asyncio.sleep(0)
    changes.mark(["b"])
    await asyncio.sleep(0)
    assert not waiting.done()

    changes.mark(["a"])

    async with asyncio.timeout(5):
        await waiting


async def test_a_wait_ends_with_its_time() -> None:
    changes = Changes(100)

    await changes.wait_beyond("a", changes.revision("a"), 0.01)

    assert changes.waiters == 0
    assert changes._waiting == {}


async def test_closing_wakes_everyone_and_nobody_waits_afterwards() -> None:
    changes = Changes(100)
    waiting = [asyncio.create_task(changes.wait_beyond(f"s{n}", 100, 60.0)) for n in range(5)]
    await asyncio.sleep(0)

    changes.close()

    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
        await changes.wait_beyond("s1", 100, 60.0)


async def test_a_later_process_never_gives_a_number_that_an_earlier_one_gave() -> None:
    before, after = Changes(1_000), Changes(61_000)
    for _ in range(100):
        before.mark(["a"])

    assert after.revision("a") > before.revision("a")


async def test_waiters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITERS_LIMIT", 1)
    changes = Changes(100)
    waiting = asyncio.create_task(changes.wait_beyond("a", 100, 60.0))
    await asyncio.sleep(0)

    with pytest.raises(TooManyWaiters):
        await changes.wait_beyond("a", 100, 60.0)

    changes.close()
    await waiting


async def test_a_subject_that_is_forgotten_between_look_and_wait_is_not_missed() -> None:
    changes = Changes(100)
    seen = changes.revision("never-marked-by-this-process")
    changes.mark(["never-marked-by-this-process"])
    changes.forget("never-marked-by-this-process")

    async with asyncio.timeout(5):
        await changes.wait_beyond("never-marked-by-this-process", seen, 60.0)
