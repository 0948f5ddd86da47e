"""The connectivity syncer: from what arrived and what is stored to what each node's row should say.

    a sign arrives, a check ends, an instant passes ─► judge in memory ─► differs? ─► settle

*Judging* needs no session. It compares against the rows as last read, and only decides whether to look.
*Settling* reads the rows of the nodes that seem changed in one short session, judges them again from those
rows, and writes all changes in one transaction as one version-checked statement; rows that another writer
changed meanwhile are read and judged again. A *round*, once an interval, reads all rows anew and settles
what differs: a quiet round writes nothing. What the demotion brake withholds is not written. One node's
exception is that node's; a failed round is one line, and the next one runs.

Knows no HTTP and no frames. Time comes from the clock that it was given.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from server_stub.changes import EVENTS, NODES
from server_stub.clock import iso
from server_stub.core.connectivity import Settings, evaluate, next_change_at, recheck_in_s
from server_stub.core.node_facts import Lifecycle, Word
from server_stub.probe_pacer import ProbePacer
from server_stub.store import maintenance, nodes, row_versions
from server_stub.store.nodes import StateChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from server_stub.arrivals import ArrivalsByNode
    from server_stub.brakes import Brakes
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.core.node_facts import NodeFacts, ProbeFact, Stored, Verdict
    from server_stub.metrics import Metrics
    from server_stub.probe_pacer import Cancellable
    from server_stub.prober import Prober
    from server_stub.store.engine import Database
    from server_stub.store.nodes import NodeRecord

TRIES: Final = 3
SLICE: Final = 200
"""Nodes judged before others get their turn on the event loop."""
NAMES_SHOWN: Final = 20
FAILED_PAUSE_S: Final = 1.0
"""After changes could not be stored; it doubles up to the interval."""
LONGEST_PAUSE_S: Final = 0.1
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Watcher(Protocol):
    """Whoever follows every judgement, whether it is written or not."""

    def note(self, node_id: str, facts: NodeFacts, verdict: Verdict) -> None:
        """A node was judged."""
        ...

    def forget(self, node_id: str) -> None:
        """The node is not the fleet's any more."""
        ...


