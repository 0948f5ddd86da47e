"""The event log in a real database: order, filters, its old end, and how far sinks have come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nanny.protocol.messages import Role
from server_stub import events as log
from server_stub.store import events, nodes
from server_stub.store.events import Kept, Query
from tests.support.server_peers import hello

if TYPE_CHECKING:
    from server_stub.store.engine import Database

FIRST = (
    (100.0, "node.created", "n1"),
    (101.0, "node.state", "n1"),
    (102.0, "command.done", "n2"),
    (103.0, "node.state", "n2"),
    (104.0, "brake.on", None),
)


async def fill(database: Database, rows: tuple[tuple[float, str, str | None], ...] = FIRST) -> None:
    async with database.writing() as session:
        told = [
            {"wall_at": at, "type": type_, "node_id": node, "detail": {"at": at}} for at, type_, node in rows
        ]
        await log.append_many(session, told)


async def seqs(database: Database, **wanted: Any) -> list[int]:
    async with database.reading() as session:
        return [event.seq for event in await events.read(session, Query(**wanted))]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"after": 3}, [4, 5]),
        ({"after": 1, "before": 4}, [2, 3]),
        ({"limit": 2}, [1, 2]),
        ({"limit": 2, "newest_first": True}, [5, 4]),
        ({"type_prefixes": ("node.",)}, [1, 2, 4]),
        ({"type_prefixes": ("command.", "node.created")}, [1, 3]),
        ({"type_prefixes": ("node%",)}, []),
        ({"node_id": "n2"}, [3, 4]),
        ({"since_wall_at": 103.0}, [4, 5]),
        ({"until_wall_at": 103.0}, [1, 2, 3]),
        ({"type_prefixes": ("node.state",), "node_id": "n1", "since_wall_at": 101.0}, [2]),
    ],
)
async def test_a_reader_gets_what_it_asks_for_in_order(
    database: Database, wanted: dict[str, Any], expected: list[int]
) -> None:
    await fill(database)

    assert await seqs(database, **wanted) == expected


async def test_an_event_says_how_its_node_is_called_now(database: Database) -> None:
    async with database.writing() as session:
        await nodes.meet(session, hello(Role.LINK, "n1", node_name="Anna"), is_link=True, wall_at=1.0)
    await fill(database, ((2.0, "node.state", "n1"), (3.0, "node.state", "gone"), (4.0, "brake.on", None)))

    async with database.reading() as session:
        found = await events.read(session, Query(after=1))

    assert [(event.node_id, event.node_name) for event in found] == [
        ("n1", "Anna"),
        ("gone", None),
        (None, None),
    ]
    assert found[0].detail == {"at": 2.0}


async def test_an_empty_log_has_no_numbers(database: Database) -> None:
    async with database.reading() as session:
        assert await events.kept(session) == Kept(0, 0)
        assert await events.first_to_keep(session, 1e12, 1) is None


@pytest.mark.parametrize(
    ("kept", "after", "missed"),
    [
        (Kept(1, 9), 0, 0),
        (Kept(1, 9), 1, 0),
        (Kept(5, 9), 0, 0),
        (Kept(5, 9), 4, 0),
        (Kept(5, 9), 3, 1),
        (Kept(5, 9), 1, 3),
        (Kept(5, 9), 9, 0),
    ],
)
def test_a_reader_misses_what_lies_between_its_number_and_the_oldest(
    kept: Kept, after: int, missed: int
) -> None:
    assert kept.misses(after) == missed


@pytest.mark.parametrize(
    ("dropped_before", "limit", "expected"),
    [
        (0.0, 100, None),
        (100.0, 5, None),
        (102.0, 100, 3),
        (102.5, 100, 4),
        (999.0, 100, 5),
        (0.0, 2, 4),
        (0.0, 4, 2),
        (103.0, 4, 4),
        (101.0, 2, 4),
    ],
)
async def test_what_is_too_old_or_too_much_goes_and_the_newest_event_stays(
    database: Database, dropped_before: float, limit: int, expected: int | None
) -> None:
    await fill(database)

    async with database.reading() as session:
        assert await events.first_to_keep(session, dropped_before, limit) == expected


async def test_a_clock_that_was_set_back_drops_nothing_from_the_middle(database: Database) -> None:
    await fill(database, ((100.0, "a", None), (900.0, "b", None), (101.0, "c", None), (901.0, "d", None)))

    async with database.reading() as session:
        assert await events.first_to_keep(session, 500.0, 100) == 2


async def test_the_oldest_are_dropped_so_many_at_a_time(database: Database) -> None:
    await fill(database)

    async with database.writing() as session:
        assert await events.drop_before(session, 4, 2) == 2
    assert await seqs(database) == [3, 4, 5]
    async with database.writing() as session:
        assert await events.drop_before(session, 4, 2) == 1
    assert await seqs(database) == [4, 5]


async def test_numbers_of_dropped_events_are_never_given_again(database: Database) -> None:
    await fill(database)
    async with database.writing() as session:
        await events.drop_before(session, 99, 99)

    await fill(database)

    assert await seqs(database) == [6, 7, 8, 9, 10]


async def test_a_new_sink_begins_behind_the_newest_event_and_stays_there(database: Database) -> None:
    await fill(database)

    async def cursor() -> int:
        async with database.writing() as session:
            return await events.sink_cursor(session, "s")

    first = await cursor()
    await fill(database)

    assert (first, await cursor()) == (5, 5)


async def test_the_cursor_of_a_sink_never_goes_back(database: Database) -> None:
    await fill(database)
    async with database.writing() as session:
        await events.sink_cursor(session, "s")
        await events.sink_cursor(session, "other")
    for seq in (7, 6):
        async with database.writing() as session:
            await events.move_sink_cursor(session, "s", seq)

    async with database.writing() as session:
        cursors = [await events.sink_cursor(session, name) for name in ("s", "other")]

    assert cursors == [7, 5]
