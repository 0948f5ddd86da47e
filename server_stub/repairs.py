"""The repair policy at work: needs are noted as nodes are judged, decided when they have lasted, and recorded.

    judged ─► need? ─► lasted? ─► what speaks against it? ─► intent stored ─► command submitted ─► completed

The intent spends the budgets before anything has an effect; the command's idempotency key follows from node,
incarnation and episode, so a server that dies anywhere in between orders once and counts once. A decision is
told as an event when it is another than before, not each time it is made. Orders go through `Commands` like
anybody's. What a node needs, and what speaks against it, `core.repair` decides.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.messages import CommandKind
from server_stub import events
from server_stub.changes import EVENTS
from server_stub.clock import iso
from server_stub.core.repair import (
    ACTOR,
    Circumstances,
    Need,
    Repair,
    RepairMode,
    Wait,
    Why,
    Withheld,
    decide,
    idempotency_key,
    need_of,
)
from server_stub.core.repair_budget import DAY_S, RepairBudget, age_of_stored
from server_stub.store import repairs as store

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncSession
    from structlog.typing import FilteringBoundLogger

    from nanny.protocol.incarnation import Incarnation
    from server_stub.arrivals import ArrivalsByNode
    from server_stub.brakes import Brakes
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.commands import Commands
    from server_stub.core.node_facts import Lifecycle, NodeFacts, Verdict
    from server_stub.core.repair import Decision, RepairSettings
    from server_stub.core.repair_budget import BudgetSettings, Refusal
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

TIME_TO_LIVE_S: Final = 60.0
"""An order that does not reach its nanny by then is void: the policy looks again."""
KEPT_S: Final = 30 * DAY_S
RETRY_S: Final = 5.0


@dataclass(slots=True)
class Episode:
    """A need of one node that lasts."""

    need: Need
    since_at: float
    """Without a break, and of the same incarnation."""
    lifecycle: Lifecycle
    decision: Decision | None = None
    """The latest; None: not decided yet."""
    told: str = ""
    """What was last told of it as an event."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """What the policy does next about a node, for people."""

    what: str
    reason: str
    at: float | None
    """Monotonic seconds; None: not known."""


class Repairs:
    """All needs of the fleet, and what was spent on them."""

    def __init__(
        self,
        *,
        database: Database,
        arrivals: ArrivalsByNode,
        commands: Commands,
        brakes: Brakes,
        changes: Changes,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        settings: RepairSettings,
        budgets: BudgetSettings,
        recheck_s: float,
    ) -> None:
        """Make the policy with nothing spent; `load` comes next.

        Args:
            database: where repairs are kept.
            arrivals: what came from the nodes.
            commands: the way to them.
            brakes: which may be on.
            changes: whom to tell.
            clock: of the server.
            log: of the server.
            metrics: of the server.
            settings: thresholds and mode.
            budgets: what may be spent.
            recheck_s: how often a need that is withheld is decided anew.
        """
        self._database = database
        self._arrivals = arrivals
        self._commands = commands
        self._brakes = brakes
        self._changes = changes
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._settings = settings
        self._budgets = budgets
        self._recheck_s = recheck_s
        self._budget = RepairBudget(budgets)
        self._episodes: dict[str, Episode] = {}
        self._is_loaded = False
        self._woken = asyncio.Event()

    async def load(self) -> None:
        """Take over what earlier processes spent, and find out what became of what they intended."""
        now, wall_now = self._clock.monotonic(), self._clock.wall()

        async def settle(session: AsyncSession) -> list[store.RepairRecord]:
            await store.bring_back_from_the_future(session, wall_now)
            await store.prune(session, wall_now - KEPT_S)
            for intent in await store.unfinished(session):
                await self._settle_intent(session, intent, wall_now)
            return await store.since(session, wall_now - DAY_S)

        records = await self._database.write(settle)
        budget = RepairBudget(self._budgets)
        for record in records:
            # A dry run imitates the real one, whose orders count for it; not the other way round.
            if self._settings.mode is RepairMode.DRY_RUN or not record.is_dry_run:
                budget.spend(record.node_id, now - age_of_stored(record.wall_at, wall_now))
        self._budget, self._is_loaded = budget, True

    async def _settle_intent(
        self, session: AsyncSession, intent: store.RepairRecord, wall_now: float
    ) -> None:
        assert intent.incarnation is not None  # `_order` stores it
        episode = await store.episode(session, intent.node_id, intent.incarnation)
        key = idempotency_key(intent.node_id, intent.incarnation, episode)
        command_id = await store.command_of(session, key)
        if command_id is None:
            await store.drop(session, intent.id)
        elif await store.complete(session, intent.id, command_id):
            self._tell_order(session, wall_now, intent.node_id, intent.incarnation, intent.reason, command_id)

    # What comes in

    def note(self, node_id: str, facts: NodeFacts, verdict: Verdict) -> None:
        """A node was judged: note a need, go on with it, or forget it."""
        if self._settings.mode is RepairMode.OFF:
            return
        now = self._clock.monotonic()
        report = self._arrivals.of(node_id).nanny_report
        need = need_of(facts, None if report is None else report.beat_age_s, now, self._settings)
        if need is None:
            self._episodes.pop(node_id, None)
            return
        episode = self._episodes.get(node_id)
        if episode is None or episode.need.incarnation != need.incarnation:
            self._episodes[node_id] = Episode(need, now, verdict.lifecycle)
            self._woken.set()
            return
        episode.need, episode.lifecycle = need, verdict.lifecycle

    def forget(self, node_id: str) -> None:
        """The node is not the fleet's any more."""
        self._episodes.pop(node_id, None)

    def next_step(self, node_id: str) -> NextStep | None:
        """Give what the policy does next about a node, None if it has no need that the server sees."""
        episode = self._episodes.get(node_id)
        if episode is None:
            return None
        life = (
            "" if episode.need.incarnation is None else f" of incarnation {episode.need.incarnation.number}"
        )
        is_dry = self._settings.mode is RepairMode.DRY_RUN
        what = f"restart{life} through its nanny" + (", only said: repair is dry-run" if is_dry else "")
        match episode.decision:
            case None:
                told = f"{episode.need.code}: {episode.need.detail}".removesuffix(": ")
                return NextStep(what, told, episode.since_at + self._settings.after_s)
            case Wait(until_at=until_at, reason=reason) | Withheld(until_at=until_at, reason=reason):
                return NextStep(what, reason, until_at)
            case Repair(reason=reason):
                return NextStep("its outcome is awaited", reason, None)

    # What is done about it

    async def run(self) -> None:
        """Decide what is due, until cancelled."""
        while True:
            self._woken.clear()
            pause_s = self._recheck_s
            try:
                if not self._is_loaded:
                    await self.load()
                await self.decide_due()
                pause_s = self._pause_s()
            except Exception:
                # What is stored and what is counted may differ now: read it again before the next order.
                self._is_loaded = False
                self._metrics.count("repair_failures_total")
                self._log.exception("repairs could not be decided")
                pause_s = RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()

    async def decide_due(self) -> None:
        """Decide every need that has lasted, longest first, and act."""
        now = self._clock.monotonic()
        due = sorted(
            (episode.since_at, node_id)
            for node_id, episode in self._episodes.items()
            if now >= episode.since_at + self._settings.after_s
        )
        if not due:
            self._brakes.note_budget(None)
            return
        async with self._database.reading() as session:
            busy = await store.with_open_command(session, [node_id for _, node_id in due])
        stopped: Refusal | None = None
        for _, node_id in due:
            stopped = await self._decide_one(node_id, busy) or stopped
        self._brakes.note_budget(stopped)

    async def _decide_one(self, node_id: str, busy: Collection[str]) -> Refusal | None:
        """Decide one need; gives the fleet's refusal if that is what stopped it."""
        episode, now = self._episodes.get(node_id), self._clock.monotonic()
        if episode is None:
            return None  # it ended while others were acted upon
        arrivals = self._arrivals.of(node_id)
        held_s = None if arrivals.nanny_report is None else arrivals.nanny_report.hold_remaining_s
        fleet_refusal = self._budget.refuses_fleet(self._brakes.fleet_size, now)
        around = Circumstances(
            lifecycle=episode.lifecycle,
            listening_since_at=arrivals.listening_since_at,
            is_held=bool(held_s),
            is_demotion_brake_on=self._brakes.is_demotion_brake_on,
            has_open_command=node_id in busy,
            node_refusal=self._budget.refuses_node(node_id, now),
            fleet_refusal=fleet_refusal,
            is_command_brake_lifted=self._brakes.is_command_brake_lifted,
        )
        decision = decide(episode.need, episode.since_at, around, now, self._settings)
        episode.decision = decision
        match decision:
            case Wait():
                return None
            case Withheld(why=why):
                await self._withhold(node_id, episode, decision)
                return fleet_refusal if why is Why.FLEET_BUDGET else None
            case Repair(is_dry_run=True):
                await self._say(node_id, episode, decision)
            case Repair():
                await self._order(node_id, episode, decision)
        return None

    async def _withhold(self, node_id: str, episode: Episode, decision: Withheld) -> None:
        is_own = decision.why is Why.COMMAND_OPEN and episode.told == "ordered"
        if episode.told == decision.why or is_own:
            return
        self._metrics.count("repairs_withheld_total", why=decision.why)
        self._log.info("repair withheld", node=node_id, why=str(decision.why), reason=decision.reason)
        await self._tell(
            "repair.withheld",
            node_id,
            why=decision.why,
            reason=decision.reason,
            incarnation=_text(episode.need.incarnation),
            until=None if decision.until_at is None else self._iso(decision.until_at),
        )
        episode.told = decision.why

    async def _say(self, node_id: str, episode: Episode, decision: Repair) -> None:
        wall_now, incarnation = self._clock.wall(), str(decision.incarnation)
        async with self._database.writing() as session:
            await store.add(
                session,
                node_id=node_id,
                wall_at=wall_now,
                incarnation=incarnation,
                reason=decision.reason,
                is_dry_run=True,
            )
            events.append(
                session, wall_now, "repair.dry-run", node_id, incarnation=incarnation, reason=decision.reason
            )
        self._budget.spend(node_id, self._clock.monotonic())
        episode.told = "dry-run"
        self._metrics.count("repairs_total", mode=RepairMode.DRY_RUN)
        self._log.warning(
            "repair would be ordered", node=node_id, incarnation=incarnation, reason=decision.reason
        )
        self._changes.mark([EVENTS])

    async def _order(self, node_id: str, episode: Episode, decision: Repair) -> None:
        wall_now, incarnation = self._clock.wall(), str(decision.incarnation)

        async def intend(session: AsyncSession) -> tuple[int, int]:
            number = await store.episode(session, node_id, incarnation)
            repair_id = await store.add(
                session,
                node_id=node_id,
                wall_at=wall_now,
                incarnation=incarnation,
                reason=decision.reason,
                is_dry_run=False,
            )
            return repair_id, number

        repair_id, number = await self._database.write(intend)
        self._budget.spend(node_id, self._clock.monotonic())
        key = idempotency_key(node_id, incarnation, number)
        command, _ = await self._commands.submit(
            node_id=node_id,
            kind=CommandKind.RESTART,
            reason=f"repair: {decision.reason}",
            actor=ACTOR,
            time_to_live_s=TIME_TO_LIVE_S,
            target=decision.incarnation,
            parameters={},
            idempotency_key=key,
            fingerprint=key.rpartition("-")[2],
        )

        async def complete(session: AsyncSession) -> None:
            if await store.complete(session, repair_id, command.id):
                self._tell_order(
                    session, self._clock.wall(), node_id, incarnation, decision.reason, command.id
                )

        await self._database.write(complete)
        episode.told = "ordered"
        self._metrics.count("repairs_total", mode=RepairMode.ON)
        self._log.warning(
            "repair ordered",
            node=node_id,
            incarnation=incarnation,
            command=command.id,
            reason=decision.reason,
        )
        self._changes.mark([EVENTS])

    def _tell_order(
        self,
        session: AsyncSession,
        wall_at: float,
        node_id: str,
        incarnation: str,
        reason: str,
        command_id: str,
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

    async def _tell(self, type_: str, node_id: str, **detail: Any) -> None:
        async with self._database.writing() as session:
            events.append(session, self._clock.wall(), type_, node_id, **detail)
        self._changes.mark([EVENTS])

    def _iso(self, at: float) -> str:
        return iso(self._clock.wall() + at - self._clock.monotonic())

    def _pause_s(self) -> float:
        now = self._clock.monotonic()
        waits = [episode.since_at + self._settings.after_s - now for episode in self._episodes.values()]
        return min([self._recheck_s, *(max(0.01, wait_s) for wait_s in waits if wait_s > 0)])


def _text(incarnation: Incarnation | None) -> str | None:
    return None if incarnation is None else str(incarnation)