@dataclass(slots=True)
class _Newly:
    """The nodes that came to one state since the last round: how many, and the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < NAMES_SHOWN:
            self.names.append(name)


class Syncer:
    """Keeps the nodes' rows true."""

    def __init__(
        self,
        *,
        database: Database,
        arrivals: ArrivalsByNode,
        prober: Prober,
        brakes: Brakes,
        changes: Changes,
        clock: Clock,
        settings: Settings,
        log: FilteringBoundLogger,
        metrics: Metrics,
        concurrency: int,
    ) -> None:
        self._database = database
        self._arrivals = arrivals
        self._prober = prober
        self._brakes = brakes
        brakes.on_release = self._nudge_all
        self._changes = changes
        self._clock = clock
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self._interval_s = prober.settings.interval_s
        self._pacer = ProbePacer(self._begin_check, clock, self._interval_s, concurrency)
        self._known: dict[str, NodeRecord] = {}
        """Rows as last read, without what no verdict is made from; only a hint whether to look."""
        self._stored_of: dict[str, tuple[NodeRecord, Stored]] = {}
        self._judged: dict[str, tuple[NodeFacts, float]] = {}
        """From what each node was last found to be right, and until when that holds if nobody says anything."""
        self._unsettled: set[str] = set()
        self._settling = asyncio.Lock()
        self._newly: dict[str, _Newly] = {}
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._woken = asyncio.Event()
        self.watchers: list[Watcher] = []

    async def run(self) -> None:
        """Keep at it until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._pacer.run(), name="probes")
                self._tasks.create_task(self._settle_what_comes(), name="settling")
                self._tasks.create_task(self._rounds(), name="rounds")
        finally:
            self._tell_newly()

    def nudge(self, node_id: str) -> None:
        """Something arrived from this node: judge it, and settle it if its row seems wrong."""
        record = self._known.get(node_id)
        if record is None or self._seems_changed(record):
            self._unsettled.add(node_id)
            self._woken.set()

    def _nudge_all(self, node_ids: Iterable[str]) -> None:
        self._unsettled.update(node_ids)
        self._woken.set()

    def judge(self, record: NodeRecord) -> Verdict:
        """Give what the node's state should be now, with all reasons."""
        return evaluate(self.facts(record), self._clock.monotonic(), self._settings)

    def facts(self, record: NodeRecord) -> NodeFacts:
        """Give all that a verdict on the node is made from."""
        until_at = None
        if record.maintenance_until_wall_at is not None:
            # To the next second, for the difference of the two clocks wavers.
            left_s = record.maintenance_until_wall_at - self._clock.wall()
            until_at = float(math.ceil(self._clock.monotonic() + left_s))
        return self._arrivals.of(record.id).facts(self._stored(record), until_at)

    def _stored(self, record: NodeRecord) -> Stored:
        """Give what the row says; made once for each row that is read, for it is asked for at every sign."""
        record_before, stored = self._stored_of.get(record.id, (None, None))
        if stored is None or record_before is not record:
            stored = record.stored
            if self._known.get(record.id) is record:
                self._stored_of[record.id] = (record, stored)
        return stored

    @property
    def settings(self) -> Settings:
        """Give the thresholds of its verdicts."""
        return self._settings

    def next_probe_at(self, node_id: str) -> float | None:
        """Give when the node is checked next; None: it is not watched, or is being checked now."""
        return self._pacer.next_at(node_id)

    def reread(self, node_id: str) -> None:
        """The node's row was changed elsewhere: read it again and judge the node."""
        self._known.pop(node_id, None)
        self.nudge(node_id)

    def probe_now(self, node_id: str) -> None:
        """Check this node at once, at the address that its row has now."""
        self.reread(node_id)
        self._pacer.check_now(node_id)

    async def round(self) -> None:
        """Look which rows were changed elsewhere, watch new nodes, settle what differs, and tell what is new."""
        started_at = self._clock.monotonic()
        await self._reread_changed()
        differing = []
        for position, record in enumerate(list(self._known.values())):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            self._pacer.watch(record.id)
            if not self._is_judged(record) and self._seems_changed(record):
                differing.append(record.id)
        await self.settle(differing)
        self._tell_newly()
        self._count_states()
        self._metrics.set("probes_under_way", self._pacer.under_way)
        self._metrics.count("probes_late_total", self._pacer.take_late())
        self._metrics.count("sync_rounds_total")
        self._metrics.observe("sync_round_duration_seconds", self._clock.monotonic() - started_at)

    async def _reread_changed(self) -> None:
        """Read the rows whose version isn't the known one, and forget the nodes that have none any more."""
        gone = set(self._known)
        last_id, is_last = "", False
        while not is_last:
            async with self._database.reading() as session:
                page = await row_versions.page(session, last_id)
                changed = [
                    node_id
                    for node_id, version_id in page
                    if (known := self._known.get(node_id)) is None or known.version_id != version_id
                ]
                for record in await nodes.read(session, changed) if changed else ():
                    self._remember(record)
            gone.difference_update(node_id for node_id, _ in page)
            is_last = len(page) < row_versions.PAGE
            last_id = "" if is_last else page[-1][0]
        for node_id in gone:
            self.forget(node_id)

    def _remember(self, record: NodeRecord) -> None:
        self._known[record.id] = replace(record, labels=_NOTHING, labels_set=_NOTHING, capacity=_NOTHING)

    def forget(self, node_id: str) -> None:
        """The node is not the fleet's any more."""
        self._known.pop(node_id, None)
        self._stored_of.pop(node_id, None)
        self._judged.pop(node_id, None)
        self._due_at.pop(node_id, None)
        self._pacer.unwatch(node_id)
        self._prober.forget(node_id)
        self._brakes.forget(node_id)
        for watcher in self.watchers:
            watcher.forget(node_id)

    async def settle(self, node_ids: Iterable[str]) -> set[str]:
        """Bring the rows of these nodes up to date; give the ids of those that were written."""
        async with self._settling:
            return await self._settle(node_ids)

    async def _settle(self, node_ids: Iterable[str]) -> set[str]:
        written: set[str] = set()
        left = list(node_ids)
        for _ in range(TRIES):
            if not left:
                break
            async with self._database.reading() as session:
                records = await nodes.read(session, left)
            wanted = self._wanted_changes(records)
            if not wanted:
                left = []
                break
            async with self._database.writing("verdicts") as session:
                wall_now = self._clock.wall()
                won = await nodes.store_verdicts(session, wanted, wall_now)
                ended = _maintenance_ended(records, wanted, won)
                if ended:
                    await maintenance.note_ended(session, ended, wall_now)
            self._take_note(records, wanted, won)
            written |= won
            left = [change.id for change in wanted if change.id not in won]
            if left:
                self._metrics.count("verdict_conflicts_total", len(left))
        self._unsettled.update(left)
        return written

    def _begin_check(self, node_id: str) -> Cancellable | None:
        """Begin a check; of a node whose row isn't known, by reading that first."""
        try:
            record = self._known.get(node_id)
            if record is None:
                return self._begin_reading(node_id)
            if record.healthz is None:
                return None
            return self._prober.begin(node_id, *record.healthz, partial(self._probed, record))
        except Exception:
            self._check_failed(node_id)
            return None

    def _begin_reading(self, node_id: str) -> Cancellable | None:
        reading = self._read_and_check(node_id)
        try:
            return self._tasks.create_task(reading, name=f"row of {node_id}")
        except RuntimeError:
            reading.close()
            return None  # we are being stopped

    async def _read_and_check(self, node_id: str) -> None:
        record = None
        try:
            record = await self._read_one(node_id)
        except Exception:
            self._check_failed(node_id)
        self._pacer.ended(node_id)
        if record is not None and record.healthz is not None:
            self._pacer.check_now(node_id)

    def _probed(self, record: NodeRecord, probe: ProbeFact) -> None:
        """A check has ended: take its result in."""
        node_id = record.id
        self._pacer.ended(node_id)
        try:
            known = self._known.get(node_id)
            if known is not None and known.healthz != record.healthz:
                self._pacer.check_now(node_id)  # an answer from an address that is not the node's any more
                return
            self._arrivals.of(node_id).probed(probe)
            facts = self.facts(known or record)
            recheck_s = recheck_in_s(facts, self._clock.monotonic(), self._settings)
            if recheck_s is not None:
                self._pacer.check_in(node_id, recheck_s)
            if known is None or self._seems_changed(known, facts):
                self._unsettled.add(node_id)
                self._woken.set()
        except Exception:
            self._check_failed(node_id)

    def _check_failed(self, node_id: str) -> None:
        self._metrics.count("sync_node_failures_total")
        self._log.exception("node check failed", node=node_id)

    async def _read_one(self, node_id: str) -> NodeRecord | None:
        async with self._database.reading() as session:
            records = await nodes.read(session, [node_id])
        if not records:
            return None
        self._remember(records[0])
        return records[0]

    async def _rounds(self) -> None:
        while True:
            started_at = self._clock.monotonic()
            try:
                await self.round()
            except Exception:
                self._round_failed()
            # Late, never doubled: an overrun shortens nothing but the pause.
            took_s = self._clock.monotonic() - started_at
            if took_s > self._interval_s:
                self._metrics.count("sync_round_overruns_total")
                self._log.warning("sync round overran", took_s=round(took_s, 3), interval_s=self._interval_s)
            await asyncio.sleep(max(0.1, self._interval_s - took_s))

    async def _settle_what_comes(self) -> None:
        pause_s = FAILED_PAUSE_S
        while True:
            self._woken.clear()
            self._collect_due()
            batch, self._unsettled = self._unsettled, set()
            if batch:
                started_at = self._clock.monotonic()
                try:
                    await self.settle(batch)
                except Exception:
                    self._round_failed(len(batch))
                    self._unsettled |= batch
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, self._interval_s)
                else:
                    pause_s = FAILED_PAUSE_S
                    # As long again: what comes meanwhile is settled together.
                    await asyncio.sleep(min(self._clock.monotonic() - started_at, LONGEST_PAUSE_S))
                continue
            timeout_s = self._due[0][0] - self._clock.monotonic() if self._due else self._interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, timeout_s)):
                    await self._woken.wait()

    def _round_failed(self, batch: int | None = None) -> None:
        """All that was to be settled is found again by the next round."""
        self._metrics.count("sync_round_failures_total")
        self._log.exception("sync round failed", **({} if batch is None else {"nodes": batch}))

    def _collect_due(self) -> None:
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            at, node_id = heapq.heappop(self._due)
            if self._due_at.get(node_id) == at:
                del self._due_at[node_id]
                self.nudge(node_id)

    def _is_judged(self, record: NodeRecord) -> bool:
        """Tell whether a verdict would be made from the same facts as the last one, and time changes nothing."""
        judged = self._judged.get(record.id)
        if judged is None or self._clock.monotonic() >= judged[1]:
            return False
        return self.facts(record) == judged[0]

    def _seems_changed(self, record: NodeRecord, facts: NodeFacts | None = None) -> bool:
        """Judge a node against its row as last read, and note when time alone may change the verdict."""
        try:
            now = self._clock.monotonic()
            if facts is None:
                facts = self.facts(record)
            stored = facts.stored
            change_at = next_change_at(facts, now, self._settings)
            # One look ahead for each node is enough: where it comes too early, it looks ahead again.
            if change_at is not None and change_at < self._due_at.get(record.id, math.inf):
                self._due_at[record.id] = change_at
                heapq.heappush(self._due, (change_at, record.id))
                if self._due[0] == (change_at, record.id):
                    self._woken.set()
            verdict = evaluate(facts, now, self._settings)
            self._brakes.note(record.id, stored, verdict)
            for watcher in self.watchers:
                watcher.note(record.id, facts, verdict)
            if verdict.differs_from(stored) and not self._brakes.withholds(record.id, stored, verdict):
                return True
            self._judged[record.id] = (facts, math.inf if change_at is None else change_at)
            return False
        except Exception:
            self._node_failed(record.id)
            return False

    def _wanted_changes(self, records: Sequence[NodeRecord]) -> list[StateChange]:
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        judged: list[tuple[str, Stored, Verdict, StateChange | None]] = []
        for record in records:
            self._remember(record)
            try:
                facts = self.facts(record)
                stored = facts.stored
                verdict = evaluate(facts, now, self._settings)
                for watcher in self.watchers:
                    watcher.note(record.id, facts, verdict)
                change = _change(record, verdict, now, wall_now) if verdict.differs_from(stored) else None
                judged.append((record.id, stored, verdict, change))
            except Exception:
                self._node_failed(record.id)
        return [change for change in self._brakes.filter(judged) if change is not None]

    def _node_failed(self, node_id: str) -> None:
        """One node's exception is that node's: it stays as it is, the others go on."""
        self._metrics.count("sync_node_failures_total")
        self._log.exception("node could not be judged", node=node_id)

    def _take_note(self, records: Sequence[NodeRecord], wanted: Sequence[StateChange], won: set[str]) -> None:
        by_id = {record.id: record for record in records}
        has_events = False
        for change in wanted:
            if change.id not in won:
                continue
            record = by_id[change.id]
            self._known[change.id] = replace(
                self._known.get(change.id, record),
                lifecycle=change.lifecycle,
                unreachable=change.unreachable,
                state=change.state,
                state_reason=change.state_reason,
                state_detail=change.state_detail,
                state_message=change.state_message,
                state_since_wall_at=change.state_since_wall_at,
                version_id=change.version_id + 1,
            )
            if change.state != change.state_before:
                has_events = True
                self._newly.setdefault(change.state, _Newly()).add(f"{record.name}: {change.state_message}")
        self._metrics.count("verdicts_written_total", len(won))
        if has_events:
            self._changes.mark([EVENTS])
        self._changes.mark([*won, NODES] if won else ())

    def _tell_newly(self) -> None:
        """Log the names of the nodes that came to each state since the last round, one line a state."""
        newly, self._newly = self._newly, {}
        for state, nodes_in_it in newly.items():
            self._log.info(
                "nodes changed state", state=state, count=nodes_in_it.count, nodes=nodes_in_it.names
            )

    def _count_states(self) -> None:
        counts = dict.fromkeys(map(str, Word), 0)
        for record in self._known.values():
            counts[record.state] = counts.get(record.state, 0) + 1
        for word, number in counts.items():
            self._metrics.set("nodes", number, state=word)


