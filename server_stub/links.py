"""The two WebSocket endpoints, /v1/link and /v1/worker: frames in, messages to those whom they concern.

Each connection has a reader (`serve`) and one writer task (`link_socket.py`), and drives a
`LinkSession(SERVER)` that outlives it: a node's next connection resumes where the last one broke off, if
nothing of ours was under way. A slow, silent or hostile peer costs a bounded amount and only itself: frames
are limited before they are parsed, a connection has so long to say Hello, a send has a deadline, a flood is
slowed down to a rate, what awaits acknowledgement is bounded by the session.

What a message *does* is decided elsewhere (`Commands`, `Syncer`, the store). If that fails, the session is
forgotten with its connection, so that the node sends again what it has not seen stored.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING, Final, assert_never

from aiohttp import web

from nanny.protocol.codec import DEFAULT_FRAME_BYTES, decode_hello
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import (
    MESSAGE_NAMES,
    CommandAccepted,
    CommandOutcome,
    EvidenceSummary,
    NannyReport,
    Registered,
    Registration,
    Role,
    WorkerReport,
)
from nanny.protocol.session_events import (
    Established,
    MessageReceived,
    PeerClosed,
    SessionFailed,
    SessionRefused,
)
from server_stub import fault_point
from server_stub.admission import Admission
from server_stub.changes import EVENTS, NODES
from server_stub.group_commit import GroupCommit
from server_stub.link_socket import CLOSE_TIMEOUT_S, LinkSocket
from server_stub.store import nodes
from server_stub.store.faults import DatabaseUnavailable
from server_stub.store.nodes import Arrival, Greeting, IdentityConflict, TooManyNodes

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from nanny.protocol.messages import ApplicationMessage, Hello
    from nanny.protocol.session_events import SessionConfig, SessionEvent
    from server_stub.arrivals import ArrivalsByNode
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.commands import Commands
    from server_stub.connections import OpenConnections
    from server_stub.evidence import Evidence
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database
    from server_stub.syncer import Syncer

RETRY_AFTER_S: Final = 5.0


class Links:
    """Both endpoints, and the sessions of all nodes."""

    def __init__(
        self,
        *,
        database: Database,
        connections: OpenConnections,
        arrivals: ArrivalsByNode,
        syncer: Syncer,
        commands: Commands,
        evidence: Evidence,
        changes: Changes,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        session_config: SessionConfig,
        limit: int,
        nodes_limit: int,
    ) -> None:
        self._database = database
        self._connections = connections
        self._arrivals = arrivals
        self._syncer = syncer
        self._commands = commands
        self._evidence = evidence
        self._changes = changes
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._config = session_config
        self._limit = limit
        self._nodes_limit = nodes_limit
        # A fleet returns at once: what it says goes in groups.
        self._greetings = GroupCommit(database, nodes.meet_all, "registry")
        self._registrations = GroupCommit(database, nodes.register_all, "registry")
        self._present = 0
        self.admission = Admission()
        self._sessions: dict[tuple[Role, str], LinkSession] = {}
        self._sockets: dict[tuple[Role, str], LinkSocket] = {}

    async def serve(self, request: web.Request, role: Role) -> web.WebSocketResponse:
        """Speak with one link or worker until either side ends it."""
        if self._present >= self._limit:
            self._refused("too-many-connections")
            raise web.HTTPServiceUnavailable(headers={"Retry-After": f"{RETRY_AFTER_S:g}"})
        place = object()
        wait_s = self.admission.enter(place, self._clock.monotonic(), random)
        if wait_s is not None:
            self._refused("busy")
            raise web.HTTPServiceUnavailable(headers={"Retry-After": f"{wait_s:.0f}"})
        self._present += 1
        try:
            socket = web.WebSocketResponse(
                max_msg_size=DEFAULT_FRAME_BYTES, compress=False, autoping=False, timeout=CLOSE_TIMEOUT_S
            )
            await socket.prepare(request)
            accepted = LinkSocket(socket, request.transport, role, self._log, self._clock)
            accepted.on_arrived = lambda: self.admission.arrived(place, self._clock.monotonic())
            await self._greet(accepted)
            return socket
        finally:
            self._present -= 1
            self.admission.arrived(place, self._clock.monotonic())

    def hang_up(self, role: Role, node_id: str, code: str, reason: str) -> bool:
        """End a node's connection from this side; False if there is none. The peer dials again."""
        socket = self._sockets.get((role, node_id))
        if socket is None or self._connections.find(role, node_id) is not socket:
            return False
        socket.close(code, reason)
        self._closed(socket)
        return True

    def forget(self, node_id: str) -> None:
        """Keep nothing of a deleted node; what dialled meanwhile is hung up on, to say anew who it is."""
        for role in (Role.LINK, Role.WORKER):
            self.hang_up(role, node_id, "node-deleted", "this node was deleted")
            self._sessions.pop((role, node_id), None)

    async def shut_down(self) -> None:
        """Tell every peer to come back, and wait, in bounded time, until they know."""
        sockets = list(self._sockets.values())
        for socket in sockets:
            socket.close("shutting-down", "the server is stopping", 1.0)
        await asyncio.gather(*(socket.gone() for socket in sockets), return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._greetings.close()
                await self._registrations.close()

    # One connection

    async def _greet(self, socket: LinkSocket) -> None:
        """Find out who is there, choose the session, and speak on."""
        first = await socket.receive(self._config.hello_timeout_s)
        if not isinstance(first, bytes):
            self._refused("no-hello")
            socket.log.info("connection without a Hello")
            await socket.abandon()
            return
        session = LinkSession(Role.SERVER, socket.role, self._config)
        try:
            hello = decode_hello(first)
        except ProtocolViolation:
            # A session of its own says so to the peer.
            session.connection_accepted(_fresh_session_id(), self._clock.monotonic())
            socket.attach(session, "")
            await self._converse(socket, first)
            await socket.gone()
            return
        socket.log = socket.log.bind(node=hello.node_id, name=hello.node_name)
        refusal = await self._refusal(hello, socket.role)
        if refusal is not None:
            self._refused(refusal[0])
            socket.log.warning("connection refused", code=refusal[0], reason=refusal[1])
            session.connection_accepted(_fresh_session_id(), self._clock.monotonic())
            session.refuse(*refusal)
            socket.attach(session, hello.node_id)
            await socket.gone()
            return
        await self._speak(socket, hello.node_id, first)

    async def _refusal(self, hello: Hello, role: Role) -> tuple[str, str, float | None] | None:
        """Say why this peer is not wanted, None if it is; a new node gets its row here."""
        if hello.role is not role:
            return "wrong-endpoint", f"a {hello.role} on the endpoint for a {role}", None
        newer = self._newer_incarnation(hello) if role is Role.WORKER else None
        if newer is not None:
            return "stale-incarnation", f"its nanny runs incarnation {newer} now", RETRY_AFTER_S
        is_link = role is Role.LINK
        try:
            async with self._database.reading() as session:
                if await nodes.is_met(session, hello, is_link=is_link):
                    return None
            greeting = Greeting(hello, is_link, self._clock.wall(), self._nodes_limit)
            if await self._greetings.put(greeting):
                self._log.info("new node", node=hello.node_id, name=hello.node_name, machine=hello.machine_id)
                self._changes.mark([EVENTS])
        except IdentityConflict as conflict:
            return "identity-conflict", str(conflict), 300.0
        except TooManyNodes as full:
            return "too-many-nodes", str(full), 300.0
        except DatabaseUnavailable as unavailable:
            return "database-unavailable", f"the server's database: {unavailable}", RETRY_AFTER_S
        return None

    def _newer_incarnation(self, hello: Hello) -> int | None:
        """Give the number of the life that the node's nanny runs now, if this worker is of an earlier one."""
        if self._connections.find(Role.LINK, hello.node_id) is None:
            return None  # nor is anything kept of whoever made up an id
        nanny = self._arrivals.of(hello.node_id).nanny
        if nanny is None or nanny.incarnation is None or hello.incarnation is None:
            return None
        # Epochs are not compared: a clock set back must not shut a node out.
        is_stale = (
            nanny.incarnation.epoch == hello.incarnation.epoch
            and nanny.incarnation.number > hello.incarnation.number
        )
        return nanny.incarnation.number if is_stale else None

    async def _speak(self, socket: LinkSocket, node_id: str, first: bytes) -> None:
        place = (socket.role, node_id)
        older = self._sockets.get(place)
        if older is not None:
            older.yield_session()
        session = self._sessions.get(place)
        if session is None or session.backlog != (0, 0):
            # What was not acknowledged is made anew: an order in a backlog has the time to live of its making.
            session = self._sessions[place] = LinkSession(Role.SERVER, socket.role, self._config)
        session.connection_accepted(_fresh_session_id(), self._clock.monotonic())
        socket.attach(session, node_id)
        self._sockets[place] = socket
        try:
            await self._converse(socket, first)
        finally:
            await socket.gone()
            if self._sockets.get(place) is socket:
                del self._sockets[place]
                session.connection_lost()
            self._closed(socket)

    async def _converse(self, socket: LinkSocket, first: bytes) -> None:
        """Pass frames in and act upon what they mean, until the session or the connection ends."""
        frame: bytes | None = first
        while socket.has_session():
            session, now = socket.session, self._clock.monotonic()
            if frame is None:
                happened = session.handle_deadline(now)
            else:
                happened = session.receive_frame(frame, now)
                if socket.node_id:
                    self._arrivals.of(socket.node_id).heard(socket.role, now)
            for event in happened:
                await self._act(socket, event)
            socket.flush()
            deadline = session.next_deadline() if socket.has_session() else None
            if deadline is None:
                return
            received = await socket.receive(deadline - self._clock.monotonic())
            if isinstance(received, str):
                socket.log.info("connection ended", how=received)
                return
            frame = received

    async def _act(self, socket: LinkSocket, event: SessionEvent) -> None:
        match event:
            case Established(resumed=resumed):
                await self._opened(socket, resumed=resumed)
            case MessageReceived(message=message):
                await self._take(socket, message)
            case PeerClosed(code=code, reason=reason):
                socket.log.info("peer closed", code=code, reason=reason)
            case SessionFailed(reason=reason):
                self._metrics.count("protocol_violations_total", role=socket.role.value)
                socket.log.warning("connection failed", reason=reason)
            case SessionRefused():
                raise AssertionError("a server is not refused")
            case _:
                assert_never(event)

    # What came

    async def _opened(self, socket: LinkSocket, *, resumed: bool) -> None:
        role, node_id = socket.role, socket.node_id
        self._connections.add(role, node_id, socket)
        self._arrivals.of(node_id).opened(role, self._clock.monotonic())
        self._metrics.set("connections", self._connections.count(role), role=role.value)
        socket.log.info("connected", session=socket.session_id, resumed=resumed)
        self._syncer.nudge(node_id)
        self._changes.mark([node_id, NODES])
        socket.flush()
        if role is Role.LINK:
            socket.on_arrived()  # a worker has still to register
            self._commands.wake(node_id)

    def _closed(self, socket: LinkSocket) -> None:
        role, node_id = socket.role, socket.node_id
        if not self._connections.remove(role, node_id, socket):
            return
        self._arrivals.of(node_id).closed(role, self._clock.monotonic())
        self._metrics.set("connections", self._connections.count(role), role=role.value)
        socket.log.info("disconnected")
        self._syncer.nudge(node_id)
        self._changes.mark([node_id, NODES])

    async def _take(self, socket: LinkSocket, message: ApplicationMessage) -> None:
        self._metrics.count("messages_received_total", type=MESSAGE_NAMES[type(message)])
        try:
            await self._dispatch(socket, message)
        except Exception:
            socket.log.exception("message failed", type=MESSAGE_NAMES[type(message)])
            self._refused("internal-error")
            # The session goes with its connection: in a new one the node sends again what is not stored.
            place = (socket.role, socket.node_id)
            self._sessions.pop(place, None)
            for one in {socket, self._sockets.get(place, socket)}:  # a newer one may have resumed the session
                one.close("internal-error", "the server failed to take a message", RETRY_AFTER_S)

    async def _dispatch(self, socket: LinkSocket, message: ApplicationMessage) -> None:
        node_id, now = socket.node_id, self._clock.monotonic()
        arrivals = self._arrivals.of(node_id)
        match message:
            case NannyReport():
                was_running = arrivals.nanny is not None and arrivals.nanny.phase == "running"
                arrivals.nanny_reported(message, now)
                if message.phase == "running" and not was_running:
                    self._syncer.probe_now(node_id)
                self._syncer.nudge(node_id)
                self._changes.mark([node_id, NODES])
            case WorkerReport():
                arrivals.worker_reported(message, now)
                self._syncer.nudge(node_id)
                self._changes.mark([node_id, NODES])
            case Registration():
                await self._register(socket, message)
            case CommandAccepted():
                await self._commands.accepted(node_id, message)
            case CommandOutcome():
                told = await self._commands.ended(node_id, message)
                # Meanwhile a newer connection may have taken the session over.
                (self._sockets.get((socket.role, node_id)) or socket).send(told)
                fault_point.reach("acknowledged")
            case EvidenceSummary():
                await self._evidence.keep_summary(node_id, message)
            case _:
                raise AssertionError(f"{type(message).__name__} is the server's own to send")

    async def _register(self, socket: LinkSocket, registration: Registration) -> None:
        node_id, wall_now = socket.node_id, self._clock.wall()
        address = registration.addresses[0] if registration.addresses else ""

        is_reborn = await self._registrations.put(Arrival(node_id, registration, address, wall_now))
        now = self._clock.monotonic()
        self._arrivals.of(node_id).registered(registration.incarnation, now, is_reborn=is_reborn)
        socket.send(Registered(node_id))
        socket.on_arrived()
        socket.log.info("registered", incarnation=str(registration.incarnation), address=address)
        # A registration proves nothing yet: the probe does.
        self._syncer.probe_now(node_id)
        self._changes.mark([node_id, NODES, EVENTS])

    def _refused(self, reason: str) -> None:
        self._metrics.count("connections_refused_total", reason=reason)


def _fresh_session_id() -> str:
    return os.urandom(8).hex()
