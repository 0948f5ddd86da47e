"""Commands in a real database: what nodes tell of them, many at once, and what is still queued."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from server_stub.core.command_lifecycle import CommandState, IllegalTransition
from server_stub.store import commands
from server_stub.store.commands import CommandRecord, KeyReused, Moved, News, Wanted
from server_stub.store.events import Query
from server_stub.store.events import read as read_events

if TYPE_CHECKING:
    from server_stub.store.engine import Database

BLANK = CommandRecord(
    id="c-0",
    node_id="node-0",
    rollout_id=None,
    batch_id=None,
    kind="restart",
    reason="a test",
    actor="tester",
    target_incarnation=None,
    parameters={"why": "x"},
    time_to_live_s=60.0,
    idempotency_key=None,
    fingerprint="f",
    state=CommandState.QUEUED,
    detail="",
    incarnation_after=None,
    created_wall_at=100.0,
    expires_wall_at=160.0,
    sent_wall_at=None,
    accepted_wall_at=None,
    finished_wall_at=None,
)


def drafts(count: int) -> list[CommandRecord]:
    return [replace(BLANK, id=f"c-{number:04}", node_id=f"node-{number}") for number in range(count)]


def news(number: int, after: CommandState, detail: str = "", node: int | None = None) -> News:
    return News(f"c-{number:04}", f"node-{number if node is None else node}", after, 200.0, detail)


async def stored(database: Database, count: int) -> None:
    async with database.writing() as session:
        await commands.submit(session, drafts(count))


async def told(database: Database, *said: News) -> list[Moved]:
    async with database.writing() as session:
        return await commands.take_news(session, said)


async def states(database: Database) -> list[str]:
    async with database.reading() as session:
        found = await commands.newest(session, Wanted(), 10_000)
    return [record.state for record in reversed(found)]


async def types(database: Database, node_id: str) -> list[str]:
    async with database.reading() as session:
        return [event.type for event in await read_events(session, Query(node_id=node_id, limit=100))]


async def test_what_is_stored_is_read_as_it_was(database: Database) -> None:
    await stored(database, 3)
    async with database.reading() as session:
        found = await commands.find(session, "c-0001")

    assert found == drafts(3)[1]


async def test_more_than_fit_one_statement_are_stored_found_and_moved(database: Database) -> None:
    count = 2 * commands.CHUNK + 1
    await stored(database, count)
    async with database.writing() as session:
        ids = {record.id for record in drafts(count)}
        moved = await commands.move_queued(session, ids, CommandState.SENT, 150.0)
        again = await commands.move_queued(session, ids, CommandState.SENT, 151.0)
    async with database.reading() as session:
        left = await commands.undelivered(session, [f"node-{number}" for number in range(count)])
        by_id = await commands.find_many(session, ids)
    moves = await told(database, *(news(number, CommandState.DONE) for number in range(count)))

    assert (moved, again) == (ids, set())
    assert [record.id for record in left] == sorted(ids)
    assert {record.sent_wall_at for record in by_id.values()} == {150.0}
    assert set(moves) == {Moved.YES}
    assert set(await states(database)) == {"done"}


async def test_one_batch_may_tell_of_one_command_more_than_once(database: Database) -> None:
    await stored(database, 2)
    moves = await told(
        database,
        news(0, CommandState.ACCEPTED),
        news(0, CommandState.ACCEPTED),
        news(0, CommandState.DONE, "first"),
        news(0, CommandState.ACCEPTED),
        news(0, CommandState.DONE, "again"),
        news(0, CommandState.FAILED, "other"),
        news(1, CommandState.DONE, node=0),
        news(7, CommandState.DONE),
    )
    async with database.reading() as session:
        found = await commands.find(session, "c-0000")

    assert moves == [
        Moved.YES,
        Moved.OLD_NEWS,
        Moved.YES,
        Moved.OLD_NEWS,
        Moved.OLD_NEWS,
        Moved.CONTRADICTION,
        Moved.NO_SUCH_COMMAND,
        Moved.NO_SUCH_COMMAND,
    ]
    assert found is not None
    assert (found.state, found.detail) == ("done", "first")
    assert (found.sent_wall_at, found.accepted_wall_at, found.finished_wall_at) == (200.0, 200.0, 200.0)
    assert await types(database, "node-0") == [
        "command.queued",
        "command.sent",
        "command.accepted",
        "command.done",
    ]
    assert await types(database, "node-1") == ["command.queued"]


async def test_a_queued_command_may_be_withdrawn_and_nothing_else(database: Database) -> None:
    await stored(database, 2)
    await told(database, news(1, CommandState.ACCEPTED))
    async with database.writing() as session:
        withdrawn = [await commands.withdraw(session, f"c-000{n}", 300.0, "not wanted") for n in (0, 0, 1, 9)]

    assert [(record and record.state, is_new) for record, is_new in withdrawn] == [
        ("superseded", True),
        ("superseded", False),
        ("accepted", False),
        (None, False),
    ]


async def test_what_is_queued_goes_only_where_the_table_lets_it(database: Database) -> None:
    await stored(database, 1)

    with pytest.raises(IllegalTransition):
        async with database.writing() as session:
            await commands.move_queued(session, ["c-0000"], CommandState.DONE, 300.0)


async def test_the_key_of_the_first_brings_back_all_of_them(database: Database) -> None:
    batch = [replace(record, batch_id="c-0000") for record in drafts(3)]
    batch[0] = replace(batch[0], idempotency_key="k")
    later = [replace(record, id=f"d{record.id}", batch_id="dc-0000") for record in batch[:2]]
    async with database.writing() as session:
        first = await commands.submit(session, batch)
        again = await commands.submit(session, later)

    assert first == (batch, True)
    assert again == (batch, False)
    with pytest.raises(KeyReused, match="this key made command c-0000"):
        async with database.writing() as session:
            await commands.submit(session, [replace(later[0], fingerprint="other")])
