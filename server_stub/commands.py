"""Commands on their way: from the database to the node's link, and their outcomes back, at least once each.

Stored before it is told of, `sent` before its first byte, acknowledged after its outcome is stored: killing
the server anywhere loses none, and the nanny's ledger makes the second delivery harmless. Time to live runs
on the monotonic clock of the process that took the command; a later process goes by the stored wall-clock
expiry. A command that may have reached its node is never called expired here: it is sent again with no time
left, and the nanny says what became of it. Knows no HTTP and no frames.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nanny.common.identifiers import uuid7
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import CommandOrder, OutcomeAcknowledged, Role
from server_stub.changes import EVENTS
from server_stub.core.command_lifecycle import CommandState, IllegalTransition, is_finished, may_expire_unsent
from server_stub.store import commands as store
from server_stub.store.commands import CommandRecord, Moved

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from structlog.typing import FilteringBoundLogger

    from nanny.protocol.messages import CommandAccepted, CommandOutcome, Scalar
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.connections import OpenConnections
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

RETRY_S: Final = 5.0
CONFIRMED_WITHIN_S: Final = 15.0
"""An order that its nanny has not confirmed by then is sent again; the ledger takes it once."""


class Commands:
    """All commands that are not finished, and the way to their nodes."""

    def __init__(
        self,
        *,
        database: Database,
        connections: OpenConnections,
        changes: Changes,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._connections = connections
        self._changes = changes
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._deadlines: dict[str, tuple[float, str]] = {}
        """Command id to (monotonic expiry, node id), of those that no nanny has confirmed."""
        self._unsent: set[str] = set()
        """Of these, the queued ones: they alone may expire here."""
        self._sent_on: dict[str, tuple[str, float]] = {}
        """Command id to the session that carries it, and since when."""
        self._turns: dict[str, asyncio.Lock] = {}
        self._last_id: str | None = None
        self._woken = asyncio.Event()

    async def load(self) -> None:
        """Take over what an earlier process left undelivered."""
        async with self._database.reading() as session:
            left = await store.undelivered(session)
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        for record in left:
            self._deadlines[record.id] = (now + record.expires_wall_at - wall_now, record.node_id)
            if record.state == CommandState.QUEUED:
                self._unsent.add(record.id)

    async def run(self) -> None:
        """Expire what was never sent, and send again what could not be, until cancelled."""
        while True:
            self._woken.clear()
            now = self._clock.monotonic()
            unsent = [self._deadlines[command_id] for command_id in self._unsent]
            wanting = {node_id for at, node_id in unsent if at <= now}
            for command_id, (_, node_id) in self._deadlines.items():
                link = self._connections.find(Role.LINK, node_id)
                if link is not None and not self._is_under_way(command_id, link.session_id):
                    wanting.add(node_id)
            for node_id in wanting:
                try:
                    await self.deliver(node_id)
                except Exception:
                    self._log.exception("delivery failed", node=node_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(min([RETRY_S, *(at - now for at, _ in unsent if at > now)])):
                    await self._woken.wait()

    def count_open(self, node_id: str) -> int:
        """Give how many of the node's commands no nanny has confirmed."""
        return sum(1 for _, owner in self._deadlines.values() if owner == node_id)

    async def submit(
        self,
        *,
        node_id: str,
        kind: str,
        reason: str,
        actor: str,
        time_to_live_s: float,
        target: Incarnation | None,
        parameters: dict[str, Scalar],
        idempotency_key: str | None,
        fingerprint: str,
    ) -> tuple[CommandRecord, bool]:
        """Store a command and send it on; gives the stored one and whether it is new.

        Raises:
            KeyReused: the idempotency key was used for another request.
        """
        wall_now, now = self._clock.wall(), self._clock.monotonic()
        self._last_id = uuid7(int(wall_now * 1000), os.urandom(10), self._last_id)
        new = CommandRecord(
            id=self._last_id,
            node_id=node_id,
            kind=kind,
            reason=reason,
            actor=actor,
            target_incarnation=None if target is None else str(target),
            parameters=parameters,
            time_to_live_s=time_to_live_s,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            state=CommandState.QUEUED,
            detail="",
            incarnation_after=None,
            created_wall_at=wall_now,
            expires_wall_at=wall_now + time_to_live_s,
            sent_wall_at=None,
            accepted_wall_at=None,
            finished_wall_at=None,
        )
        record, is_new = await self._database.write(lambda session: store.submit(session, new))
        if is_new:
            self._deadlines[record.id] = (now + time_to_live_s, node_id)
            self._unsent.add(record.id)
            self._note(record.id, CommandState.QUEUED)
            self._log.info(
                "command queued", command=record.id, node=node_id, kind=kind, actor=actor, why=reason
            )
            await self.deliver(node_id)
            self._woken.set()
        return record, is_new

    async def deliver(self, node_id: str) -> None:
        """Send the node's link what it has not confirmed, oldest first; expire what came to nothing."""
        if not any(owner == node_id for _, owner in self._deadlines.values()):
            return
        async with self._turns.setdefault(node_id, asyncio.Lock()):
            async with self._database.reading() as session:
                records = await store.undelivered(session, node_id)
            for record in records:
                await self._deliver_one(record)

    async def _deliver_one(self, record: CommandRecord) -> None:
        state = CommandState(record.state)
        remaining_s = self._remaining_s(record)
        if may_expire_unsent(state, remaining_s):
            detail = "its time was over before it could be sent"
            await self._move(record.id, record.node_id, CommandState.EXPIRED, detail=detail)
            return
        link = self._connections.find(Role.LINK, record.node_id)
        if link is None or self._is_under_way(record.id, link.session_id):
            return
        if state is CommandState.QUEUED:
            moved = await self._move(record.id, record.node_id, CommandState.SENT)
            if moved is not Moved.YES or self._connections.find(Role.LINK, record.node_id) is not link:
                return
        target = record.target_incarnation
        order = CommandOrder(
            command_id=record.id,
            kind=record.kind,
            time_to_live_s=max(0.0, self._remaining_s(record)),
            reason=record.reason,
            actor=record.actor,
            target=None if target is None else Incarnation.parse(target),
            parameters=dict(record.parameters),
        )
        if link.send(order):
            self._sent_on[record.id] = (link.session_id, self._clock.monotonic())

    def _is_under_way(self, command_id: str, session_id: str) -> bool:
        """Tell whether this session carries the command, for not so long that its nanny should have confirmed."""
        carried = self._sent_on.get(command_id)
        if carried is None or carried[0] != session_id:
            return False
        return self._clock.monotonic() < carried[1] + CONFIRMED_WITHIN_S

    def _remaining_s(self, record: CommandRecord) -> float:
        deadline = self._deadlines.get(record.id)
        if deadline is None:
            return record.expires_wall_at - self._clock.wall()
        return deadline[0] - self._clock.monotonic()

    async def accepted(self, node_id: str, message: CommandAccepted) -> None:
        """The nanny has the command in its ledger."""
        await self._ended_or_accepted(node_id, message.command_id, CommandState.ACCEPTED)

    async def ended(self, node_id: str, message: CommandOutcome) -> OutcomeAcknowledged:
        """The nanny says what became of the command; gives what to answer once it is stored."""
        after = CommandState(message.outcome.value)
        incarnation = None if message.incarnation is None else str(message.incarnation)
        await self._ended_or_accepted(
            node_id, message.command_id, after, detail=message.detail, incarnation=incarnation
        )
        return OutcomeAcknowledged(message.command_id)

    async def _ended_or_accepted(
        self,
        node_id: str,
        command_id: str,
        after: CommandState,
        *,
        detail: str = "",
        incarnation: str | None = None,
    ) -> None:
        try:
            moved = await self._move(command_id, node_id, after, detail=detail, incarnation=incarnation)
        except IllegalTransition:
            # Its sending was forgotten (a restored database, say), and the nanny's word proves it.
            await self._move(command_id, node_id, CommandState.SENT)
            moved = await self._move(command_id, node_id, after, detail=detail, incarnation=incarnation)
        if moved is Moved.CONTRADICTION:
            self._metrics.count("command_contradictions_total")
            self._log.error("second, other outcome", command=command_id, node=node_id, outcome=after)
        elif moved is Moved.NO_SUCH_COMMAND:
            self._log.warning("news of an unknown command", command=command_id, node=node_id, state=after)

    async def _move(
        self,
        command_id: str,
        node_id: str,
        after: CommandState,
        *,
        detail: str = "",
        incarnation: str | None = None,
    ) -> Moved:
        wall_now = self._clock.wall()

        async def change(session: AsyncSession) -> Moved:
            return await store.move(
                session, command_id, node_id, after, wall_now, detail=detail, incarnation=incarnation
            )

        moved = await self._database.write(change)
        if moved is Moved.YES:
            self._unsent.discard(command_id)
            if after is not CommandState.SENT:
                self._deadlines.pop(command_id, None)
                self._sent_on.pop(command_id, None)
            self._note(command_id, after)
            self._log.info("command moved", command=command_id, node=node_id, state=after, detail=detail)
        return moved

    def _note(self, command_id: str, after: CommandState) -> None:
        self._metrics.count("commands_total", state=after)
        self._changes.mark([command_id, EVENTS])
        if is_finished(after):
            self._changes.forget(command_id)
