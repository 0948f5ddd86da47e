"""A small fleet before a real server: racks of nodes that answer on real sockets and can be cut off.

A `Rack` is one listener on loopback that answers `/healthz` for all its nodes; cut, it is closed together with
every connection to it, so that a probe is refused. A node has its two connections as far as the test wants
them. `ShiftedClock` is the server's: real time that the test may let pass in a moment.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from nanny.protocol.messages import Role
from server_stub.core.node_facts import ProbeClass
from server_stub.store import nodes
from server_stub.store.tables import CommandRow, EventRow
from tests.support.server_peers import Peer, life, nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from server_stub.main import RunningServer

PATIENCE_S = 45.0


class ShiftedClock:
    """The kernel's clocks, ahead by what the test let pass."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.wall_ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def wall(self) -> float:
        return time.time() + self.ahead_s + self.wall_ahead_s


class Rack:
    """Some nodes behind one listener."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.port = 0
        self.answers_in_s = 0.0
        self.says: dict[str, Any] = {"status": "ok", "incarnation": str(life(1))}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Answer, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse everyone, those who are connected, too."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    if self.answers_in_s:
                        await asyncio.sleep(self.answers_in_s)
                    body = json.dumps(self.says).encode()
                    status = b"503 Service Unavailable" if self.says["status"] == "stalled" else b"200 OK"
                    writer.write(
                        b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                        % (status, len(body), body)
                    )
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()


class SmallFleet:
    """Racks and their nodes' connections to one server at a time."""

    def __init__(self, *racks: Rack) -> None:
        self.racks = racks
        self.peers: dict[tuple[Role, str], Peer] = {}

    @property
    def names(self) -> list[str]:
        return [name for rack in self.racks for name in rack.names]

    async def open(self) -> None:
        for rack in self.racks:
            await rack.open()

    async def close(self) -> None:
        await self.hang_up()
        for rack in self.racks:
            await rack.cut()

    async def dial(
        self, server: RunningServer, *racks: Rack, links: bool = True, phase: str = "running"
    ) -> None:
        """Connect the workers of these racks, or of all, and their links, as real ones do when a server is back."""
        await asyncio.gather(
            *(
                self._dial_one(server, name, rack.port, links=links, phase=phase)
                for rack in racks or self.racks
                for name in rack.names
            )
        )

    async def _dial_one(
        self, server: RunningServer, name: str, port: int, *, links: bool, phase: str
    ) -> None:
        if links:
            link = self.peers[Role.LINK, name] = Peer(server.url, Role.LINK, name)
            await link.connect()
            await link.send(nanny_report(phase))
        worker = self.peers[Role.WORKER, name] = Peer(server.url, Role.WORKER, name)
        await worker.connect()
        await worker.send(registration(port))

    async def hang_up(self) -> None:
        """Drop all connections, as a cut network does in the end."""
        for peer in self.peers.values():
            await peer.disconnect()
        self.peers.clear()


async def eventually(look: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Give what `look` finds as soon as that is true; it may be a coroutine function.

    Raises:
        AssertionError: it is not within `patience_s`; the message holds what was found last.
    """
    ends_at = time.monotonic() + patience_s
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < ends_at, f"waited {patience_s} s for {what}; last: {found!r}"
        await asyncio.sleep(0.05)


async def states(server: RunningServer) -> dict[str, str]:
    """Give each node's stored word."""
    async with server.database.reading() as session:
        return {record.id: record.state for record in await nodes.read(session)}


async def count_in(server: RunningServer, *words: str) -> int:
    return sum(state in words for state in (await states(server)).values())


async def all_in(server: RunningServer, word: str, number: int) -> dict[str, str]:
    """Wait until so many nodes are in this state."""

    async def found() -> dict[str, str] | None:
        now = await states(server)
        return now if sum(state == word for state in now.values()) == number else None

    try:
        given: dict[str, str] = await eventually(found, f"{number} nodes in {word}")
    except AssertionError:
        raise AssertionError(f"expected {number} in {word}: {await states(server)}") from None
    return given


async def events_of(server: RunningServer, prefix: str) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Give type, node and detail of the events whose type begins so, in order."""
    async with server.database.reading() as session:
        rows = await session.execute(
            select(EventRow.type, EventRow.node_id, EventRow.detail).order_by(EventRow.seq)
        )
        return [(type_, node_id, detail) for type_, node_id, detail in rows if type_.startswith(prefix)]


async def commands_in(server: RunningServer) -> list[tuple[str, str, str]]:
    """Give node, actor and state of all commands."""
    async with server.database.reading() as session:
        rows = await session.execute(
            select(CommandRow.node_id, CommandRow.actor, CommandRow.state).order_by(CommandRow.id)
        )
        return [(node_id, actor, state) for node_id, actor, state in rows]


async def all_checked(server: RunningServer, times: int = 2) -> None:
    """Let the syncer check every node so often, and store what came of it in a round."""

    def checks() -> float:
        return sum(server.metrics.value("probes_total", result=result) for result in ProbeClass)

    wanted = checks() + times * len(await states(server))
    await eventually(lambda: checks() >= wanted, f"{times} checks of each node")
    rounds = server.metrics.value("sync_rounds_total") + 2
    await eventually(lambda: server.metrics.value("sync_rounds_total") >= rounds, "two rounds")
