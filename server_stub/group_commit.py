"""Many small pieces of news in one transaction: what comes while a commit is under way goes with the next one.

A commit costs a disk's sync, whatever is in it, and a statement much the same for one row as for many. So a
fleet whose outcomes come in at once costs a few of each and not some for every node. Each caller waits for
the commit that holds its news, and gets its result or its error: if a group fails, each of it is stored again
alone. Storing must bear to be run again, as a change of `Database.write` must. Knows nothing of what is stored.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from server_stub.store.faults import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.store.engine import Database

N = TypeVar("N")
T = TypeVar("T")

MOST: Final = 500
"""In one transaction: other writers wait for so many at most."""


class GroupCommit(Generic[N, T]):
    """One queue of news to one database."""

    def __init__(
        self,
        database: Database,
        store: Callable[[AsyncSession, Sequence[N]], Awaitable[Sequence[T]]],
        operation: str = "commands",
    ) -> None:
        """Take what stores a sequence of news, and gives a result for each; `operation` is for the metrics."""
        self._database = database
        self._store = store
        self._operation = operation
        self._waiting: list[tuple[N, asyncio.Future[T]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, news: N) -> T:
        """Store this, with what else waits; gives its result once that is committed.

        Raises:
            Exception: what storing it, or the database, raised.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((news, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit_all(), name="group commit")
        return await future

    async def close(self) -> None:
        """Wait until what was taken is committed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _commit_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if len(group) == 1 or not await self._is_committed(group):
                for one in group:
                    await self._commit_alone(*one)

    async def _is_committed(self, group: Sequence[tuple[N, asyncio.Future[T]]]) -> bool:
        told = [news for news, _ in group]
        try:
            results = await self._database.write(lambda session: self._store(session, told), self._operation)
        except DatabaseUnavailable as error:
            for _, future in group:  # alone it would be the same, one wait after the other
                if not future.done():
                    future.set_exception(error)
            return True
        except Exception:
            return False  # whose it is, each alone will tell
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)
        return True

    async def _commit_alone(self, news: N, future: asyncio.Future[T]) -> None:
        try:
            [result] = await self._database.write(
                lambda session: self._store(session, [news]), self._operation
            )
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
