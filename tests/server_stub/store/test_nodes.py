"""Nodes in a real database: first words, registration, and rounds that lose no update."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from nanny.protocol.messages import Role
from server_stub.core.shards import shard_of
from server_stub.store import nodes
from server_stub.store.engine import Database
from server_stub.store.nodes import IdentityConflict, StateChange
from server_stub.store.tables import EventRow, NodeRow
from tests.support.server_peers import hello, life, registration

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.store.nodes import NodeRecord


async def meet(database: Database, node_id: str = "node-1", role: Role = Role.LINK, **changed: Any) -> bool:
    async with database.writing() as session:
        said = hello(role, node_id, **changed)
        return await nodes.meet(session, said, is_link=role is Role.LINK, wall_at=100.0)


async def many(database: Database, number: int) -> None:
    """Meet so many nodes at once, faster than one by one."""
    await meet(database, "n0")
    async with database.writing() as session:
        await session.execute(
            text(
                f"INSERT INTO nodes ({ALL_BUT_ID}, id) SELECT {ALL_BUT_ID}, 'n' || value FROM nodes, "
                + {
                    "sqlite": "json_each(:numbers)",
                    "postgresql": "json_array_elements_text(CAST(:numbers AS json))",
                }[session.get_bind().dialect.name]
            ),
            {"numbers": json.dumps(list(range(1, number)))},
        )


ALL_BUT_ID = ", ".join(column.name for column in NodeRow.__table__.columns if column.name != "id")


async def one(database: Database, node_id: str = "node-1") -> NodeRecord:
    async with database.reading() as session:
        (record,) = await nodes.read(session, [node_id])
        return record


def change(record: NodeRecord, **changed: Any) -> StateChange:
    return replace(
        StateChange(
            id=record.id,
            version_id=record.version_id,
            lifecycle="active",
            unreachable=True,
            state="UNREACHABLE",
            state_reason="ProbeFailed",
            state_detail="probe: timeout",
            state_message="probe: timeout (since …)",
            state_since_wall_at=123.5,
            state_before=record.state,
        ),
        **changed,
    )


async def event_types(database: Database) -> list[str]:
    async with database.reading() as session:
        return list(await session.scalars(select(EventRow.type).order_by(EventRow.seq)))


async def test_a_new_node_is_pending_and_told_of_once(database: Database) -> None:
    assert await meet(database) is True
    assert await meet(database) is False

    record = await one(database)
    assert (record.state, record.has_link, record.healthz) == ("PENDING", True, None)
    assert await event_types(database) == ["node.created"]


async def test_a_second_hello_with_nothing_new_writes_nothing(database: Database) -> None:
    await meet(database)
    before = await one(database)

    await meet(database)

    assert await one(database) == before


async def test_a_renamed_node_and_a_first_link_are_noted(database: Database) -> None:
    await meet(database, role=Role.WORKER)
    assert (await one(database)).has_link is False

    await meet(database, node_name="new-name")

    record = await one(database)
    assert (record.name, record.has_link, record.version_id) == ("new-name", True, 2)


async def test_another_machine_with_the_same_id_is_a_conflict_that_names_both(database: Database) -> None:
    await meet(database, machine_id="m1")

    with pytest.raises(IdentityConflict, match=r"m1.*m2"):
        await meet(database, machine_id="m2")


async def register(database: Database, address: str = "127.0.0.1", **changed: Any) -> bool:
    async with database.writing() as session:
        said = registration(8000, **changed)
        return await nodes.register(session, "node-1", said, address, 200.0)


async def test_a_registration_leaves_the_state_alone(database: Database) -> None:
    await meet(database)

    assert await register(database) is True

    record = await one(database)
    assert (record.state, record.healthz, record.incarnation) == (
        "PENDING",
        ("127.0.0.1", 8000),
        str(life(1)),
    )


async def test_the_same_registration_again_is_no_rebirth_and_writes_nothing(database: Database) -> None:
    await meet(database)
    await register(database)
    before = await one(database)

    assert await register(database) is False

    assert await one(database) == before


@pytest.mark.parametrize("new", [{"address": "127.0.0.2"}, {"number": 2}, {"healthz_port": 8001}])
async def test_another_life_or_address_is_a_rebirth(database: Database, new: dict[str, Any]) -> None:
    await meet(database)
    await register(database)

    assert await register(database, **new) is True


async def test_a_node_is_found_by_id_and_by_a_name_that_is_its_alone(database: Database) -> None:
    await meet(database, "id-1", node_name="a")
    await meet(database, "id-2", node_name="twin")
    await meet(database, "id-3", node_name="twin")

    async with database.reading() as session:
        found = {name: await nodes.find(session, name) for name in ("id-1", "a", "id-2", "twin", "nobody")}

    assert {name: None if record is None else record.id for name, record in found.items()} == {
        "id-1": "id-1",
        "a": "id-1",
        "id-2": "id-2",
        "twin": None,
        "nobody": None,
    }


async def test_a_round_writes_what_it_read_and_says_which(database: Database) -> None:
    for node_id in ("a", "b", "c"):
        await meet(database, node_id)
    async with database.reading() as session:
        records = await nodes.read(session)

    async with database.writing() as session:
        won = await nodes.store_verdicts(session, [change(record) for record in records[:2]], 300.0)

    assert won == {"a", "b"}
    a = await one(database, "a")
    assert (a.state, a.unreachable, a.state_since_wall_at, a.version_id) == ("UNREACHABLE", True, 123.5, 2)
    assert (await one(database, "c")).state == "PENDING"
    assert (await event_types(database)).count("node.state") == 2


async def test_a_row_that_changed_meanwhile_is_not_overwritten_and_not_reported(database: Database) -> None:
    for node_id in ("a", "b"):
        await meet(database, node_id)
    async with database.reading() as session:
        records = await nodes.read(session)
    await meet(database, "a", node_name="renamed")

    async with database.writing() as session:
        won = await nodes.store_verdicts(session, [change(record) for record in records], 300.0)

    assert won == {"b"}
    a = await one(database, "a")
    assert (a.name, a.state) == ("renamed", "PENDING")
    assert (await event_types(database)).count("node.state") == 1


async def test_a_thousand_of_two_thousand_rows_go_in_one_statement(database: Database) -> None:
    await many(database, 2000)
    async with database.reading() as session:
        records = await nodes.read(session)
    statements: list[str] = []

    from sqlalchemy import event

    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_rest: statements.append(statement.split()[0]),
    )
    async with database.writing() as session:
        won = await nodes.store_verdicts(session, [change(record) for record in records[:1000]], 2.0)

    assert len(won) == 1000
    assert statements.count("UPDATE") == 1


async def test_a_message_with_quotes_is_stored_as_it_is(database: Database) -> None:
    await meet(database)
    nasty = 'it\'s "quoted" \\ and 🦆 and \u2028'
    record = await one(database)

    async with database.writing() as session:
        await nodes.store_verdicts(session, [change(record, state_message=nasty)], 1.0)

    assert (await one(database)).state_message == nasty


@pytest.mark.parametrize("byte", ["\x00", "\ud800"])
async def test_what_no_database_keeps_is_shown_as_such_and_fails_no_round(
    database: Database, byte: str
) -> None:
    for node_id in ("a", "b"):
        await meet(database, node_id, node_name=f"{node_id}{byte}")
    async with database.reading() as session:
        records = await nodes.read(session)

    async with database.writing() as session:
        won = await nodes.store_verdicts(session, [change(one, state_detail=byte) for one in records], 1.0)

    assert won == {"a", "b"}
    a = await one(database, "a")
    assert (a.name, a.state_detail) == ("a\ufffd", "\ufffd")
    assert (await event_types(database)).count("node.state") == 2


async def test_nodes_are_read_by_shard(database: Database) -> None:
    for node_id in ("a", "b", "c"):
        await meet(database, node_id)

    async with database.reading() as session:
        of_a = await nodes.read(session, shards=frozenset({shard_of("a")}))
        none = await nodes.read(session, ["b"], shards=frozenset({shard_of("a")}))
        nothing = await nodes.read(session, shards=frozenset())

    assert [[record.id for record in found] for found in (of_a, none, nothing)] == [["a"], [], []]


async def test_two_writers_over_a_thousand_rows_lose_no_update(database: Database, database_url: str) -> None:
    """Both read all rows and write all of them, again until they have won each: every win must be in the row's version."""
    await many(database, 1000)
    other = await Database.open(database_url)
    statements = 0

    async def write_all(to: Database, word: str) -> int:
        nonlocal statements
        left, wins = None, 0
        while left is None or left:
            async with to.reading() as session:
                records = await nodes.read(session, left)
            wanted = [change(one, state_message=word) for one in records]
            await asyncio.sleep(0)  # the other one reads the same rows meanwhile
            async with to.writing() as session:
                won = await nodes.store_verdicts(session, wanted, 1.0)
            statements += 1
            wins += len(won)
            left = [one.id for one in wanted if one.id not in won]
        return wins

    wins = await asyncio.gather(*(write_all(to, word) for to in (database, other) for word in ("x", "y")))

    await other.close()
    async with database.reading() as session:
        versions = [record.version_id for record in await nodes.read(session)]
    assert wins == [1000] * 4
    assert versions == [1 + 4] * 1000
    assert statements > 4  # they did meet


