"""Real failures of both databases: which are the database's state, which are another writer's, which are bugs."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from server_stub.store.engine import Database, UnknownDatabase
from server_stub.store.faults import DatabaseUnavailable, is_conflict, is_unavailable
from server_stub.store.sqlite import FileInUse
from tests.support.processes import spawn_python

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Cluster

ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)


async def run(database: Database, *statements: str) -> None:
    async with database.writing() as session:
        for statement in statements:
            await session.execute(text(statement))


async def test_a_mistake_in_a_statement_is_a_bug_and_stays_one(database: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        await run(database, "SELECT no_such_column FROM nodes")

    assert not is_unavailable(raised.value)
    assert not is_conflict(raised.value)
    assert database.failures_total == 0


async def test_a_second_row_of_the_same_key_is_a_conflict(database: Database) -> None:
    insert = "INSERT INTO sinks (name, delivered_seq) VALUES ('a', 1)"
    await run(database, insert)

    with pytest.raises(IntegrityError) as raised:
        await run(database, insert)

    assert is_conflict(raised.value)
    assert not is_unavailable(raised.value)


async def test_a_foreign_database_is_refused_by_name() -> None:
    with pytest.raises(UnknownDatabase, match="mysql is not supported"):
        await Database.open("mysql://localhost/x")


async def test_it_says_whether_it_answers(database: Database) -> None:
    assert await database.answers() is None


@ON_SQLITE
async def test_a_full_disk_is_the_databases_state_and_undoes_the_transaction(database: Database) -> None:
    # SQLite's own limit answers as a full disk does: SQLITE_FULL.
    fill = "INSERT INTO events (wall_at, type, detail) SELECT 1, 'x', '{}' || hex(zeroblob(4000)) FROM json_each('[1,2,3,4,5]')"

    with pytest.raises(DatabaseUnavailable, match="full"):
        await run(database, "PRAGMA max_page_count = 150", *[fill] * 50)

    assert database.failures_total == 1
    async with database.reading() as session:
        assert await session.scalar(text("SELECT count(*) FROM events")) == 0


async def test_a_damaged_file_is_the_databases_state(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    path.write_bytes(b"not a database" * 1000)

    with pytest.raises(DBAPIError) as raised:
        await Database.open(f"sqlite:///{path}")

    assert is_unavailable(raised.value)


LOCK = """
import sys
from server_stub.store.sqlite import FileLock
lock = FileLock(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


async def test_a_second_server_on_one_file_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sqlite3")
    with spawn_python(LOCK, argv=(path,)) as first:
        assert await asyncio.to_thread(first.read_line, 60.0) == "locked"

        with pytest.raises(
            FileInUse, match=rf"x\.sqlite3 is in use by another server, process {first.pid}; .*PostgreSQL"
        ):
            await Database.open(f"sqlite:///{path}", alone=True)

    # The kernel has dropped the dead one's lock.
    await (await Database.open(f"sqlite:///{path}", alone=True)).close()


async def test_within_one_process_a_file_has_one_server_too_and_the_next_after_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3"
    first = await Database.open(url, alone=True)
    for _ in range(2):  # being refused takes nothing from the first
        with pytest.raises(FileInUse):
            await Database.open(url, alone=True)
    reader = await Database.open(url)
    await reader.close()
    with pytest.raises(FileInUse):
        await Database.open(url, alone=True)
    await first.close()

    second = await Database.open(url, alone=True)
    await second.close()


async def test_a_start_that_fails_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    path.write_bytes(b"not a database" * 1000)
    for _ in range(2):
        with pytest.raises(DBAPIError):
            await Database.open(f"sqlite:///{path}", alone=True)


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["SET LOCAL statement_timeout = 50", "SELECT pg_sleep(60)"], "statement timeout"),
        (["SELECT pg_terminate_backend(pg_backend_pid())"], "terminating connection"),
        (["SET TRANSACTION READ ONLY", "DELETE FROM events"], "read-only"),
    ],
    ids=["time is over", "connection is ended", "standby"],
)
async def test_what_is_postgresqls_state_is_said_so_and_the_next_session_works(
    database: Database, statements: list[str], says: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match=says):
        await run(database, *statements)

    assert database.failures_total == 1
    await run(database, "SELECT 1")


@ON_POSTGRESQL
async def test_connections_that_died_in_the_pool_are_replaced_unseen(
    database: Database, cluster: Cluster
) -> None:
    await asyncio.gather(*(database.answers() for _ in range(3)))
    name = database.engine.url.database

    await cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    await run(database, "SELECT 1")
    assert database.failures_total == 0


@ON_POSTGRESQL
async def test_a_writer_that_fell_silent_in_its_transaction_does_not_hold_the_others_up(
    database: Database, database_url: str
) -> None:
    frozen = await Database.open(database_url)

    async def fall_silent(is_silent: asyncio.Event, end: asyncio.Event) -> None:
        async with frozen.writing() as session:
            await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 200"))
            is_silent.set()
            await end.wait()

    is_silent, end = asyncio.Event(), asyncio.Event()
    silent = asyncio.create_task(fall_silent(is_silent, end))
    await is_silent.wait()

    await run(database, "SELECT 1")  # waits for the lock until PostgreSQL has ended its holder

    end.set()
    with pytest.raises(DatabaseUnavailable):
        await silent
    await frozen.close()


@ON_POSTGRESQL
async def test_a_database_that_is_not_there_is_not_opened(cluster: Cluster) -> None:
    for url in (
        cluster.url("no_such_database"),
        cluster.url("postgres").replace(cluster.directory, f"{cluster.directory}/nowhere"),
    ):
        with pytest.raises((DBAPIError, OSError)) as raised:
            await Database.open(url)
        assert is_unavailable(raised.value)


def test_sqlites_codes_are_told_apart_without_a_database() -> None:
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY_SNAPSHOT
    assert is_unavailable(busy)
    assert not is_unavailable(sqlite3.ProgrammingError("of Python's own"))
