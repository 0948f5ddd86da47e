"""The database: one engine, short reading sessions, one writer at a time.

SQLite by file, or PostgreSQL by URL; what differs between them stands in `sqlite` and `postgresql`. Both
give the same promises: a reading session sees one state; a writing one is a transaction that no other
writer's overlaps, so events are numbered in the order of the commits. Writers of this process queue here
rather than at the database. A database that does not answer is `DatabaseUnavailable`, whatever its driver
calls that. Knows no table.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from enum import Enum, auto, unique
from typing import TYPE_CHECKING, Final, Self, TypeVar

from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from server_stub.store import postgresql, schema, sqlite
from server_stub.store.faults import DatabaseUnavailable, in_one_line, is_conflict, is_unavailable
from server_stub.store.task_guard import OwnedSession, session_open

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sqlalchemy.engine import URL, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

TRIES: Final = 3
TURN_TIMEOUT_S: Final = 60.0
"""A writer waits for the others of this process for so long: a fleet that returns at once makes a queue."""
ANSWERS_WITHIN_S: Final = 5.0
_WRITES: Final = {"nodenanny_writes": True}


@unique
class WriteEnd(Enum):
    """How a writing transaction ended."""

    COMMITTED = auto()
    CONFLICT = auto()
    """Another writer was faster; `write` tries again."""
    FAILED = auto()
    """By the database, not by what the change itself refused."""


class UnknownDatabase(Exception):  # noqa: N818 (what it is, not what it does)
    """The URL is of a database that this server has no words for."""


def sqlite_url(path: str) -> str:
    """Give the URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def database_kind(url: URL) -> str:
    """Give `sqlite` or `postgresql`.

    Raises:
        UnknownDatabase: it is neither.
    """
    kind = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if kind not in {"sqlite", "postgresql"}:
        raise UnknownDatabase(f"{kind} is not supported: a path, sqlite:///path or postgresql://…")
    return kind


