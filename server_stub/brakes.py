"""The brakes at work: what the syncer judged goes in, what it may not store comes out, positions are kept.

The demotion brake moves in memory at the very judgement that trips it, so nothing slips through while its row
is written; the row and its event follow in one transaction, tried again until it succeeds. A restarted
server takes the position over and cannot release the brake before it has listened for as long as any silence
must last to count. Lifting is people's, durable before it is answered, and ends by itself.

Knows no HTTP, and of rows only those of brakes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from server_stub import events
from server_stub.changes import EVENTS
from server_stub.clock import iso
from server_stub.core.brakes import (
    Brake,
    BrakeChange,
    BrakeName,
    decide,
    is_demotion,
    lift,
    reason_of,
)
from server_stub.core.fleet_tally import FleetTally
from server_stub.store import brakes as store
from server_stub.store.brakes import BrakeRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.core.brakes import BrakeSettings
    from server_stub.core.node_facts import Stored, Verdict
    from server_stub.core.repair_budget import Refusal
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

T = TypeVar("T")

BRAKES: Final = "brakes"
"""The subject that changes whenever a brake does."""
NAMES_SHOWN: Final = 20
RETRY_S: Final = 1.0
LONGEST_LIFT_S: Final = 86400.0


@dataclass(slots=True)
class _Kept:
    """One brake with what people read of it."""

    brake: Brake = field(default_factory=Brake)
    reason: str = ""
    lifted_by: str | None = None
    since_wall_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A position that is not in the database yet, with the event that tells of it."""

    record: BrakeRecord
    change: BrakeChange
    detail: dict[str, Any]


