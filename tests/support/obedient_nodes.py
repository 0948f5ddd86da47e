"""Nodes that do as they are told: link, worker and /healthz of each, restarted by commands, over real connections.

Each node keeps a ledger of command ids as a nanny does, so that an order that comes twice has one effect, and
counts its effects. What a test wants to go wrong it says of the node: `fails`, `stays_down`. It knows nothing of
the server but its protocol.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    Outcome,
    OutcomeAcknowledged,
    Registered,
    Role,
)
from nanny.protocol.session_events import MessageReceived
from tests.support.server_peers import Peer, healthz_server, life, nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.support.server_peers import Healthz


class ObedientNode:
    """One node.

    Attributes:
        number: of its worker's present life.
        effects: command ids, in the order in which they had their effect.
        fails: orders end as failed.
        stays_down: after a restart its worker never says hello again.
        holds: orders are taken and carried out once this is set.
    """

    def __init__(
        self, url: str, node_id: str, healthz: Healthz, labels: Mapping[str, str] | None = None
    ) -> None:
        self.node_id = node_id
        self.number = 1
        self.effects: list[str] = []
        self.fails = False
        self.stays_down = False
        self.holds = asyncio.Event()
        self.holds.set()
        self.url = url
        self._labels = dict(labels or {})
        self._healthz = healthz
        self._link = Peer(url, Role.LINK, node_id)
        self._worker = Peer(url, Role.WORKER, node_id)
        self._taken: dict[str, CommandOrder] = {}
        self._owed: dict[str, CommandOutcome] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, register, tell what no server has acknowledged, and obey from now on."""
        await self._link.connect()
        await self._tell()
        for outcome in self._owed.values():
            await self._link.send(outcome)
        self._task = asyncio.create_task(self._obey(), name=f"node {self.node_id}")

    async def stop(self) -> None:
        """Go without a word."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._worker.disconnect()
        await self._link.disconnect()

    async def move(self, url: str) -> None:
        """Go to another server, or to the same one after its restart."""
        await self.stop()
        self.url = url
        self._link = Peer(url, Role.LINK, self.node_id)
        await self.start()

    async def _tell(self) -> None:
        await self._link.send(nanny_report(number=self.number))
        self._healthz.says("ok", self.number)
        await self._worker.disconnect()
        self._worker = Peer(self.url, Role.WORKER, self.node_id, self.number)
        await self._worker.connect()
        await self._worker.send(registration(self._healthz.port, self.number, labels=self._labels))
        await self._worker.expect(Registered)

    async def _obey(self) -> None:
        while True:
            while self._taken:
                await self._carry_out(next(iter(self._taken.values())))
            event = await self._link.events.get()
            match event:
                case MessageReceived(message=CommandOrder() as order):
                    if order.command_id not in self._owed:
                        self._taken[order.command_id] = order
                        await self._link.send(CommandAccepted(order.command_id))
                case MessageReceived(message=OutcomeAcknowledged(command_id=command_id)):
                    self._owed.pop(command_id, None)
                case _:
                    pass

    async def _carry_out(self, order: CommandOrder) -> None:
        await self.holds.wait()
        if self.fails:
            outcome = CommandOutcome(order.command_id, Outcome.FAILED, "as the test wants it")
        else:
            if order.command_id not in self.effects:
                self.effects.append(order.command_id)
                self.number += 1
            outcome = CommandOutcome(order.command_id, Outcome.DONE, "restarted", life(self.number))
        self._owed[order.command_id] = outcome
        del self._taken[order.command_id]
        await self._link.send(outcome)
        if self.fails:
            return
        if self.stays_down:
            await self._link.send(nanny_report("starting", self.number))
            await self._worker.disconnect()
        else:
            await self._tell()


@asynccontextmanager
async def obedient_nodes(
    url: str, count: int, labels: Mapping[str, str] | None = None
) -> AsyncIterator[list[ObedientNode]]:
    """Start nodes `node-0`, `node-1`… and stop them at the end, whatever happens."""
    nodes: list[ObedientNode] = []
    async with AsyncExitStack() as stack:
        for number in range(count):
            healthz = await stack.enter_async_context(healthz_server())
            nodes.append(ObedientNode(url, f"node-{number}", healthz, labels))
            stack.push_async_callback(nodes[-1].stop)
            await nodes[-1].start()
        yield nodes
