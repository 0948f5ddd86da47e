"""The database: one engine, short reading sessions, one writer at a time.

SQLite by file (WAL, foreign keys, busy_timeout); any other URL is taken as it is. Writers of this process
queue on a lock rather than poll on SQLite's, and take the write lock at BEGIN (IMMEDIATE), so a transaction
never fails at its first write. Knows no table but through their metadata. https://sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm.exc import StaleDataError

from server_stub.store.tables import Base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 10.0
TRIES: Final = 3


def sqlite_url(path: str) -> str:
    """Give the URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


class Database:
    """Sessions on one database. Each session belongs to one task."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._reading = async_sessionmaker(engine, expire_on_commit=False)
        self._writing = async_sessionmaker(
            engine.execution_options(nodenanny_writes=True), expire_on_commit=False
        )
        self._writer_turn = asyncio.Lock()
        self.conflicts_total = 0
        """Transactions of `write` that met another writer's change and were tried again."""

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the database and make what tables it lacks."""
        where = make_url(url)
        is_sqlite = where.get_backend_name() == "sqlite"
        if is_sqlite and where.database:
            # The driver's thread outlives a failed first open, and then shouts at a closed loop.
            sqlite3.connect(where.database).close()
        arguments: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}} if is_sqlite else {}
        engine = create_async_engine(url, **arguments)
        if is_sqlite:
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        database = cls(engine)
        try:
            async with engine.execution_options(nodenanny_writes=True).begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        except BaseException:
            await engine.dispose()
            raise
        return database

    async def close(self) -> None:
        """Close all connections; the last one out folds SQLite's log into the file."""
        await self.engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Give a session for reading; keep it short, and no network call inside."""
        async with self._reading() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """Give a session whose transaction ends with the block: committed, or rolled back by an error."""
        async with self._writer_turn, self._writing() as session, session.begin():
            yield session

    async def write(self, change: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `change` in a transaction; again, three times at most, if another writer was faster.

        Raises:
            StaleDataError: a row was changed by others each time.
            IntegrityError: likewise, a row was inserted by others; or the change itself is wrong.
        """
        for _ in range(TRIES - 1):
            try:
                async with self.writing() as session:
                    return await change(session)
            except (StaleDataError, IntegrityError):
                self.conflicts_total += 1
        async with self.writing() as session:
            return await change(session)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes too late and only before writes: ours is in _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged command survives a power cut, too
        "foreign_keys=ON",
        f"busy_timeout={int(BUSY_TIMEOUT_S * 1000)}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("nodenanny_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
