"""What is old is frozen after a while, and thawed at the end."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import TYPE_CHECKING

from server_stub import old_objects

if TYPE_CHECKING:
    import pytest


async def test_what_is_old_is_frozen_and_thawed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_objects, "FIRST_AFTER_S", 0.0)
    freezing = asyncio.create_task(old_objects.freeze_now_and_then())
    async with asyncio.timeout(60):
        while gc.get_freeze_count() == 0:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)
    freezing.cancel()
    with suppress(asyncio.CancelledError):
        await freezing

    assert gc.get_freeze_count() == 0
