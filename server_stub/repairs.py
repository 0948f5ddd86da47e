"""The repair policy at work: needs are noted as nodes are judged, and decided when they have lasted.

    judged ─► need? ─► lasted? ─► what speaks against it? ─► intended ─► ordered through `Commands` ─► completed

A need is of one incarnation and without a break; any judgement that finds none ends it. A decision is told as
an event when it is another than before, not each time it is made. What a node needs, and what speaks against
it, `core.repair` decides; what was spent is the ledger's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.messages import CommandKind
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
    need_of,
)
from server_stub.repair_ledger import RepairLedger
from server_stub.store import repairs as store

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from structlog.typing import FilteringBoundLogger

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
RETRY_S: Final = 5.0
SLICE: Final = 200
"""Needs decided before others get their turn on the event loop."""
NAMES_SHOWN: Final = 20
ORDERED: Final = "ordered"


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
        self._recheck_s = recheck_s
        self._ledger = RepairLedger(database, clock, settings.mode, budgets)
        self._episodes: dict[str, Episode] = {}
        self._is_loaded = False
        self._woken = asyncio.Event()

    async def load(self) -> None:
        """Take over what earlier processes spent and intended."""
        await self._ledger.load()
        self._is_loaded = True

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
            busy = await store.with_open_command(session, [node_id for _, node_id in due], self._clock.wall())
        withheld: list[tuple[str, Episode, Withheld]] = []
        stopped: Refusal | None = None
        for position, (_, node_id) in enumerate(due):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            stopped = await self._decide_one(node_id, busy, withheld) or stopped
        self._brakes.note_budget(stopped)
        if withheld:
            await self._tell_withheld(withheld)

    async def _decide_one(
        self, node_id: str, busy: Collection[str], withheld: list[tuple[str, Episode, Withheld]]
    ) -> Refusal | None:
        """Decide one need; gives the fleet's refusal if that is what stopped it.

        Args:
            node_id: of the node.
            busy: nodes with a command that has no outcome yet.
            withheld: gets what is to be told of it.
        """
        episode, now = self._episodes.get(node_id), self._clock.monotonic()
        if episode is None:
            return None  # it ended while others were acted upon
        arrivals = self._arrivals.of(node_id)
        if arrivals.probe is None or now > arrivals.probe.at + self._settings.looked_within_s:
            return None  # we ourselves may have stood still meanwhile: the next check tells
        held_s = None if arrivals.nanny_report is None else arrivals.nanny_report.hold_remaining_s
        fleet_refusal = self._ledger.budget.refuses_fleet(self._brakes.fleet_size, now)
        around = Circumstances(
            lifecycle=episode.lifecycle,
            listening_since_at=arrivals.listening_since_at,
            is_held=bool(held_s),
            is_demotion_brake_on=self._brakes.is_demotion_brake_on,
            has_open_command=node_id in busy,
            node_refusal=self._ledger.budget.refuses_node(node_id, now),
            fleet_refusal=fleet_refusal,
            is_command_brake_lifted=self._brakes.is_command_brake_lifted,
        )
        decision = decide(episode.need, episode.since_at, around, now, self._settings)
        episode.decision = decision
        match decision:
            case Wait():
                return None
            case Withheld(why=why):
                is_own = why is Why.COMMAND_OPEN and episode.told == ORDERED
                if episode.told != why and not is_own:
                    withheld.append((node_id, episode, decision))
                return fleet_refusal if why is Why.FLEET_BUDGET else None
            case Repair(is_dry_run=True):
                await self._say(node_id, episode, decision)
            case Repair():
                await self._order(node_id, episode, decision)
        return None

    async def _tell_withheld(self, withheld: Sequence[tuple[str, Episode, Withheld]]) -> None:
        by_why: dict[Why, list[str]] = {}
        told: list[tuple[str, dict[str, Any]]] = []
        for node_id, episode, decision in withheld:
            by_why.setdefault(decision.why, []).append(node_id)
            detail = {
                "why": str(decision.why),
                "reason": decision.reason,
                "incarnation": None if episode.need.incarnation is None else str(episode.need.incarnation),
                "until": None if decision.until_at is None else self._iso(decision.until_at),
            }
            told.append((node_id, detail))
        await self._ledger.tell_withheld(told)
        for _, episode, decision in withheld:
            episode.told = decision.why
        for why, node_ids in by_why.items():
            self._metrics.count("repairs_withheld_total", len(node_ids), why=why)
            self._log.info(
                "repairs withheld", why=str(why), count=len(node_ids), nodes=node_ids[:NAMES_SHOWN]
            )
        self._changes.mark([EVENTS])

    async def _say(self, node_id: str, episode: Episode, repair: Repair) -> None:
        await self._ledger.say(node_id, repair)
        episode.told = RepairMode.DRY_RUN
        self._metrics.count("repairs_total", mode=RepairMode.DRY_RUN)
        self._log.warning(
            "repair would be ordered", node=node_id, incarnation=str(repair.incarnation), reason=repair.reason
        )
        self._changes.mark([EVENTS])

    async def _order(self, node_id: str, episode: Episode, repair: Repair) -> None:
        intent = await self._ledger.intend(node_id, repair)
        command, _ = await self._commands.submit(
            node_id=node_id,
            kind=CommandKind.RESTART,
            reason=f"repair: {repair.reason}",
            actor=ACTOR,
            time_to_live_s=TIME_TO_LIVE_S,
            target=repair.incarnation,
            parameters={},
            idempotency_key=intent.key,
            fingerprint=intent.key.rpartition("-")[2],
        )
        await self._ledger.complete(intent, command.id)
        episode.told = ORDERED
        self._metrics.count("repairs_total", mode=RepairMode.ON)
        self._log.warning(
            "repair ordered",
            node=node_id,
            incarnation=str(repair.incarnation),
            command=command.id,
            reason=repair.reason,
        )
        self._changes.mark([EVENTS])

    def _iso(self, at: float) -> str:
        return iso(self._clock.wall() + at - self._clock.monotonic())

    def _pause_s(self) -> float:
        now = self._clock.monotonic()
        waits = [episode.since_at + self._settings.after_s - now for episode in self._episodes.values()]
        return min([self._recheck_s, *(max(0.01, wait_s) for wait_s in waits if wait_s > 0)])