def _maintenance_ended(
    records: Sequence[NodeRecord], wanted: Sequence[StateChange], won: set[str]
) -> dict[str, str]:
    """Give the nodes whose maintenance a written change has ended, with what its reason was."""
    after = {change.id: change.lifecycle for change in wanted if change.id in won}
    return {
        record.id: record.maintenance_reason or ""
        for record in records
        if record.lifecycle == Lifecycle.MAINTENANCE
        and after.get(record.id, Lifecycle.MAINTENANCE) != Lifecycle.MAINTENANCE
    }


def _change(record: NodeRecord, verdict: Verdict, now: float, wall_now: float) -> StateChange:
    """Turn a verdict into a row's new values; a since-time stays while word and reason do, a sentence with both."""
    reason = verdict.reason
    told_wall_at = None if reason.since_at is None else wall_now - (now - reason.since_at)
    is_same = (record.state, record.state_reason) == (verdict.word, reason.code)
    since_wall_at = record.state_since_wall_at if is_same else told_wall_at or wall_now
    if is_same and record.state_detail == reason.detail:
        message = record.state_message
    else:
        message = reason.sentence(iso(told_wall_at or since_wall_at))
    return StateChange(
        id=record.id,
        version_id=record.version_id,
        lifecycle=verdict.lifecycle,
        unreachable=verdict.unreachable,
        state=verdict.word,
        state_reason=reason.code,
        state_detail=reason.detail,
        state_message=message,
        state_since_wall_at=since_wall_at,
        state_before=record.state,
    )
