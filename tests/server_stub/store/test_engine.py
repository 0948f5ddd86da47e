"""The database on a real SQLite file: pragmas, transactions, writers that meet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from server_stub import events
from server_stub.store.engine import Database, sqlite_url
from server_stub.store.tables import EventRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncSession


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(sqlite_url(str(tmp_path / "x.sqlite3")))
    yield opened
    await opened.close()


async def number_of_events(database: Database) -> int:
    async with database.reading() as session:
        return (await session.scalar(select(func.count()).select_from(EventRow))) or 0


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("busy_timeout", 10000), ("synchronous", 2)],
)
async def test_each_connection_is_configured(database: Database, pragma: str, value: object) -> None:
    async with database.reading() as session:
        assert await session.scalar(text(f"PRAGMA {pragma}")) == value


async def test_what_a_block_writes_is_there_for_the_next_process(database: Database, tmp_path: Path) -> None:
    async with database.writing() as session:
        events.append(session, 1.0, "a", None)

    other = await Database.open(sqlite_url(str(tmp_path / "x.sqlite3")))
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


async def test_two_processes_may_write_at_once_and_none_fails(database: Database, tmp_path: Path) -> None:
    other = await Database.open(sqlite_url(str(tmp_path / "x.sqlite3")))

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
        async with asyncio.timeout(5):
            assert await number_of_events(database) == 0


@pytest.mark.parametrize("conflict", [StaleDataError(), IntegrityError("", {}, Exception())])
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
