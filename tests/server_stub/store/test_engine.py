"""The database, both kinds: settings, transactions, writers that meet."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from server_stub import events
from server_stub.store.engine import Database, sqlite_url
from server_stub.store.tables import EventRow

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncSession


async def number_of_events(database: Database) -> int:
    async with database.reading() as session:
        return (await session.scalar(select(func.count()).select_from(EventRow))) or 0


@pytest.mark.parametrize(
    ("database_kind", "asked", "value"),
    [
        ("sqlite", "PRAGMA journal_mode", "wal"),
        ("sqlite", "PRAGMA foreign_keys", 1),
        ("sqlite", "PRAGMA busy_timeout", 10000),
        ("sqlite", "PRAGMA synchronous", 2),
        ("postgresql", "SHOW statement_timeout", "10s"),
        ("postgresql", "SHOW idle_in_transaction_session_timeout", "10s"),
        ("postgresql", "SHOW transaction_isolation", "repeatable read"),
        ("postgresql", "SHOW transaction_read_only", "on"),
        ("postgresql", "SHOW application_name", "nodenanny-server"),
    ],
    indirect=["database_kind"],
)
async def test_each_connection_is_configured(database: Database, asked: str, value: object) -> None:
    async with database.reading() as session:
        assert await session.scalar(text(asked)) == value


async def test_what_a_block_writes_is_there_for_the_next_process(
    database: Database, database_url: str
) -> None:
    async with database.writing() as session:
        events.append(session, 1.0, "a", None)

    other = await Database.open(database_url)
    assert await number_of_events(other) == 1
    await other.close()


async def test_an_error_in_the_block_undoes_all_of_it(database: Database) -> None:
    async def fail_late() -> None:
        async with database.writing() as session:
            events.append(session, 1.0, "a", None)
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_late()

    assert await number_of_events(database) == 0


async def test_many_tasks_may_write_at_once_and_none_fails(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.writing() as session:
            events.append(session, float(number), "a", None)

    await asyncio.gather(*(write(number) for number in range(50)))

    assert await number_of_events(database) == 50


async def test_two_processes_may_write_at_once_and_none_fails(database: Database, database_url: str) -> None:
    other = await Database.open(database_url)

    async def write(to: Database) -> None:
        async with to.writing() as session:
            events.append(session, 1.0, "a", None)

    await asyncio.gather(*(write(to) for to in (database, other) for _ in range(25)))
    await other.close()

    assert await number_of_events(database) == 50


async def test_a_reader_is_not_held_up_by_a_writer(database: Database) -> None:
    async with database.writing() as session:
        events.append(session, 1.0, "a", None)
        await session.flush()
        async with asyncio.timeout(20):
            assert await asyncio.create_task(number_of_events(database)) == 0


class PostgresError(Exception):
    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    "conflict",
    [
        StaleDataError(),
        IntegrityError("", {}, Exception()),
        DBAPIError("", {}, PostgresError("40001")),
        DBAPIError("", {}, PostgresError("40P01")),
    ],
    ids=["stale", "integrity", "serialization", "deadlock"],
)
async def test_a_change_that_met_another_writer_is_run_again_three_times_at_most(
    database: Database, conflict: Exception
) -> None:
    tries = 0

    async def change(session: AsyncSession) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            events.append(session, 1.0, "undone", None)
            raise conflict
        return tries

    assert await database.write(change) == 3
    assert database.conflicts_total == 2
    assert await number_of_events(database) == 0

    async def always(_session: AsyncSession) -> None:
        raise conflict

    with pytest.raises(type(conflict)):
        await database.write(always)


async def test_a_cancelled_writer_is_cancelled_and_the_next_one_has_its_turn(database: Database) -> None:
    waiting = asyncio.Event()

    async def write_for_ever() -> None:
        async with database.writing() as session:
            events.append(session, 1.0, "undone", None)
            await session.flush()
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_for_ever())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with database.writing() as session:
        events.append(session, 2.0, "a", None)
    assert await number_of_events(database) == 1


async def test_a_writer_cancelled_at_any_await_is_cancelled_and_never_told_that_the_database_is_gone(
    database: Database,
) -> None:
    """Cancelled after 1, 2, 3, … turns of the loop, through begin, insert and commit, until one ends by itself."""
    done = 0

    async def write() -> None:
        nonlocal done
        async with database.writing() as session:
            events.append(session, 1.0, "a", None)
        done += 1

    turns = 0
    while not done:
        task = asyncio.create_task(write())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
            if task.done():
                break
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        turns += 1

    async with database.writing() as session:
        events.append(session, 2.0, "a", None)
    assert database.failures_total == 0


async def test_events_are_numbered_in_the_order_of_their_commits(
    database: Database, database_url: str
) -> None:
    """Else a reader that asks for "all after seq" would step over what an earlier number commits later."""
    other = await Database.open(database_url)
    first_wrote, first_may_end = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with database.writing() as session:
            events.append(session, 1.0, "first", None)
            await session.flush()
            first_wrote.set()
            await first_may_end.wait()

    async def second() -> None:
        async with other.writing() as session:
            events.append(session, 2.0, "second", None)

    async def seen_after(seq: int) -> list[tuple[int, str]]:
        async with database.reading() as session:
            query = select(EventRow.seq, EventRow.type).where(EventRow.seq > seq).order_by(EventRow.seq)
            return [(row.seq, row.type) for row in await session.execute(query)]

    slow = asyncio.create_task(first())
    await first_wrote.wait()
    fast = asyncio.create_task(second())
    done, _ = await asyncio.wait({fast}, timeout=0.3)
    assert not done  # it has to wait for its turn
    assert await seen_after(0) == []
    first_may_end.set()
    await asyncio.gather(slow, fast)

    assert [type_ for _, type_ in await seen_after(0)] == ["first", "second"]
    await other.close()


async def test_a_reader_with_a_cursor_misses_nothing_of_what_two_servers_write(
    database: Database, database_url: str
) -> None:
    other = await Database.open(database_url)
    cursor, seen = 0, []

    async def write(to: Database, name: str) -> None:
        for number in range(30):
            async with to.writing() as session:
                events.append(session, 1.0, f"{name}{number}", None)
                await session.flush()
                await asyncio.sleep(0)
                if number % 5 == 4:
                    await session.rollback()  # leaves a hole in PostgreSQL's numbers

    async def read() -> None:
        nonlocal cursor
        async with database.reading() as session:
            query = select(EventRow.seq, EventRow.type).where(EventRow.seq > cursor).order_by(EventRow.seq)
            for row in await session.execute(query):
                seen.append(row.type)
                cursor = row.seq

    writers = [
        asyncio.create_task(write(to, name)) for to, name in ((database, "a"), (other, "b"), (other, "c"))
    ]
    while not all(writer.done() for writer in writers):
        await read()
    await asyncio.gather(*writers)
    await read()

    async with database.reading() as session:
        all_types = list(await session.scalars(select(EventRow.type).order_by(EventRow.seq)))
    assert seen == all_types
    assert len(seen) == 3 * 24
    await other.close()


async def test_a_reading_session_sees_one_state(database: Database) -> None:
    async with database.reading() as session:
        before = await session.scalar(select(func.count()).select_from(EventRow))

        async def write() -> None:
            async with database.writing() as writer:
                events.append(writer, 1.0, "a", None)

        await asyncio.create_task(write())
        assert await session.scalar(select(func.count()).select_from(EventRow)) == before

    assert await number_of_events(database) == 1


async def test_no_thread_of_the_driver_outlives_a_closed_database(tmp_path: Path) -> None:
    """A statement whose task is cancelled, and cancelled again while it waits for the connection to close."""

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if "_connection_worker" in thread.name}

    before = threads()
    database = await Database.open(sqlite_url(str(tmp_path / "own.sqlite3")))
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4000000)"
    has_begun = asyncio.Event()

    async def count() -> None:
        async with database.reading() as session:
            has_begun.set()
            await session.execute(text(f"{numbers} SELECT count(*) FROM n"))

    task = asyncio.create_task(count())
    await has_begun.wait()
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()

    assert threads() <= before