class Brakes:
    """Both brakes of one server."""

    def __init__(
        self,
        *,
        database: Database,
        changes: Changes,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        settings: BrakeSettings,
        release_after_s: float,
    ) -> None:
        """Make them, released.

        Args:
            database: where positions are kept.
            changes: whom to tell.
            clock: of the server.
            log: of the server.
            metrics: of the server.
            settings: thresholds of the demotion brake.
            release_after_s: so long after the start a brake taken over stays on.
        """
        self._database = database
        self._changes = changes
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._settings = settings
        self._release_after_s = release_after_s
        self._may_release_at = float("-inf")
        """Of a brake that was taken over: whom it counted is not known, and nobody was heard yet."""
        self._tally = FleetTally()
        self._kept = {name: _Kept() for name in BrakeName}
        self._withheld: set[str] = set()
        self._unwritten: deque[_Unwritten] = deque()
        self._writing = asyncio.Lock()
        self._woken = asyncio.Event()
        self.on_release: Callable[[Sequence[str]], None] = lambda _node_ids: None
        """Called with the nodes whose demotion was withheld, when it no longer is."""

    async def load(self) -> None:
        """Take over the positions that an earlier process left."""
        async with self._database.reading() as session:
            records = await store.read(session)
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        for record in records:
            if record.name not in list(BrakeName):
                continue
            lifted_until_at = None
            if record.lifted_until_wall_at is not None:
                # A wall clock set back must not lengthen what people allowed.
                left_s = min(record.lifted_until_wall_at - wall_now, LONGEST_LIFT_S)
                lifted_until_at = now + left_s if left_s > 0 else None
            is_on = record.is_on and BrakeName(record.name) is BrakeName.DEMOTIONS
            self._kept[BrakeName(record.name)] = _Kept(
                Brake(is_on=is_on, since_at=now, lifted_until_at=lifted_until_at),
                record.reason,
                record.lifted_by if lifted_until_at is not None else None,
                record.since_wall_at,
            )
            if is_on:
                self._may_release_at = now + self._release_after_s
                self._log.error("brake is still on", brake=record.name, reason=record.reason)
        self._show()

    async def run(self) -> None:
        """Write what moved and end lifts in time, until cancelled."""
        while True:
            self._woken.clear()
            self._step()
            try:
                await self._flush()
            except Exception:
                self._log.exception("brakes could not be stored")
                await asyncio.sleep(RETRY_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._woken.wait()

    # The demotion brake

    @property
    def is_demotion_brake_on(self) -> bool:
        """Whether demotions are frozen now."""
        return self._kept[BrakeName.DEMOTIONS].brake.is_on

    @property
    def fleet_size(self) -> int:
        """How many nodes count: all that were judged, but those set aside."""
        return self._tally.counts().fleet

    def note(self, node_id: str, stored: Stored, verdict: Verdict) -> None:
        """A node was judged: count it, and move the brake if that is too many."""
        if self._withheld and not is_demotion(stored, verdict):
            self._withheld.discard(node_id)
        if self._tally.note(node_id, stored, verdict, self._clock.monotonic()):
            self._step()

    def withholds(self, node_id: str, stored: Stored, verdict: Verdict) -> bool:
        """Tell whether storing this verdict is frozen, and keep the node in mind for the release."""
        if not (self.is_demotion_brake_on and is_demotion(stored, verdict)):
            return False
        if node_id not in self._withheld:
            self._withheld.add(node_id)
            self._metrics.count("demotions_withheld_total")
        return True

    def is_withheld(self, node_id: str) -> bool:
        """Tell whether this node's row says better of it than the server sees."""
        return node_id in self._withheld

    def filter(self, judged: Sequence[tuple[str, Stored, Verdict, T]]) -> list[T]:
        """Give what may be stored of a batch: all of it is counted before any of it passes.

        Args:
            judged: node id, what its row says, the verdict, and what would be stored of it.
        """
        for node_id, stored, verdict, _ in judged:
            self.note(node_id, stored, verdict)
        return [
            change
            for node_id, stored, verdict, change in judged
            if not self.withholds(node_id, stored, verdict)
        ]

    def forget(self, node_id: str) -> None:
        """The node is not the fleet's any more."""
        self._tally.forget(node_id)
        self._withheld.discard(node_id)
        self._step()

    def _step(self) -> None:
        now = self._clock.monotonic()
        self._end_lift_of_commands(now)
        kept = self._kept[BrakeName.DEMOTIONS]
        if not kept.brake.is_on:
            self._tally.age_out(now - self._settings.window_s)
        counts = self._tally.counts()
        may_release = now >= self._may_release_at
        after, change = decide(kept.brake, counts, now, self._settings, may_release=may_release)
        kept.brake = after
        if change is None:
            return
        turned = self._tally.turned()
        detail: dict[str, Any] = {"turned": counts.turned, "in_reach": counts.in_reach, "fleet": counts.fleet}
        if change is BrakeChange.ON:
            kept.reason = reason_of(counts, self._settings)
            detail |= {"reason": kept.reason, "nodes": list(turned[:NAMES_SHOWN])}
        self._move(BrakeName.DEMOTIONS, after, change, detail)
        if change is BrakeChange.OFF:
            self._release()

    def _release(self) -> None:
        withheld, self._withheld = tuple(self._withheld), set()
        self.on_release(withheld)

    # The command brake

    @property
    def is_command_brake_lifted(self) -> bool:
        """Whether people have allowed automatic commands beyond the fleet's budget."""
        until_at = self._kept[BrakeName.COMMANDS].brake.lifted_until_at
        return until_at is not None and self._clock.monotonic() < until_at

    def note_budget(self, refusal: Refusal | None) -> None:
        """The fleet's budget stops an automatic command, or none any more."""
        kept, now = self._kept[BrakeName.COMMANDS], self._clock.monotonic()
        is_on = refusal is not None and kept.brake.lifted_until_at is None
        if is_on == kept.brake.is_on:
            return
        if refusal is not None:
            kept.reason = refusal.detail
        after = Brake(is_on=is_on, since_at=now, lifted_until_at=kept.brake.lifted_until_at)
        detail = {"reason": kept.reason} if is_on else {}
        self._move(BrakeName.COMMANDS, after, BrakeChange.ON if is_on else BrakeChange.OFF, detail)

    def _end_lift_of_commands(self, now: float) -> None:
        until_at = self._kept[BrakeName.COMMANDS].brake.lifted_until_at
        if until_at is not None and now >= until_at:
            self._move(BrakeName.COMMANDS, Brake(since_at=now), BrakeChange.LIFT_ENDED, {})

    # People

    async def lift(self, name: BrakeName, *, reason: str, actor: str, for_s: float) -> None:
        """Take a brake off for so long; what is out of reach now is believed. Durable when it returns.

        Raises:
            Exception: it could not be stored; it is lifted in memory, and stored as soon as that works.
        """
        kept, now = self._kept[name], self._clock.monotonic()
        detail = {"reason": reason, "actor": actor, "for_s": for_s, "was_on": kept.brake.is_on}
        kept.reason, kept.lifted_by = reason, actor
        self._move(name, lift(now, for_s), BrakeChange.LIFTED, detail)
        if name is BrakeName.DEMOTIONS:
            self._tally.accept()
            self._release()
        await self._flush()

    def view(self) -> list[dict[str, Any]]:
        """Give all brakes as JSON."""
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        counts = self._tally.counts()
        shown = []
        for name, kept in self._kept.items():
            until_at = kept.brake.lifted_until_at
            view = {
                "name": name,
                "is_on": kept.brake.is_on,
                "since": None if kept.since_wall_at is None else iso(kept.since_wall_at),
                "reason": kept.reason,
                "lifted_by": kept.lifted_by,
                "lifted_until": None if until_at is None else iso(wall_now + until_at - now),
            }
            if name is BrakeName.DEMOTIONS:
                view |= {
                    "fleet": counts.fleet,
                    "in_reach": counts.in_reach,
                    "turned": counts.turned,
                    "withheld": len(self._withheld),
                }
            shown.append(view)
        return shown

    # Keeping

    def _move(self, name: BrakeName, after: Brake, change: BrakeChange, detail: dict[str, Any]) -> None:
        kept, now, wall_now = self._kept[name], self._clock.monotonic(), self._clock.wall()
        kept.brake, kept.since_wall_at = after, wall_now
        if after.lifted_until_at is None:
            kept.lifted_by = None
        until_at = after.lifted_until_at
        record = BrakeRecord(
            name=name,
            is_on=after.is_on,
            since_wall_at=wall_now,
            reason=kept.reason,
            lifted_by=kept.lifted_by,
            lifted_until_wall_at=None if until_at is None else wall_now + until_at - now,
        )
        self._unwritten.append(_Unwritten(record, change, {"brake": str(name)} | detail))
        shout = self._log.error if after.is_on else self._log.warning
        shout(
            "brake moved",
            change=str(change),
            brake=str(name),
            **{k: v for k, v in detail.items() if k != "nodes"},
        )
        self._show()
        self._woken.set()

    def _show(self) -> None:
        for name, kept in self._kept.items():
            self._metrics.set("brake_on", float(kept.brake.is_on), brake=name)

    async def _flush(self) -> None:
        """Store what moved, oldest first; each is taken off only when it is written."""
        async with self._writing:
            while self._unwritten:
                moved = self._unwritten[0]
                async with self._database.writing("brakes") as session:
                    await store.put(session, moved.record)
                    events.append(session, moved.record.since_wall_at, moved.change, None, **moved.detail)
                self._unwritten.popleft()
                self._changes.mark([EVENTS, BRAKES])

    def _pause_s(self) -> float | None:
        lifts = [kept.brake.lifted_until_at for kept in self._kept.values()]
        until_at = min((at for at in lifts if at is not None), default=None)
        if until_at is not None:
            return min(RETRY_S, max(0.01, until_at - self._clock.monotonic()))
        # What is on may be released by time alone; what is off moves only when a node is judged.
        return RETRY_S if self.is_demotion_brake_on else None
