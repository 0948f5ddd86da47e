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
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from server_stub.changes import EVENTS, NODES
from server_stub.clock import iso
from server_stub.core.connectivity import Settings, evaluate, next_change_at
from server_stub.core.node_facts import Word
from server_stub.probe_pacer import ProbePacer
from server_stub.store import nodes
from server_stub.store.nodes import StateChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from structlog.typing import FilteringBoundLogger

    from server_stub.arrivals import ArrivalsByNode
    from server_stub.brakes import Brakes
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.core.node_facts import NodeFacts, Stored, Verdict
    from server_stub.metrics import Metrics
    from server_stub.prober import Prober
    from server_stub.store.engine import Database
    from server_stub.store.nodes import NodeRecord

TRIES: Final = 3
STARTING_RECHECK_S: Final = 1.0
SLICE: Final = 200
"""Nodes judged before others get their turn on the event loop."""
NAMES_SHOWN: Final = 20


class Watcher(Protocol):
    """Whoever follows every judgement, whether it is written or not."""

    def note(self, node_id: str, facts: NodeFacts, verdict: Verdict) -> None:
        """A node was judged."""
        ...

    def forget(self, node_id: str) -> None:
        """The node is not the fleet's any more."""
        ...


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
        self._pacer = ProbePacer(self._check, clock, self._interval_s, concurrency)
        self._known: dict[str, NodeRecord] = {}
        """Rows as last read; only a hint whether to look."""
        self._unsettled: set[str] = set()
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._woken = asyncio.Event()
        self.watchers: list[Watcher] = []

    async def run(self) -> None:
        """Keep at it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pacer.run(), name="probes")
            tasks.create_task(self._settle_what_comes(), name="settling")
            tasks.create_task(self._rounds(), name="rounds")

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
        facts = self._arrivals.of(record.id).facts(record.stored)
        return evaluate(facts, self._clock.monotonic(), self._settings)

    def reread(self, node_id: str) -> None:
        """The node's row was changed elsewhere: read it again and judge the node."""
        self._known.pop(node_id, None)
        self.nudge(node_id)

    def probe_now(self, node_id: str) -> None:
        """Check this node at once, at the address that its row has now."""
        self.reread(node_id)
        self._pacer.check_now(node_id)

    async def round(self) -> None:
        """Read all rows, watch new nodes, settle what differs."""
        started_at = self._clock.monotonic()
        async with self._database.reading() as session:
            records = await nodes.read(session)
        differing = []
        for position, record in enumerate(records):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            self._pacer.watch(record.id)
            self._known[record.id] = record
            if self._seems_changed(record):
                differing.append(record.id)
        for node_id in self._known.keys() - {record.id for record in records}:
            del self._known[node_id]
            self._brakes.forget(node_id)
            for watcher in self.watchers:
                watcher.forget(node_id)
        await self.settle(differing)
        self._count_states()
        self._metrics.count("sync_rounds_total")
        self._metrics.observe("sync_round_duration_seconds", self._clock.monotonic() - started_at)

    async def settle(self, node_ids: Iterable[str]) -> set[str]:
        """Bring the rows of these nodes up to date; give the ids of those that were written."""
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
            async with self._database.writing() as session:
                won = await nodes.store_verdicts(session, wanted, self._clock.wall())
            self._take_note(records, wanted, won)
            written |= won
            left = [change.id for change in wanted if change.id not in won]
            if left:
                self._metrics.count("verdict_conflicts_total", len(left))
        self._unsettled.update(left)
        return written

    async def _check(self, node_id: str) -> None:
        """Run one check and take its result in; never raises but when cancelled."""
        try:
            record = self._known.get(node_id) or await self._read_one(node_id)
            if record is None or record.healthz is None:
                return
            probe = await self._prober.check(node_id, *record.healthz)
            self._arrivals.of(node_id).probed(probe)
            if probe.status == "starting":
                self._pacer.check_in(node_id, STARTING_RECHECK_S)
            self.nudge(node_id)
        except Exception:
            self._metrics.count("sync_node_failures_total")
            self._log.exception("node check failed", node=node_id)

    async def _read_one(self, node_id: str) -> NodeRecord | None:
        async with self._database.reading() as session:
            records = await nodes.read(session, [node_id])
        if not records:
            return None
        self._known[node_id] = records[0]
        return records[0]

    async def _rounds(self) -> None:
        while True:
            started_at = self._clock.monotonic()
            try:
                await self.round()
            except Exception:
                self._metrics.count("sync_round_failures_total")
                self._log.exception("sync round failed")
            # Late, never doubled: an overrun shortens nothing but the pause.
            took_s = self._clock.monotonic() - started_at
            await asyncio.sleep(max(0.1, self._interval_s - took_s))

    async def _settle_what_comes(self) -> None:
        while True:
            self._woken.clear()
            self._collect_due()
            batch, self._unsettled = self._unsettled, set()
            if batch:
                try:
                    await self.settle(batch)
                except Exception:
                    self._metrics.count("sync_round_failures_total")
                    self._log.exception("sync round failed", nodes=len(batch))
                    await asyncio.sleep(1.0)  # what was in the batch, the next round finds again
                continue
            timeout_s = self._due[0][0] - self._clock.monotonic() if self._due else self._interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, timeout_s)):
                    await self._woken.wait()

    def _collect_due(self) -> None:
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            at, node_id = heapq.heappop(self._due)
            if self._due_at.get(node_id) == at:
                del self._due_at[node_id]
                self.nudge(node_id)

    def _seems_changed(self, record: NodeRecord) -> bool:
        """Judge a node against its row as last read, and note when time alone may change the verdict."""
        try:
            now = self._clock.monotonic()
            stored = record.stored
            facts = self._arrivals.of(record.id).facts(stored)
            change_at = next_change_at(facts, now, self._settings)
            if change_at is not None and self._due_at.get(record.id) != change_at:
                self._due_at[record.id] = change_at
                heapq.heappush(self._due, (change_at, record.id))
                if self._due[0] == (change_at, record.id):
                    self._woken.set()
            verdict = evaluate(facts, now, self._settings)
            self._brakes.note(record.id, stored, verdict)
            for watcher in self.watchers:
                watcher.note(record.id, facts, verdict)
            return verdict.differs_from(stored) and not self._brakes.withholds(record.id, stored, verdict)
        except Exception:
            self._node_failed(record.id)
            return False

    def _wanted_changes(self, records: Sequence[NodeRecord]) -> list[StateChange]:
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        judged: list[tuple[str, Stored, Verdict, StateChange | None]] = []
        for record in records:
            self._known[record.id] = record
            try:
                stored = record.stored
                verdict = evaluate(self._arrivals.of(record.id).facts(stored), now, self._settings)
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
        newly: dict[str, list[str]] = {}
        for change in wanted:
            if change.id not in won:
                continue
            record = by_id[change.id]
            self._known[change.id] = replace(
                record,
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
                newly.setdefault(change.state, []).append(f"{record.name}: {change.state_message}")
        for state, names in newly.items():
            self._log.info("nodes changed state", state=state, count=len(names), nodes=names[:NAMES_SHOWN])
        self._metrics.count("verdicts_written_total", len(won))
        if newly:
            self._changes.mark([EVENTS])
        self._changes.mark([*won, NODES] if won else ())

    def _count_states(self) -> None:
        counts = dict.fromkeys(map(str, Word), 0)
        for record in self._known.values():
            counts[record.state] = counts.get(record.state, 0) + 1
        for word, number in counts.items():
            self._metrics.set("nodes", number, state=word)


def _change(record: NodeRecord, verdict: Verdict, now: float, wall_now: float) -> StateChange:
    """Turn a verdict into a row's new values; a since-time stays while word and reason do."""
    reason = verdict.reason
    if (record.state, record.state_reason) == (verdict.word, reason.code):
        since_wall_at = record.state_since_wall_at
    elif reason.since_at is not None:
        since_wall_at = wall_now - (now - reason.since_at)
    else:
        since_wall_at = wall_now
    return StateChange(
        id=record.id,
        version_id=record.version_id,
        lifecycle=verdict.lifecycle,
        unreachable=verdict.unreachable,
        state=verdict.word,
        state_reason=reason.code,
        state_detail=reason.detail,
        state_message=f"{reason.detail or reason.code} (since {iso(since_wall_at)})",
        state_since_wall_at=since_wall_at,
        state_before=record.state,
    )
