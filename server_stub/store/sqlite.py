"""SQLite: one file, WAL, one server.

Writers take the write lock at BEGIN (IMMEDIATE), so a transaction never fails at its first write. A reader
sees one state for as long as its session lasts and waits for nobody. Two servers on one file would each
judge every node: `FileLock` lets the second one fail at its start, naming the first. fcntl(2);
https://sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import struct
from typing import TYPE_CHECKING, Any, Final, Self

import aiosqlite
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_TIMEOUT_S: Final = 10.0
POOL_SIZE: Final = 5
POOL_OVERFLOW: Final = 10
"""Readers beyond these wait for a connection, POOL_TIMEOUT_S at most."""
POOL_TIMEOUT_S: Final = 10.0
THREADS_END_BY_THEMSELVES_WITHIN_S: Final = 2.0
THREADS_END_WITHIN_S: Final = 10.0

_WHOLE_FILE: Final = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
"""struct flock with 64-bit offsets; an open-file-description lock wants pid 0."""


class FileInUse(Exception):  # noqa: N818 (what it is, not what it does)
    """Another server works on this file: the message names it."""


class FileLock:
    """Held from making to `release`, or to the end of the process, however it ends.

    An open-file-description lock: unlike a process's, it is not dropped when something else here closes
    the same file, and two servers in one process exclude each other, too.
    """

    def __init__(self, path: str) -> None:
        self.path = f"{path}.lock"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
            except BlockingIOError:
                holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "?"
                raise FileInUse(
                    f"{path} is in use by another server, process {holder}; one SQLite file serves one "
                    "server, replicas need PostgreSQL"
                ) from None
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Let the next server in. The file stays: to remove it would race with who has just opened it."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class WorkerThreads:
    """The driver's threads, one a connection: nobody else waits for that of a cancelled statement.

    Such a thread ends its statement after its engine was disposed of, and tells a loop that may be closed by then.
    """

    def __init__(self) -> None:
        self._connections: list[Any] = []

    def connect(self, *arguments: Any, **named: Any) -> aiosqlite.Connection:
        """Make a connection as the dialect would, and know its thread."""
        connection = aiosqlite.connect(*arguments, **named)
        _thread_of(connection).daemon = True
        self._connections = [*self._alive(), connection]
        return connection

    async def ended(self) -> None:
        """Return when all have ended, or after some seconds; one whose connection nobody closed is told to."""
        await self._wait(THREADS_END_BY_THEMSELVES_WITHIN_S)
        for connection in self._alive():
            connection.stop()
        await self._wait(THREADS_END_WITHIN_S)

    async def _wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        while self._alive() and loop.time() < give_up_at:  # noqa: ASYNC110 (a thread's end is no event)
            await asyncio.sleep(0.001)

    def _alive(self) -> list[Any]:
        return [connection for connection in self._connections if _thread_of(connection).is_alive()]


def _thread_of(connection: Any) -> Any:
    return getattr(connection, "_thread", connection)  # before 0.22 it was one itself


def file_of(url: URL) -> str | None:
    """Give the path of the file, None for a database in memory."""
    return None if url.database in {None, "", ":memory:"} else url.database


def make_engine(url: URL, threads: WorkerThreads) -> AsyncEngine:
    """Give an engine whose connections are configured; the file is made if it isn't there.

    Args:
        url: of the file, or of a database in memory.
        threads: gets those of all its connections.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    path = file_of(url)
    pool: dict[str, Any] = {}
    if path is not None:
        # The driver's thread outlives a failed first open, and then shouts at a closed loop.
        sqlite3.connect(path).close()
        pool = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW, "pool_timeout": POOL_TIMEOUT_S}
    engine = create_async_engine(
        url, connect_args={"timeout": BUSY_TIMEOUT_S, "async_creator_fn": threads.connect}, **pool
    )
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes too late and only before writes: ours is in _begin.
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


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("nodenanny_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
