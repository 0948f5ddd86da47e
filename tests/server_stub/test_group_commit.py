"""News that comes together is committed together, and each caller gets what is his."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text

from server_stub.group_commit import MOST, GroupCommit
from server_stub.store.engine import Database, sqlite_url
from server_stub.store.faults import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncSession


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(sqlite_url(str(tmp_path / "db.sqlite3")))
    async with opened.writing() as session:
        await session.execute(text("CREATE TABLE told (number INTEGER)"))
    yield opened
    await opened.close()


async def store(session: AsyncSession, numbers: Sequence[int]) -> list[int]:
    for number in numbers:
        await session.execute(text("INSERT INTO told VALUES (:number)"), {"number": number})
        if number < 0:
            raise ValueError(number)
    return [2 * number for number in numbers]


async def kept(database: Database) -> list[int]:
    async with database.reading() as session:
        return list(await session.scalars(text("SELECT number FROM told ORDER BY number")))


async def test_what_comes_together_is_few_commits(database: Database) -> None:
    commits = 0

    @event.listens_for(database.engine.sync_engine, "commit")
    def count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    group = GroupCommit(database, store)
    numbers = range(2 * MOST)
    results = await asyncio.gather(*(group.put(number) for number in numbers))

    assert results == [2 * number for number in numbers]
    assert commits <= 3
    assert await kept(database) == list(numbers)


async def test_one_that_fails_fails_alone(database: Database) -> None:
    group = GroupCommit(database, store)
    results = await asyncio.gather(*(group.put(number) for number in (1, -2, 3)), return_exceptions=True)

    assert [results[0], results[2]] == [2, 6]
    assert isinstance(results[1], ValueError)
    assert await kept(database) == [1, 3]


async def test_a_caller_who_has_gone_stops_nobody(database: Database) -> None:
    group = GroupCommit(database, store)
    gone = asyncio.create_task(group.put(1))
    stays = asyncio.create_task(group.put(2))
    await asyncio.sleep(0)
    gone.cancel()

    assert await stays == 4
    await group.close()
    assert await kept(database) == [1, 2]


async def test_a_database_that_does_not_answer_is_waited_for_once_and_not_by_each_in_turn(
    database: Database,
) -> None:
    tries = 0

    async def unavailable(_session: AsyncSession, numbers: Sequence[int]) -> list[int]:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable("no answer")

    group = GroupCommit(database, unavailable)
    found = await asyncio.gather(*(group.put(number) for number in range(50)), return_exceptions=True)

    assert [type(one) for one in found] == [DatabaseUnavailable] * 50
    assert tries == 1
