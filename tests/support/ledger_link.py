"""A link that never gives up, in front of the nanny's own ledger: real session, real ledger, counted effects.

It dials again whenever its connection is gone, for as long as it lives, and does what `nanny.link` and the nanny's
core do together: an id that the ledger knows has no second effect, its outcome is told until the server has
acknowledged it, and again in every session that the server has forgotten. It knows nothing of what breaks the
connection.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aiohttp

from nanny.core.actions import Outcome as LedgerOutcome
from nanny.core.command_ledger import Finished, Ledger, Pending
from nanny.core.events import Command, CommandKind, Source
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    Outcome,
    OutcomeAcknowledged,
    Role,
)
from nanny.protocol.session_events import (
    Established,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from tests.support.server_peers import hello, life, nanny_report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nanny.protocol.session_events import SessionEvent

REDIAL_S = 0.01


class LedgerLink:
    """One node's link and ledger.

    Attributes:
        ledger: the nanny's.
        effects: command ids, one entry for each time that a command had its effect.
        established: set while a session is open.
        connections_total: how often the server greeted it.
    """

    def __init__(self, url: Callable[[], str | None], node_id: str) -> None:
        """Take where to dial, asked before each time; None: nowhere at the moment."""
        self.node_id = node_id
        self.ledger = Ledger()
        self.effects: list[str] = []
        self.established = asyncio.Event()
        self.connections_total = 0
        self._url = url
        self._session = LinkSession(Role.LINK, Role.SERVER, SessionConfig(ack_delay_s=0.01))
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Dial, and dial again, until cancelled."""
        async with aiohttp.ClientSession() as http:
            while True:
                url = self._url()
                if url is not None:
                    with suppress(aiohttp.ClientError, OSError):
                        async with http.ws_connect(f"{url}/v1/link") as socket:
                            await self._converse(socket)
                await asyncio.sleep(REDIAL_S)

    async def acknowledged(self, command_id: str) -> None:
        """Wait until the server has acknowledged the outcome of a command."""
        while (found := self.ledger.find_finished(command_id)) is None or not found.acknowledged:
            self._changed.clear()
            await self._changed.wait()

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        session, loop = self._session, asyncio.get_running_loop()
        session.connection_made(hello(Role.LINK, self.node_id), loop.time())
        try:
            while True:
                for frame in session.frames_to_send():
                    await socket.send_bytes(frame)
                try:
                    async with asyncio.timeout_at(session.next_deadline()):
                        message = await socket.receive()
                except TimeoutError:
                    happened = session.handle_deadline(loop.time())
                else:
                    if message.type is not aiohttp.WSMsgType.BINARY:
                        return
                    happened = session.receive_frame(message.data, loop.time())
                for event in happened:
                    if self._is_over(event):
                        return
        finally:
            self.established.clear()
            session.connection_lost()

    def _is_over(self, event: SessionEvent) -> bool:
        match event:
            case Established(resumed=resumed):
                self.connections_total += 1
                self.established.set()
                self._session.send(nanny_report())
                if not resumed:
                    for outcome in self.ledger.finished:
                        if not outcome.acknowledged:
                            self._tell(outcome)
            case MessageReceived(message=CommandOrder() as order):
                self._take(order)
            case MessageReceived(message=OutcomeAcknowledged(command_id=command_id)):
                self.ledger = self.ledger.with_acknowledged(command_id)
                self._changed.set()
            case PeerClosed() | SessionFailed() | SessionRefused():
                return True
            case _:
                pass
        return False

    def _take(self, order: CommandOrder) -> None:
        finished = self.ledger.find_finished(order.command_id)
        if finished is not None:
            self._tell(finished)
            return
        if order.time_to_live_s <= 0.0:
            self._finish(order, LedgerOutcome.EXPIRED, "came too late")
            return
        kind = CommandKind(order.kind)
        command = Command(
            order.command_id, kind, order.time_to_live_s, order.reason, order.actor, Source.SERVER
        )
        self.ledger = self.ledger.with_pending(Pending(command))
        self._session.send(CommandAccepted(order.command_id))
        self.effects.append(order.command_id)
        self._finish(order, LedgerOutcome.DONE, f"effect {len(self.effects)}")

    def _finish(self, order: CommandOrder, outcome: LedgerOutcome, detail: str) -> None:
        finished = Finished(
            order.command_id, CommandKind(order.kind), outcome, detail, life(2), acknowledged=False
        )
        self.ledger = self.ledger.with_finished(finished)
        self._tell(finished)

    def _tell(self, finished: Finished) -> None:
        told = Outcome(finished.outcome.value)
        self._session.send(CommandOutcome(finished.command_id, told, finished.detail, finished.incarnation))


@asynccontextmanager
async def ledger_link(url: Callable[[], str | None], node_id: str) -> AsyncIterator[LedgerLink]:
    """Run one for the length of the block."""
    link = LedgerLink(url, node_id)
    task = asyncio.create_task(link.run(), name=f"link {node_id}")
    try:
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
