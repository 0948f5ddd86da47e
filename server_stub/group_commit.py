"""Many small changes in one transaction: what comes while a commit is under way is committed with the next one.

A commit costs a disk's sync, whatever is in it. So a fleet whose outcomes come in at once costs a few of them
and not one for each. Each caller waits for the commit that holds its change, and gets that change's result or
its error: if a group fails, each change of it is run again alone. Changes must bear to be run again, as those
of `Database.write` must. Knows nothing of what is changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.store.engine import Database

T = TypeVar("T")

MOST: Final = 200
"""Changes in one transaction: other writers wait for so many at most."""


class GroupCommit:
    """One queue of changes to one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Callable[[AsyncSession], Awaitable[Any]], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, change: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `change` in a transaction, with others that wait for one; gives its result once it is committed.

        Raises:
            Exception: what the change, or the database, raised.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
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
            if len(group) == 1 or not await self._committed_together(group):
                for change, future in group:
                    await self._commit_alone(change, future)

    async def _committed_together(
        self, group: list[tuple[Callable[[AsyncSession], Awaitable[Any]], asyncio.Future[Any]]]
    ) -> bool:
        try:
            async with self._database.writing() as session:
                results = [await change(session) for change, _ in group]
        except Exception:
            return False
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)
        return True

    async def _commit_alone(
        self, change: Callable[[AsyncSession], Awaitable[Any]], future: asyncio.Future[Any]
    ) -> None:
        try:
            result = await self._database.write(change)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
