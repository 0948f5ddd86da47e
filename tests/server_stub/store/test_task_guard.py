"""The rules of sessions: one task each, one at a time in a task, and no network inside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from server_stub import events
from server_stub.store.task_guard import outside_transactions

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.store.engine import Database


async def use(session: AsyncSession, how: str) -> None:
    match how:
        case "statement":
            await session.execute(text("SELECT 1"))
        case "flush":
            events.append(session, 1.0, "a", None)
            await session.flush()
        case "commit":
            await session.commit()


@pytest.mark.parametrize("how", ["statement", "flush", "commit"])
async def test_a_session_is_used_by_the_task_that_opened_it_alone(database: Database, how: str) -> None:
    async with database.writing() as session:
        with pytest.raises(AssertionError, match="a task that did not open it"):
            await asyncio.create_task(use(session, how))

    async with database.writing() as session:
        await use(session, "statement")
        await use(session, "flush")


async def test_two_tasks_that_gather_over_one_session_are_stopped(database: Database) -> None:
    async with database.reading() as session:
        with pytest.raises(AssertionError):
            await asyncio.gather(use(session, "statement"), use(session, "statement"))


@pytest.mark.parametrize("way", ["reading", "writing"])
async def test_no_wait_for_the_network_inside_a_session(database: Database, way: str) -> None:
    async with database.reading() if way == "reading" else database.writing():
        with pytest.raises(AssertionError, match="a probe inside a database session"):
            outside_transactions("a probe")

    outside_transactions("a probe")


async def test_other_tasks_are_free_to_wait_meanwhile(database: Database) -> None:
    async def probe() -> str:
        outside_transactions("a probe")
        return "done"

    async with database.writing():
        assert await asyncio.create_task(probe()) == "done"


async def test_a_task_has_one_session_at_a_time(database: Database) -> None:
    async def nested() -> None:
        async with database.writing(), database.writing():
            raise AssertionError("two transactions at once in one task")

    async with asyncio.timeout(20):
        with pytest.raises(AssertionError, match="a second session"):
            await nested()
    await read_one(database)


async def read_one(database: Database) -> None:
    async with database.reading() as session:
        await session.execute(text("SELECT 1"))


async def test_an_error_inside_leaves_no_mark_behind(database: Database) -> None:
    async def fail() -> None:
        async with database.writing():
            raise ZeroDivisionError

    for attempt in (fail(), asyncio.wait_for(fail(), 20)):
        with pytest.raises(ZeroDivisionError):
            await attempt
    outside_transactions("a probe")


def test_outside_any_task_nothing_is_forbidden() -> None:
    async def inside() -> None:
        outside_transactions("a probe")

    job: Awaitable[None] = inside()
    assert asyncio.run(asyncio.wait_for(job, 20)) is None
