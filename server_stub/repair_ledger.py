"""What repairs have cost and what was told of them: durable before anything has an effect.

    intend (a row, the budgets are spent) ─► the command is stored under the intent's key ─► complete (its event)

The key follows from node, incarnation and episode. A server that dies in between leaves an intent; `load`
finds out by its key whether the command is there: then it is completed, else nothing has happened and it is
dropped. So each order is made once, counted once, told once. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from server_stub import events
from server_stub.core.repair import RepairMode, idempotency_key
from server_stub.core.repair_budget import DAY_S, RepairBudget, age_of_stored
from server_stub.store import repairs as store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.clock import Clock
    from server_stub.core.repair import Repair
    from server_stub.core.repair_budget import BudgetSettings
    from server_stub.store.engine import Database

KEPT_S: Final = 30 * DAY_S
_OPERATION: Final = "repairs"


@dataclass(frozen=True, slots=True)
class Intent:
    """A repair that is about to be ordered."""

    row: int
    node_id: str
    repair: Repair
    key: str
    """Under which its command is stored, however often that is tried."""


class RepairLedger:
    """The rows of repairs, and the budget that follows from them."""

    def __init__(self, database: Database, clock: Clock, mode: RepairMode, budgets: BudgetSettings) -> None:
        self._database = database
        self._clock = clock
        self._mode = mode
        self._budgets = budgets
        self.budget = RepairBudget(budgets)

    async def load(self) -> None:
        """Take over what earlier processes spent, and find out what became of what they intended."""
        now, wall_now = self._clock.monotonic(), self._clock.wall()

        async def settle(session: AsyncSession) -> list[store.RepairRecord]:
            await store.bring_back_from_the_future(session, wall_now)
            await store.prune(session, wall_now - KEPT_S)
            for intent in await store.unfinished(session):
                await _settle_intent(session, intent, wall_now)
            return await store.since(session, wall_now - DAY_S)

        records = await self._database.write(settle, _OPERATION)
        budget = RepairBudget(self._budgets)
        for record in records:
            # A dry run imitates the real one, whose orders count for it; not the other way round.
            if self._mode is RepairMode.DRY_RUN or not record.is_dry_run:
                budget.spend(record.node_id, now - age_of_stored(record.wall_at, wall_now))
        self.budget = budget

    async def intend(self, node_id: str, repair: Repair) -> Intent:
        """Store that this repair is about to be ordered, and spend the budgets."""
        wall_now, incarnation = self._clock.wall(), str(repair.incarnation)

        async def add(session: AsyncSession) -> tuple[int, int]:
            episode = await store.episode(session, node_id, incarnation)
            row = await store.add(
                session,
                node_id=node_id,
                wall_at=wall_now,
                incarnation=incarnation,
                reason=repair.reason,
                is_dry_run=False,
            )
            return row, episode

        row, episode = await self._database.write(add, _OPERATION)
        self.budget.spend(node_id, self._clock.monotonic())
        return Intent(row, node_id, repair, idempotency_key(node_id, incarnation, episode))

    async def complete(self, intent: Intent, command_id: str) -> None:
        """Note the command that was stored for an intent, and tell of it."""
        wall_now, repair = self._clock.wall(), intent.repair

        async def change(session: AsyncSession) -> None:
            if await store.complete(session, intent.row, command_id):
                _tell_order(
                    session, wall_now, intent.node_id, str(repair.incarnation), repair.reason, command_id
                )

        await self._database.write(change, _OPERATION)

    async def say(self, node_id: str, repair: Repair) -> None:
        """Store and tell what would be ordered, were it no dry run; the budgets are spent as if it were none."""
        wall_now, incarnation = self._clock.wall(), str(repair.incarnation)
        async with self._database.writing(_OPERATION) as session:
            await store.add(
                session,
                node_id=node_id,
                wall_at=wall_now,
                incarnation=incarnation,
                reason=repair.reason,
                is_dry_run=True,
            )
            events.append(
                session, wall_now, "repair.dry-run", node_id, incarnation=incarnation, reason=repair.reason
            )
        self.budget.spend(node_id, self._clock.monotonic())

    async def tell_withheld(self, told: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Tell, in one transaction, what speaks against these nodes' repairs: a whole fleet may stall at once."""
        wall_now = self._clock.wall()
        rows = [
            {"wall_at": wall_now, "type": "repair.withheld", "node_id": node_id, "detail": detail}
            for node_id, detail in told
        ]
        async with self._database.writing(_OPERATION) as session:
            await events.append_many(session, rows)


async def _settle_intent(session: AsyncSession, intent: store.RepairRecord, wall_now: float) -> None:
    assert intent.incarnation is not None  # `intend` stores it
    episode = await store.episode(session, intent.node_id, intent.incarnation)
    command_id = await store.command_of(session, idempotency_key(intent.node_id, intent.incarnation, episode))
    if command_id is None:
        await store.drop(session, intent.id)
    elif await store.complete(session, intent.id, command_id):
        _tell_order(session, wall_now, intent.node_id, intent.incarnation, intent.reason, command_id)


def _tell_order(
    session: AsyncSession, wall_at: float, node_id: str, incarnation: str, reason: str, command_id: str
) -> None:
    events.append(
        session,
        wall_at,
        "repair.ordered",
        node_id,
        command=command_id,
        incarnation=incarnation,
        reason=reason,
    )
