"""Rollouts under way: what `core.rollout` decides is stored, then done, a few nodes at a time.

A step's mark and its command are one transaction, so a server that falls in between has ordered neither or
both, and the next one goes on from there; the command's key, made of rollout and place, is the second lock.
Times to become healthy begin anew with a new process: nobody fails because the server was away. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nanny.common.identifiers import uuid7
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import CommandKind
from server_stub.changes import EVENTS
from server_stub.command_request import fingerprint_of
from server_stub.core.command_lifecycle import CommandState, may_be_withdrawn
from server_stub.core.node_facts import Word
from server_stub.core.rollout import (
    ENDED,
    CommandFact,
    Decision,
    Rollout,
    RolloutState,
    Step,
    StepFacts,
    StepState,
    abort,
    apply,
    decide,
)
from server_stub.selection import known_incarnation
from server_stub.store import commands as command_store
from server_stub.store import nodes
from server_stub.store import rollouts as store
from server_stub.store.faults import DatabaseUnavailable
from server_stub.store.rollouts import RolloutRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession
    from structlog.typing import FilteringBoundLogger

    from server_stub.arrivals import ArrivalsByNode
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.commands import Commands
    from server_stub.rollout_request import RolloutRequest
    from server_stub.store.commands import CommandRecord
    from server_stub.store.engine import Database
    from server_stub.store.nodes import NodeRecord
    from server_stub.syncer import Syncer

LOOK_S: Final = 0.5
"""How often the nodes of a rollout are looked at."""
SWEEP_S: Final = 60.0
"""How often the database is asked for rollouts that no answer told of."""
RETRY_S: Final = 5.0
"""After the database did not answer."""
SPARE: Final = 32
"""So many more nodes are looked at than there is room for: some may have to be skipped."""


@dataclass(slots=True)
class _Active:
    """A rollout that has not ended, as stored."""

    record: RolloutRecord
    rollout: Rollout
    command_ids: dict[int, str] = field(default_factory=dict)
    """By position."""


class Rollouts:
    """All rollouts that have not ended."""

    def __init__(
        self,
        *,
        database: Database,
        commands: Commands,
        arrivals: ArrivalsByNode,
        syncer: Syncer,
        changes: Changes,
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        self._database = database
        self._commands = commands
        self._arrivals = arrivals
        self._syncer = syncer
        self._changes = changes
        self._clock = clock
        self._log = log
        self._active: dict[str, _Active] = {}
        self._unknown: set[str] = set()
        """Of these, what is to be read again: a commit may have happened without its answer."""
        self._turn = asyncio.Lock()
        """Whoever changes a rollout has it: the loop, or a person who aborts."""
        self.beginning = asyncio.Lock()
        """Held from the look whether nodes are free to the rollout that takes them."""
        self._last_id: str | None = None
        self._woken = asyncio.Event()

    async def load(self) -> None:
        """Take over what is under way and not known here: left by an earlier process, or by a lost commit."""
        async with self._database.reading() as session:
            for record in await store.unfinished(session):
                if record.id not in self._active:
                    self._active[record.id] = await self._read_active(session, record)

    async def run(self) -> None:
        """Bring every rollout on, until cancelled."""
        swept_at = self._clock.monotonic()
        while True:
            self._woken.clear()
            now = self._clock.monotonic()
            try:
                if now >= swept_at + SWEEP_S:
                    swept_at = now
                    await self.load()
                await self._advance_all()
            except DatabaseUnavailable as error:
                self._log.error("rollouts wait for the database", why=str(error))
                self._unknown |= self._active.keys()
                await asyncio.sleep(RETRY_S)
            except Exception:
                self._log.exception("rollouts could not be looked at")
                await asyncio.sleep(RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._active else SWEEP_S):
                    await self._woken.wait()

    async def _advance_all(self) -> None:
        """Bring every rollout on; one that cannot is that one's trouble, unless it is the database's."""
        for rollout_id in list(self._active):
            try:
                async with self._turn:
                    if rollout_id in self._unknown:
                        await self._read_again(rollout_id)
                    await self._advance(rollout_id)
            except DatabaseUnavailable:
                raise
            except Exception:
                self._log.exception("rollout could not go on", rollout=rollout_id)
                self._unknown.add(rollout_id)

    def nodes_under_way(self) -> dict[str, str]:
        """Give the nodes whose turn is not over, with the id of their rollout."""
        over = {StepState.DONE, StepState.FAILED, StepState.SKIPPED}
        return {
            step.node_id: rollout_id
            for rollout_id, active in self._active.items()
            for step in active.rollout.steps
            if step.state not in over
        }

    async def begin(
        self, wanted: RolloutRequest, records: Sequence[NodeRecord], concurrency: int, key: str | None
    ) -> tuple[RolloutRecord, bool]:
        """Store a rollout over these nodes, and start it; gives the stored one and whether it is new.

        Raises:
            KeyReused: the idempotency key was used for another request.
        """
        order, wall_now = wanted.order, self._clock.wall()
        self._last_id = uuid7(int(wall_now * 1000), os.urandom(10), self._last_id)
        new = RolloutRecord(
            id=self._last_id,
            kind=order.kind,
            reason=order.reason,
            actor=order.actor,
            selector=wanted.selection.text,
            parameters=order.parameters,
            time_to_live_s=order.time_to_live_s,
            concurrency=concurrency,
            failures_allowed=wanted.failures_allowed,
            health_timeout_s=wanted.health_timeout_s,
            idempotency_key=key,
            fingerprint=order.fingerprint,
            state=RolloutState.RUNNING,
            detail="",
            created_wall_at=wall_now,
            finished_wall_at=None,
            version_id=1,
        )
        node_ids = [record.id for record in records]
        record, is_new = await self._database.write(
            lambda session: store.begin(session, new, node_ids), "rollouts"
        )
        if is_new or record.id not in self._active:
            await self._read_again(record.id)
        if is_new:
            self._log.info("rollout started", rollout=record.id, kind=record.kind, nodes=len(node_ids))
        self._changes.mark([record.id, EVENTS])
        self._woken.set()
        return record, is_new

    async def abort(self, rollout_id: str, detail: str) -> RolloutRecord | None:
        """Order nothing more in this rollout; gives it as it is then, ended before or not."""
        async with self._turn:
            if rollout_id not in self._active or rollout_id in self._unknown:
                await self._read_again(rollout_id)
            while (active := self._active.get(rollout_id)) is not None:
                aborted = abort(active.rollout, detail)
                if aborted is active.rollout:
                    break
                # Where somebody else was faster, it is read again, and aborted then.
                await self._keep(active, Decision((), aborted.state, aborted.detail))
        self._woken.set()
        async with self._database.reading() as session:
            return await store.find(session, rollout_id)

    # One look

    async def _advance(self, rollout_id: str) -> None:
        """Look at the nodes whose turn it is, and do what follows; again, while something does."""
        while (active := self._active.get(rollout_id)) is not None:
            rollout, now = active.rollout, self._clock.monotonic()
            records, commands = await self._look(active)
            facts = self._facts(active, records, commands)
            decision = decide(rollout, facts, now)
            is_settled = (decision.state, decision.detail) == (rollout.state, rollout.detail)
            if is_settled and not decision.changes:
                await self._withdraw_unsent(active, commands)
                return
            await self._keep(active, decision, records)

    async def _look(self, active: _Active) -> tuple[dict[str, NodeRecord], dict[str, CommandRecord]]:
        steps = [*active.rollout.in_flight(), *active.rollout.candidates(SPARE)]
        ids = {active.command_ids[step.position] for step in steps if step.position in active.command_ids}
        async with self._database.reading() as session:
            records = await nodes.read(session, [step.node_id for step in steps]) if steps else []
            commands = await command_store.find_many(session, ids) if ids else {}
        return {record.id: record for record in records}, commands

    def _facts(
        self, active: _Active, records: Mapping[str, NodeRecord], commands: Mapping[str, CommandRecord]
    ) -> dict[str, StepFacts]:
        facts = {}
        for step in [*active.rollout.in_flight(), *active.rollout.candidates(SPARE)]:
            command = commands.get(active.command_ids.get(step.position, ""))
            facts[step.node_id] = self._facts_of(records.get(step.node_id), command)
        return facts

    def _facts_of(self, record: NodeRecord | None, command: CommandRecord | None) -> StepFacts:
        fact = None
        if command is not None:
            target = command.target_incarnation
            parsed = None if target is None else Incarnation.parse(target)
            fact = CommandFact(CommandState(command.state), command.detail, parsed)
        if record is None:
            return StepFacts(None, is_ready=False, word="deleted", incarnation=None, command=fact)
        verdict = self._syncer.judge(record)
        return StepFacts(
            lifecycle=verdict.lifecycle,
            # The row may lag behind what has arrived, or what has arrived behind the row's two good probes.
            is_ready=record.state == Word.READY and verdict.word is Word.READY,
            word=verdict.word,
            incarnation=None if record.incarnation is None else Incarnation.parse(record.incarnation),
            command=fact,
        )

    async def _keep(
        self, active: _Active, decision: Decision, records: Mapping[str, NodeRecord] | None = None
    ) -> None:
        """Store a decision with the commands that it makes, then do it."""
        record, rollout, wall_now = active.record, active.rollout, self._clock.wall()
        known = records or {}
        drafts = {
            position: self._draft(record, rollout.steps[position], known[rollout.steps[position].node_id])
            for position in decision.orders
        }
        node_ids = {change.position: rollout.steps[change.position].node_id for change in decision.changes}

        async def change(session: AsyncSession) -> dict[int, CommandRecord] | None:
            if not await store.claim(session, record, decision.state, decision.detail, wall_now):
                return None
            made = {
                position: (await command_store.submit(session, [draft]))[0][0]
                for position, draft in drafts.items()
            }
            command_ids = {position: command.id for position, command in made.items()}
            await store.change_steps(session, record.id, decision.changes, node_ids, command_ids, wall_now)
            return made

        made = await self._database.write(change, "rollouts")
        if made is None:
            await self._read_again(record.id)
            return
        active.command_ids |= {position: command.id for position, command in made.items()}
        self._commands.take_up(made.values())
        active.rollout = apply(rollout, decision, self._clock.monotonic())
        await self._read_record(active)
        self._log.info("rollout goes on", rollout=record.id, state=decision.state, detail=decision.detail)
        self._changes.mark([record.id, EVENTS])
        if decision.state in ENDED:
            del self._active[record.id]
            self._changes.forget(record.id)

    def _draft(self, record: RolloutRecord, step: Step, node: NodeRecord) -> CommandRecord:
        is_restart = record.kind == CommandKind.RESTART
        return self._commands.draft(
            node_id=step.node_id,
            kind=record.kind,
            reason=record.reason,
            actor=record.actor,
            time_to_live_s=record.time_to_live_s,
            target=known_incarnation(node, self._arrivals.of(node.id)) if is_restart else None,
            parameters=dict(record.parameters),
            idempotency_key=f"\x1frollout {record.id} {step.position}",
            fingerprint=fingerprint_of(record.id, step.position),
            rollout_id=record.id,
        )

    async def _withdraw_unsent(self, active: _Active, commands: Mapping[str, CommandRecord]) -> None:
        """Take back what an aborted rollout has ordered and nobody was told of yet."""
        if active.rollout.state is not RolloutState.ABORTING:
            return
        for command in commands.values():
            if may_be_withdrawn(CommandState(command.state)):
                await self._commands.withdraw(command.id, "its rollout was aborted")
                self._woken.set()

    async def _read_record(self, active: _Active) -> None:
        async with self._database.reading() as session:
            record = await store.find(session, active.record.id)
        if record is not None:
            active.record = record

    async def _read_again(self, rollout_id: str) -> None:
        """Somebody else has changed it, or a commit's fate is unknown: go by what is stored."""
        async with self._database.reading() as session:
            record = await store.find(session, rollout_id)
            if record is None or record.is_finished:
                self._active.pop(rollout_id, None)
            else:
                self._active[rollout_id] = await self._read_active(session, record)
        await self._commands.load()
        self._unknown.discard(rollout_id)

    async def _read_active(self, session: AsyncSession, record: RolloutRecord) -> _Active:
        now = self._clock.monotonic()
        rows = await store.steps(session, record.id)
        steps = tuple(
            Step(row.position, row.node_id, StepState(row.state), row.detail, since_at=now) for row in rows
        )
        rollout = Rollout(
            concurrency=record.concurrency,
            failures_allowed=record.failures_allowed,
            health_timeout_s=record.health_timeout_s,
            steps=steps,
            state=RolloutState(record.state),
            detail=record.detail,
            time_to_live_s=record.time_to_live_s,
        )
        command_ids = {row.position: row.command_id for row in rows if row.command_id is not None}
        return _Active(record, rollout, command_ids)