class Database:
    """Sessions on one database. Each session belongs to one task."""

    def __init__(
        self,
        engine: AsyncEngine,
        lock: sqlite.FileLock | None = None,
        threads: sqlite.WorkerThreads | None = None,
    ) -> None:
        self.engine = engine
        self._lock = lock
        self._threads = threads
        reading = postgresql.READING if engine.dialect.name == "postgresql" else {}
        self._reading = _sessions(engine.execution_options(**reading))
        self._writing = _sessions(engine.execution_options(**_WRITES))
        self._writer_turn = asyncio.Lock()
        self.on_write: Callable[[WriteEnd, str], None] = lambda _end, _operation: None
        """Told how each writing transaction ended, and what it was for."""
        self.conflicts_total = 0
        """Transactions of `write` that met another writer's change and were tried again."""
        self.failures_total = 0
        """Sessions that ended because the database did not answer."""
        event.listen(engine.sync_engine, "handle_error", _translate)

    @classmethod
    async def open(cls, url: str, *, alone: bool = False) -> Self:
        """Open the database and bring its schema up to date.

        Args:
            url: `sqlite+aiosqlite:///path` or `postgresql://…`.
            alone: refuse a SQLite file that another server has open so.

        Raises:
            UnknownDatabase: neither SQLite nor PostgreSQL.
            FileInUse: another server works on this file.
            SchemaRefused: a newer server has changed the schema, or the tables are not ours.
            Exception: whatever the driver raises when it cannot connect.
        """
        where = make_url(url)
        if database_kind(where) == "postgresql":
            await _migrate(postgresql.make_migration_engine(where), keep=False)
            return cls(postgresql.make_engine(where))
        path = sqlite.file_of(where)
        lock = sqlite.FileLock(path) if alone and path is not None else None
        try:
            threads = sqlite.WorkerThreads()
            engine = sqlite.make_engine(where.set(drivername="sqlite+aiosqlite"), threads)
            await _migrate(engine, keep=True)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return cls(engine, lock, threads)

    async def close(self) -> None:
        """Close all connections; the last one out folds SQLite's log into the file."""
        try:
            await self.engine.dispose()
            if self._threads is not None:
                await self._threads.ended()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Give a session for reading; keep it short, and no network call inside.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        with self._counting(), session_open():
            async with self._reading() as session:
                await _begin(session)
                yield session

    @asynccontextmanager
    async def writing(self, operation: str = "other") -> AsyncIterator[AsyncSession]:
        """Give a session whose transaction ends with the block: committed, or rolled back by an error.

        Args:
            operation: what it is for, in one word, for whoever counts.

        Raises:
            DatabaseUnavailable: it does not answer. If that came at the end, the transaction may have been
                committed all the same.
        """
        try:
            with self._counting(), session_open():
                async with self._turn(), self._writing() as session, session.begin():
                    await _begin(session)
                    yield session
        except Exception as error:
            if is_conflict(error):
                self.on_write(WriteEnd.CONFLICT, operation)
            elif isinstance(error, DatabaseUnavailable | SQLAlchemyError):
                self.on_write(WriteEnd.FAILED, operation)
            raise
        self.on_write(WriteEnd.COMMITTED, operation)

    async def write(self, change: Callable[[AsyncSession], Awaitable[T]], operation: str = "other") -> T:
        """Run `change` in a transaction; again, three times at most, if another writer was faster.

        Raises:
            StaleDataError: a row was changed by others each time.
            IntegrityError: likewise, a row was inserted by others; or the change itself is wrong.
            DBAPIError: likewise, the database found the transactions in each other's way.
            DatabaseUnavailable: it does not answer. Not tried again: it may have been committed.
        """
        for _ in range(TRIES - 1):
            try:
                async with self.writing(operation) as session:
                    return await change(session)
            except Exception as error:
                if not is_conflict(error):
                    raise
                self.conflicts_total += 1
        try:
            async with self.writing(operation) as session:
                return await change(session)
        except Exception as error:
            if is_conflict(error):
                self.on_write(WriteEnd.FAILED, operation)
            raise

    async def answers(self) -> str | None:
        """Ask the database for a sign of life: None if it answers, else why it doesn't."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S), self.reading() as session:
                await session.execute(text("SELECT 1"))
        except TimeoutError:
            return f"no answer within {ANSWERS_WITHIN_S:g} s"
        except DatabaseUnavailable as error:
            return str(error)
        return None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await self._writer_turn.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(f"other writers took more than {TURN_TIMEOUT_S:g} s") from None
        try:
            yield
        finally:
            self._writer_turn.release()

    @contextmanager
    def _counting(self) -> Iterator[None]:
        try:
            yield
        except DatabaseUnavailable:
            self.failures_total += 1
            raise


def _sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False, sync_session_class=OwnedSession)


async def _begin(session: AsyncSession) -> None:
    """Take a connection and begin, so that what goes wrong with either is told from what the work does."""
    try:
        await session.connection()
    except Exception as error:
        if is_unavailable(error):
            raise DatabaseUnavailable(in_one_line(error)) from error
        raise


def _translate(context: ExceptionContext) -> None:
    if not isinstance(context.original_exception, Exception):
        return  # a cancelled task must see its cancellation, though the connection is lost by it
    if context.is_pre_ping:
        return  # the pool takes a new connection
    error: BaseException = context.sqlalchemy_exception or context.original_exception
    if not isinstance(error, Exception):
        return  # a cancellation costs its connection, too, and must stay what it is
    if context.is_disconnect or is_unavailable(error):
        raise DatabaseUnavailable(in_one_line(error)) from error


async def _migrate(engine: AsyncEngine, *, keep: bool) -> None:
    """Change the schema as the one writer, in one transaction; `keep` the engine unless that failed."""
    try:
        async with engine.execution_options(**_WRITES).begin() as connection:
            await connection.run_sync(schema.upgrade)
    except BaseException:
        await engine.dispose()
        raise
    if not keep:
        await engine.dispose()
