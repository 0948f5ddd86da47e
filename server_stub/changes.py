"""Who waits for what to change: a number for each subject that grows whenever something about it is new.

Readers that keep the number they saw can wait for a later one; nothing is lost between look and wait.
Numbers start from the wall clock in milliseconds, so a number seen before the server's restart is older
than all after it. The number of waiters is bounded. Knows nothing of nodes, commands or HTTP.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

WAITERS_LIMIT: Final = 2000

EVENTS: Final = "events"
"""The subject of the event log; all others are ids of nodes and commands."""
NODES: Final = "nodes"
"""The subject that changes whenever any node does."""


class TooManyWaiters(Exception):  # noqa: N818 (what it is, not what it does)
    """The bound is reached: the client is to come again."""


class Changes:
    """Revisions by subject, and futures of those who wait for the next one."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._newest = first
        self._revisions: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self.waiters = 0
        self.is_closed = False
        """The server is going: answer with what there is."""

    def revision(self, subject: str) -> int:
        """Give the subject's present number."""
        return self._revisions.get(subject, self._first)

    def mark(self, subjects: Iterable[str]) -> None:
        """Say that these subjects changed."""
        for subject in subjects:
            self._newest += 1
            self._revisions[subject] = self._newest
            self._wake(subject)

    async def wait_beyond(self, subject: str, revision: int, timeout_s: float) -> None:
        """Return when the subject's number is another than `revision`, after `timeout_s`, or at `close`.

        Raises:
            TooManyWaiters: the bound is reached.
        """
        if timeout_s <= 0 or self.is_closed or self.revision(subject) != revision:
            return
        if self.waiters >= WAITERS_LIMIT:
            raise TooManyWaiters
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(subject, set()).add(future)
        self.waiters += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(future, timeout_s)
        finally:
            self.waiters -= 1
            futures = self._waiting.get(subject)
            if futures is not None:
                futures.discard(future)
                if not futures:
                    del self._waiting[subject]

    def forget(self, subject: str) -> None:
        """This subject has changed for the last time: keep nothing of it.

        Its number becomes one that nobody has seen before, as does that of all subjects without one of their own.
        """
        self._newest += 1
        self._first = self._newest
        self._revisions.pop(subject, None)

    def close(self) -> None:
        """Wake everyone, for good: the server is going."""
        self.is_closed = True
        for subject in list(self._waiting):
            self._wake(subject)

    def _wake(self, subject: str) -> None:
        for future in self._waiting.pop(subject, ()):
            if not future.done():
                future.set_result(None)
