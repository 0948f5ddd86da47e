"""Ends the worker when its nanny has been gone for long; a service of its own, only where that is configured.

By default a worker goes on without its nanny, under the condition `NannyGone`: killing healthy workers because
their supervisor is being upgraded is worse than any orphan. What is observed is that beats reach nobody.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.services import Progress
    from agent.vitals.thread import Vitals

_LOOK_INTERVAL_S = 0.5


class NannyWatch:
    """Counts how long beats have reached nobody."""

    def __init__(self, vitals: Vitals, orphan_timeout_s: float, on_orphaned: Callable[[], None]) -> None:
        """Call `on_orphaned` after `orphan_timeout_s` of unheard beats."""
        self._vitals = vitals
        self._orphan_timeout_s = orphan_timeout_s
        self._on_orphaned = on_orphaned

    async def run(self, progress: Progress) -> None:
        """Look, for ever."""
        gone_since: float | None = None
        while True:
            progress.touch()
            now = time.monotonic()
            if not self._vitals.beats_unheard:
                gone_since = None
            elif gone_since is None:
                gone_since = now
            elif now - gone_since >= self._orphan_timeout_s:
                structlog.get_logger().warning("the nanny is gone", for_s=round(now - gone_since, 1))
                self._on_orphaned()
            await asyncio.sleep(_LOOK_INTERVAL_S)