async def test_rows_that_people_change_meanwhile_keep_that_change(database: Database) -> None:
    """Rounds over all rows against single-row writers with the ORM's version check: every one of them is counted."""
    await many(database, 50)
    renames = 0

    async def rename() -> None:
        nonlocal renames
        for number in range(100):

            async def change_name(session: AsyncSession, number: int = number) -> None:
                row = await session.get_one(NodeRow, f"n{number % 50}")
                row.name = f"renamed {number}"

            await database.write(change_name)
            renames += 1

    async def round_after_round() -> int:
        wins = 0
        while renames < 100:
            async with database.reading() as session:
                records = await nodes.read(session)
            async with database.writing() as session:
                wins += len(await nodes.store_verdicts(session, [change(one) for one in records], 1.0))
        return wins

    _, wins = await asyncio.gather(rename(), round_after_round())

    async with database.reading() as session:
        records = await nodes.read(session)
    assert sum(record.version_id - 1 for record in records) == 100 + wins
    assert {record.name for record in records} == {f"renamed {number}" for number in range(50, 100)}


@pytest.mark.parametrize(
    ("role", "said", "expected"),
    [
        (Role.LINK, {}, True),
        (Role.WORKER, {}, True),
        (Role.LINK, {"node_id": "another"}, False),
        (Role.LINK, {"node_name": "renamed"}, False),
        (Role.LINK, {"machine_id": "a-copy"}, False),
    ],
)
async def test_a_node_is_met_when_to_meet_it_again_would_change_nothing(
    role: Role, said: dict[str, Any], expected: bool, database: Database
) -> None:
    await meet(database)
    async with database.reading() as session:
        met = await nodes.is_met(
            session, hello(role, **({"node_id": "node-1"} | said)), is_link=role is Role.LINK
        )
    assert met is expected


async def test_the_first_link_of_a_known_node_is_still_to_be_met(database: Database) -> None:
    await meet(database, role=Role.WORKER)
    async with database.reading() as session:
        assert await nodes.is_met(session, hello(Role.WORKER), is_link=False) is True
        assert await nodes.is_met(session, hello(Role.LINK), is_link=True) is False
