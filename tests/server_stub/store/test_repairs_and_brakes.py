"""Repairs and brakes in both databases: intents, episodes, clocks that were wrong, positions that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server_stub.core.command_lifecycle import CommandState
from server_stub.store import brakes, repairs
from server_stub.store.brakes import BrakeRecord
from server_stub.store.tables import CommandRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.store.engine import Database


async def intend(
    session: AsyncSession, wall_at: float = 100.0, node_id: str = "a", *, is_dry: bool = False
) -> int:
    return await repairs.add(
        session, node_id=node_id, wall_at=wall_at, incarnation="e/7", reason="Stalled", is_dry_run=is_dry
    )


def command(number: int, node_id: str, state: CommandState, key: str | None = None) -> CommandRow:
    return CommandRow(
        id=f"c{number}",
        node_id=node_id,
        kind="restart",
        reason="r",
        actor="a",
        time_to_live_s=1.0,
        idempotency_key=key,
        fingerprint="",
        state=state,
        created_wall_at=0.0,
        expires_wall_at=1.0,
    )


async def test_an_intent_is_unfinished_until_it_has_its_command_and_has_it_once(database: Database) -> None:
    async with database.writing() as session:
        first, _dry = await intend(session), await intend(session, is_dry=True)
        assert [row.id for row in await repairs.unfinished(session)] == [first]
        assert await repairs.episode(session, "a", "e/7") == 0

        assert await repairs.complete(session, first, "c1")
        assert not await repairs.complete(session, first, "c2")

    async with database.reading() as session:
        assert await repairs.unfinished(session) == []
        assert await repairs.episode(session, "a", "e/7") == 1
        assert await repairs.episode(session, "a", "e/8") == 0
        assert [row.command_id for row in await repairs.since(session, 0.0)] == ["c1", None]


async def test_an_intent_of_which_nothing_came_is_dropped(database: Database) -> None:
    async with database.writing() as session:
        session.add(command(1, "a", CommandState.QUEUED, "key"))
        await repairs.drop(session, await intend(session))

    async with database.reading() as session:
        assert await repairs.since(session, 0.0) == []
        assert await repairs.command_of(session, "key") == "c1"
        assert await repairs.command_of(session, "another") is None


async def test_what_lies_in_the_future_was_made_now_and_what_is_old_goes(database: Database) -> None:
    async with database.writing() as session:
        for wall_at in (10.0, 100.0, 5e9):
            await intend(session, wall_at)
        await repairs.bring_back_from_the_future(session, 200.0)
        await repairs.prune(session, 50.0)

    async with database.reading() as session:
        assert [row.wall_at for row in await repairs.since(session, 0.0)] == [100.0, 200.0]
        assert [row.wall_at for row in await repairs.since(session, 100.0)] == [200.0]


async def test_only_commands_without_an_outcome_are_open(database: Database) -> None:
    async with database.writing() as session:
        for number, state in enumerate(CommandState):
            session.add(command(number, f"n-{state}", state))

    async with database.reading() as session:
        asked = [f"n-{state}" for state in CommandState if state is not CommandState.SENT]
        found = await repairs.with_open_command(session, asked, 2.0)
        of_many = await repairs.with_open_command(session, [*asked, *map(str, range(3000))], 2.0)

        forgotten = await repairs.with_open_command(session, asked, 2.0 + 86400.0)

    assert found == of_many == {"n-queued", "n-accepted"}
    assert forgotten == set()


async def test_a_brakes_position_takes_the_place_of_the_one_before(database: Database) -> None:
    on = BrakeRecord("demotions", True, 100.0, "half of them", None, None)
    lifted = BrakeRecord("demotions", False, 200.0, "they are gone", "ops", 800.0)
    for record in (on, lifted):
        async with database.writing() as session:
            await brakes.put(session, record)

    async with database.reading() as session:
        assert await brakes.read(session) == [lifted]
