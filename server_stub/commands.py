"""Commands on their way: from the database to the node's link, and their outcomes back, at least once each.

Stored before it is told of, `sent` before its first byte, acknowledged after its outcome is stored: killing
the server anywhere loses none, and the nanny's ledger makes the second delivery harmless. Time to live runs
on the monotonic clock of the process that took the command; a later process goes by the stored wall-clock
expiry. A command that may have reached its node is never called expired here: it is sent again with no time
left, and the nanny says what became of it.

One task delivers, for many nodes at a time: a round is one reading and one transaction, however many nodes
it is for. What is due when is in heaps, so that a node costs nothing while nothing of it is due. Knows no
HTTP and no frames.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, assert_never

from nanny.common.identifiers import parse_uuid7, uuid7
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import CommandOrder, OutcomeAcknowledged, Role
from server_stub import fault_point
from server_stub.changes import EVENTS
from server_stub.core.command_lifecycle import CommandState, is_finished, may_expire_unsent
from server_stub.core.open_commands import OpenCommands
from server_stub.group_commit import GroupCommit
from server_stub.store import commands as store
from server_stub.store.commands import CommandRecord, Moved, News
from server_stub.store.faults import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from structlog.typing import FilteringBoundLogger

    from nanny.protocol.messages import CommandAccepted, CommandOutcome, Scalar
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.connections import Connection, OpenConnections
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

RETRY_S: Final = 5.0
CONFIRMED_WITHIN_S: Final = 15.0
"""An order that its nanny has not confirmed by then is sent again; the ledger takes it once."""
SWEEP_S: Final = 60.0
"""How often all that is open is read and looked over, for what neither a commit of unknown fate nor a heap told."""
NODES_AT_A_TIME: Final = 200
SENDS_AT_A_TIME: Final = 25
"""Then other tasks have their turn: a frame costs some 0.1 ms to make."""
EXPIRED_UNSENT: Final = "its time was over before it could be sent"


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
        self._group = GroupCommit(database, store.take_news)
        self._open = OpenCommands()
        self._due: dict[str, list[asyncio.Future[None]]] = {}
        """Nodes to deliver to in the next round, and who waits for that round."""
        self._is_over = False
        self._last_id: str | None = None
        self._woken = asyncio.Event()

    async def load(self) -> None:
        """Take over what is undelivered and not known here: left by an earlier process, or by a lost commit."""
        async with self._database.reading() as session:
            left = await store.undelivered(session)
        self._take_over(left)

    def _take_over(self, records: Iterable[CommandRecord]) -> None:
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        for record in records:
            if record.state in store.OPEN and self._open.expires_at(record.node_id, record.id) is None:
                self._keep(record, now + record.expires_wall_at - wall_now)
                self.wake(record.node_id)

    async def run(self) -> None:
        """Deliver what is due, expire what was never sent, send again what was not confirmed, until cancelled."""
        swept_at = self._clock.monotonic()
        try:
            while True:
                self._woken.clear()
                now = self._clock.monotonic()
                self._collect_due(now)
                if now >= swept_at + SWEEP_S:
                    swept_at = now
                    await self._sweep()
                if self._due:
                    await self._round()
                    continue
                next_at = self._open.next_at()
                wake_at = swept_at + SWEEP_S if next_at is None else min(next_at, swept_at + SWEEP_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.001, wake_at - now)):
                        await self._woken.wait()
        finally:
            self._is_over = True
            for waiting in self._due.values():
                _release(waiting)
            self._due.clear()

    async def close(self) -> None:
        """Wait until what the nodes told is stored."""
        await self._group.close()

    def count_open(self, node_id: str) -> int:
        """Give how many of the node's commands no nanny has confirmed."""
        return self._open.count(node_id)

    # In

    def draft(
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
        rollout_id: str | None = None,
        batch_id: str | None = None,
    ) -> CommandRecord:
        """Give a new command as it is to be stored, with an id later than all before it."""
        wall_now = self._clock.wall()
        self._last_id = uuid7(int(wall_now * 1000), os.urandom(10), self._last_id)
        return CommandRecord(
            id=self._last_id,
            node_id=node_id,
            rollout_id=rollout_id,
            batch_id=batch_id,
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
        new = self.draft(
            node_id=node_id,
            kind=kind,
            reason=reason,
            actor=actor,
            time_to_live_s=time_to_live_s,
            target=target,
            parameters=parameters,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )
        records, is_new = await self.submit_all([new])
        if is_new:
            await self.deliver(node_id)
        return records[0], is_new

    async def submit_all(self, new: Sequence[CommandRecord]) -> tuple[list[CommandRecord], bool]:
        """Store drafts, all or none, and have them sent; gives the stored ones and whether they are new.

        Raises:
            KeyReused: the idempotency key of the first was used for another request.
        """
        fault_point.reach("storing")
        records, is_new = await self._database.write(lambda session: store.submit(session, new), "commands")
        fault_point.reach("stored")
        if is_new:
            self.take_up(records)
        else:
            self._take_over(records)
        return records, is_new

    def take_up(self, records: Iterable[CommandRecord]) -> None:
        """These are stored now: have them sent."""
        now = self._clock.monotonic()
        for record in records:
            self._keep(record, now + record.time_to_live_s)
            self._due.setdefault(record.node_id, [])
            self._note(record.id, CommandState.QUEUED)
            self._log.info(
                "command queued",
                command=record.id,
                node=record.node_id,
                kind=record.kind,
                actor=record.actor,
                why=record.reason,
            )
        self._woken.set()

    async def withdraw(self, command_id: str, detail: str) -> CommandRecord | None:
        """End a command that was never sent as superseded; gives it as it is then, changed or not."""
        wall_now = self._clock.wall()
        record, is_withdrawn = await self._database.write(
            lambda session: store.withdraw(session, command_id, wall_now, detail), "commands"
        )
        if record is not None and is_withdrawn:
            self._moved(record.id, record.node_id, CommandState.SUPERSEDED, detail)
        return record

    async def withdraw_all(self, node_id: str, detail: str) -> None:
        """End what the node was never sent as superseded."""
        ids = self._open.unsent_of(node_id)
        await self._move_queued(dict.fromkeys(ids, node_id), CommandState.SUPERSEDED, detail)

    # Out

    def wake(self, node_id: str) -> None:
        """The node's link is there: send it what it has not confirmed, soon."""
        if node_id in self._open:
            self._due.setdefault(node_id, [])
            self._woken.set()

    async def deliver(self, node_id: str) -> None:
        """Send the node's link what it has not confirmed, and return when that is on its way, or cannot be."""
        if node_id not in self._open or self._is_over:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due.setdefault(node_id, []).append(future)
        self._woken.set()
        await future

    async def _round(self) -> None:
        """Deliver to some of the nodes that are due."""
        batch = list(self._due)[:NODES_AT_A_TIME]
        waiting = [future for node_id in batch for future in self._due.pop(node_id)]
        try:
            await self._deliver_to([node_id for node_id in batch if node_id in self._open])
        except Exception as error:
            if isinstance(error, DatabaseUnavailable):
                self._log.error("commands wait for the database", count=len(batch), why=str(error))
            else:
                self._log.exception("delivery failed", nodes=batch[:10], count=len(batch))
            for node_id in batch:
                self._look_again(node_id, RETRY_S)
        finally:
            _release(waiting)

    async def _deliver_to(self, node_ids: Collection[str]) -> None:
        """Send these nodes' links what they have not confirmed, oldest first; expire what came to nothing."""
        if not node_ids:
            return
        known = {command_id: node_id for node_id in node_ids for command_id in self._open.of(node_id)}
        async with self._database.reading() as session:
            records = await store.undelivered(session, node_ids)
        for command_id in known.keys() - {record.id for record in records}:
            self._open.drop(known[command_id], command_id)  # confirmed since it was taken over
        links = {node_id: self._connections.find(Role.LINK, node_id) for node_id in node_ids}
        expired: dict[str, str] = {}
        ready: list[tuple[CommandRecord, Connection]] = []
        for record in records:
            link = links[record.node_id]
            if may_expire_unsent(CommandState(record.state), self._remaining_s(record)):
                expired[record.id] = record.node_id
            elif link is not None and self._is_under_way(record.id, link.session_id):
                self._look_again(record.node_id, CONFIRMED_WITHIN_S)
            elif link is not None:
                ready.append((record, link))
        await self._move_queued(expired, CommandState.EXPIRED, EXPIRED_UNSENT)
        queued = {record.id: record.node_id for record, _ in ready if record.state == CommandState.QUEUED}
        moved = await self._move_queued(queued, CommandState.SENT)
        fault_point.reach("marked sent")
        for position, (record, link) in enumerate(ready):
            if position % SENDS_AT_A_TIME == SENDS_AT_A_TIME - 1:
                await asyncio.sleep(0)
            if record.id not in queued or record.id in moved:
                self._send(record, link)

    def _send(self, record: CommandRecord, link: Connection) -> None:
        if self._connections.find(Role.LINK, record.node_id) is not link:
            self.wake(record.node_id)  # the next one may have come before this was marked as sent
            return
        if self._open.expires_at(record.node_id, record.id) is None:
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
            self._open.carried_by(record.id, link.session_id, self._clock.monotonic())
            self._look_again(record.node_id, CONFIRMED_WITHIN_S)
            fault_point.reach("handed to the link")
        else:
            self._look_again(record.node_id, RETRY_S)

    def _is_under_way(self, command_id: str, session_id: str) -> bool:
        """Tell whether this session carries the command, and its nanny may still confirm it."""
        return self._open.is_under_way(command_id, session_id, self._clock.monotonic(), CONFIRMED_WITHIN_S)

    def _remaining_s(self, record: CommandRecord) -> float:
        deadline = self._open.expires_at(record.node_id, record.id)
        if deadline is None:
            return record.expires_wall_at - self._clock.wall()
        return deadline - self._clock.monotonic()

    # When

    def _keep(self, record: CommandRecord, expires_at: float) -> None:
        is_unsent = record.state == CommandState.QUEUED
        self._open.keep(record.node_id, record.id, expires_at, is_unsent=is_unsent)

    def _look_again(self, node_id: str, in_s: float) -> None:
        self._open.look_again(node_id, self._clock.monotonic() + in_s)

    def _collect_due(self, now: float) -> None:
        for node_id in self._open.come_up(now):
            # Without a link only what may expire is worth a look; a link that comes wakes its node.
            has_link = self._connections.find(Role.LINK, node_id) is not None
            if has_link or self._open.unsent_of(node_id):
                self._due.setdefault(node_id, [])

    async def _sweep(self) -> None:
        try:
            await self.load()
        except Exception:
            self._log.exception("undelivered commands could not be read")
        for node_id in self._open.nodes():
            link = self._connections.find(Role.LINK, node_id)
            commands = self._open.of(node_id)
            if link is not None and not all(self._is_under_way(one, link.session_id) for one in commands):
                self._due.setdefault(node_id, [])

    # Back

    async def accepted(self, node_id: str, message: CommandAccepted) -> None:
        """The nanny has the command in its ledger."""
        fault_point.reach("accepting")
        await self._take_news(News(message.command_id, node_id, CommandState.ACCEPTED, self._clock.wall()))
        fault_point.reach("accepted")

    async def ended(self, node_id: str, message: CommandOutcome) -> OutcomeAcknowledged:
        """The nanny says what became of the command; gives what to answer once it is stored."""
        after = CommandState(message.outcome.value)
        incarnation = None if message.incarnation is None else str(message.incarnation)
        fault_point.reach("ending")
        await self._take_news(
            News(message.command_id, node_id, after, self._clock.wall(), message.detail, incarnation)
        )
        fault_point.reach("ended")
        return OutcomeAcknowledged(message.command_id)

    async def _take_news(self, news: News) -> None:
        moved = await self._group.put(news)
        match moved:
            case Moved.YES:
                self._moved(news.command_id, news.node_id, news.after, news.detail)
            case Moved.OLD_NEWS:
                pass
            case Moved.CONTRADICTION:
                self._metrics.count("command_contradictions_total")
                self._log.error(
                    "second, other outcome", command=news.command_id, node=news.node_id, outcome=news.after
                )
            case Moved.NO_SUCH_COMMAND:
                self._log.warning(
                    "news of an unknown command", command=news.command_id, node=news.node_id, state=news.after
                )
            case _:
                assert_never(moved)

    async def _move_queued(
        self, node_by_command: dict[str, str], after: CommandState, detail: str = ""
    ) -> set[str]:
        """Bring those that are still queued to `after`, in one transaction; gives their ids."""
        if not node_by_command:
            return set()
        wall_now = self._clock.wall()
        moved = await self._database.write(
            lambda session: store.move_queued(session, node_by_command, after, wall_now, detail), "commands"
        )
        for command_id in moved:
            self._moved(command_id, node_by_command[command_id], after, detail)
        return moved

    def _moved(self, command_id: str, node_id: str, after: CommandState, detail: str) -> None:
        if after is CommandState.SENT:
            self._open.marked_sent(command_id)
        else:
            self._open.drop(node_id, command_id)
        self._note(command_id, after)
        self._log.info("command moved", command=command_id, node=node_id, state=after, detail=detail)

    def _note(self, command_id: str, after: CommandState) -> None:
        self._metrics.count("commands_total", state=after)
        self._changes.mark([command_id, EVENTS])
        if is_finished(after):
            self._changes.forget(command_id)
            # A command's id holds the instant of its making, also when an earlier process made it.
            took_s = max(0.0, self._clock.wall() - parse_uuid7(command_id) / 1000)
            self._metrics.observe("command_duration_seconds", took_s, outcome=after)


def _release(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
