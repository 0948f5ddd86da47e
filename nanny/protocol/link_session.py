"""One end of a session between link or worker and server: sans-I/O, the same class at both ends.

The program owns the transport (one frame is one binary WebSocket message) and the clock, and does six
things:

1. `connection_made` after dialling, or `connection_accepted` on the server once `decode_hello` has told
   whose session it is; `connection_lost` whenever the transport is gone, for whatever reason.
2. Each frame that came in goes to `receive_frame`; the events that it returns are acted upon, in order.
3. After each call the frames of `frames_to_send` go out, in order.
4. At `next_deadline` it calls `handle_deadline` with `max(deadline, now)`, but first it delivers the frames
   that have already arrived: a program that was late itself must not take its peer for dead.
5. `send` at any time, connected or not. On `Established` it sends anew what only the newest of matters.
6. After SessionRefused, PeerClosed or SessionFailed, and after its own `close` or `refuse`, it sends what
   `frames_to_send` still gives, drops the connection, and dials again later.

What the session promises: numbered messages reach the other program once, in order, as long as both ends
remember the session, whatever the connections do; at least once if one end has forgotten (so effects go by
command id). An acknowledgement says that the peer's program has the message, not that it has done or stored
anything.

Knows nothing of sockets, clocks, identities, or what the messages mean. Instants are CLOCK_MONOTONIC
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from nanny.protocol.codec import MAX_SEQUENCE, MAX_VERSION, Frame, decode_frame, encode_frame, pack_frame
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.keepalive import KeepAlive
from nanny.protocol.messages import (
    NEWEST_ONLY,
    SENT_BETWEEN,
    Ack,
    ApplicationMessage,
    Close,
    Hello,
    Ping,
    Pong,
    Refused,
    Role,
    SessionMessage,
    Welcome,
    to_wire,
)
from nanny.protocol.session_events import (
    BacklogFull,
    Established,
    LocalError,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionEvent,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_outbox import Outbox, Parcel
from nanny.protocol.session_states import Input, Local, Peer, State, next_state

HANDSHAKE_VERSION: Final = 1
"""Frames are of this version until Welcome has named another: the handshake only ever grows by fields."""


@dataclass(slots=True)
class _Connection:
    """What is remembered of one connection, and forgotten with it."""

    greeting_until: float
    keepalive: KeepAlive
    """Counts once the connection is open."""
    version: int = HANDSHAKE_VERSION
    ack_at: float | None = None
    """Until when an acknowledgement may wait for company; None: none is owed."""
    ack_due: bool = False
    awaiting_since: float | None = None
    """Since when the peer has acknowledged nothing of what it was sent, as far as it was looked at."""


class LinkSession:
    """One end of a session, over any number of connections, one at a time."""

    def __init__(self, role: Role, peer: Role, config: SessionConfig | None = None) -> None:
        """Begin without a connection and without a session.

        Args:
            role: which program this is.
            peer: which one is at the other end; one of the two is the server.
            config: settings of this end.
        """
        if (role is Role.SERVER) == (peer is Role.SERVER):
            raise LocalError(f"a session is between a server and another, not {role} and {peer}")
        self.role = role
        self.peer = peer
        self.config = config or SessionConfig()
        self.session_id: str | None = None
        """None: there is no session that could be resumed."""
        self.state = State.OFFLINE
        self.duplicates_total = 0
        """Numbered messages that came again and were dropped."""
        self._outbox = Outbox()
        self._received_up_to = 0
        self._acknowledged_up_to = 0
        """What the peer was told of `_received_up_to`."""
        self._ready: list[bytes] = []
        self._connection = self._fresh_connection(0.0)
        self._fresh_session_id = ""

    @property
    def backlog(self) -> tuple[int, int]:
        """Numbered messages that wait to be acknowledged: how many, and their bytes."""
        return len(self._outbox), self._outbox.bytes

    # Connections

    def connection_made(self, hello: Hello, now: float) -> None:
        """We dialled, and the transport stands: say Hello.

        Args:
            hello: who we are; versions, session and acknowledgement are filled in here.
            now: the time.

        Raises:
            LocalError: there is a connection already, or this is the server's end.
        """
        if hello.role is not self.role:
            raise LocalError(f"a Hello of {hello.role} in a session of {self.role}")
        self._move(Local.DIALLED)
        self._connection = self._fresh_connection(now)
        self._say(
            replace(
                hello,
                protocol_versions=self.config.protocol_versions,
                session_id=self.session_id,
                received_up_to=self._received_up_to,
            )
        )

    def connection_accepted(self, fresh_session_id: str, now: float) -> None:
        """Somebody dialled us: wait for Hello.

        Args:
            fresh_session_id: never used before; names the session unless the present one is resumed.
            now: the time.

        Raises:
            LocalError: there is a connection already, or this is not the server's end.
        """
        self._move(Local.ACCEPTED)
        self._connection = self._fresh_connection(now)
        self._fresh_session_id = fresh_session_id

    def connection_lost(self) -> None:
        """Forget the connection; what it had not had acknowledged waits for the next.

        Raises:
            LocalError: there is none.
        """
        self._move(Local.LOST)
        self._ready.clear()
        self._outbox.rewind()

    def refuse(self, code: str, reason: str, retry_after_s: float | None = None) -> None:
        """Answer a connection, on the server before Hello is delivered, with Refused.

        Raises:
            LocalError: it is too late for that, or this is not the server's end.
        """
        self._move(Local.REFUSE)
        self._say(Refused(code, reason, retry_after_s))

    def close(self, code: str, reason: str, retry_after_s: float | None = None) -> None:
        """End the connection in order, after what waits to be sent. Does nothing if it has ended already.

        Raises:
            LocalError: there is no connection.
        """
        before = self.state
        self._move(Local.CLOSE)
        if before is State.OPEN:
            self._fill_ready()
        if before is not State.FINISHED:
            self._say(Close(code, reason, retry_after_s))

    # Sending

    def send(self, message: ApplicationMessage) -> None:
        """Queue a message; what is in it may be changed afterwards.

        Raises:
            LocalError: it is not ours to send, or breaks the rules of its fields, or is too large.
            BacklogFull: too much is waiting; only for numbered messages.
        """
        kind = type(message)
        if SENT_BETWEEN.get(kind) != (self.role, self.peer):
            raise LocalError(f"{kind.__name__} is not sent from {self.role} to {self.peer}")
        try:
            plain = to_wire(message)
            size = len(self._pack(plain, MAX_VERSION, None if kind in NEWEST_ONLY else MAX_SEQUENCE))
        except ValueError as error:
            raise LocalError(str(error)) from error
        if kind not in NEWEST_ONLY:
            count, waiting = self.backlog
            if (
                count >= self.config.max_unacknowledged
                or waiting + size > self.config.max_unacknowledged_bytes
            ):
                raise BacklogFull(f"{count} messages, {waiting} bytes are not acknowledged yet")
        self._outbox.put(kind, Parcel(plain, size))

    def frames_to_send(self) -> list[bytes]:
        """Give the frames that are to go out now, each once. Empty without a connection."""
        if self.state is State.OPEN:
            self._fill_ready()
        frames, self._ready = self._ready, []
        return frames

    # Receiving

    def receive_frame(self, frame: bytes, now: float) -> tuple[SessionEvent, ...]:
        """Take in one frame as it came, and give what it means. Frames after the last word are ignored.

        Raises:
            LocalError: there is no connection.
        """
        if self.state is State.OFFLINE:
            raise LocalError("a frame without a connection")
        if self.state is State.FINISHED:
            return ()
        try:
            return self._take(decode_frame(frame, self.config.max_frame_bytes), now)
        except ProtocolViolation as violation:
            if self.state is State.GREETING and self.role is not Role.SERVER:
                self.session_id = None  # else each next Hello would ask for what could not be agreed upon
            self._ready.clear()
            self._say(Close("protocol-violation", str(violation)))  # so that the peer's log tells why, too
            return self._fail(str(violation))

    # Time

    def next_deadline(self) -> float | None:
        """Give the instant at which `handle_deadline` wants to be called; None: not before something else."""
        connection = self._connection
        match self.state:
            case State.OFFLINE | State.FINISHED:
                return None
            case State.GREETING:
                return connection.greeting_until
            case State.OPEN:
                deadline = connection.keepalive.deadline()
                if connection.awaiting_since is not None:
                    deadline = min(deadline, connection.awaiting_since + self.config.ack_timeout_s)
                if connection.ack_at is None or connection.ack_due:
                    return deadline
                return min(deadline, connection.ack_at)
            case _:
                assert_never(self.state)

    def handle_deadline(self, now: float) -> tuple[SessionEvent, ...]:
        """Do what is due. Too early a call does nothing."""
        connection = self._connection
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return ()
        if self.state is State.GREETING:
            awaited = "Hello" if self.role is Role.SERVER else "answer to Hello"
            return self._fail(f"no {awaited} within {self.config.hello_timeout_s:g} s")
        if not connection.keepalive.tick(now):
            return self._fail(f"nothing heard for {now - connection.keepalive.heard_at:.1f} s")
        awaiting_since = connection.awaiting_since
        if awaiting_since is not None and now >= awaiting_since + self.config.ack_timeout_s:
            return self._fail(f"nothing acknowledged for {now - awaiting_since:.1f} s")
        self._look_for_acknowledgements(now)
        if connection.ack_at is not None and now >= connection.ack_at:
            connection.ack_due = True
        return ()

    # Within

    def _fresh_connection(self, now: float) -> _Connection:
        keepalive = KeepAlive(self.config.keepalive_interval_s, now)
        return _Connection(now + self.config.hello_timeout_s, keepalive)

    def _move(self, happened: Input) -> None:
        """Go where the table says that our own doing leads."""
        state = next_state(self.role, self.state, happened)
        if state is None:
            raise LocalError(f"{happened} is not possible for {self.role} in {self.state}")
        self.state = state

    def _fail(self, reason: str) -> tuple[SessionEvent, ...]:
        self._move(Local.FAIL)
        return (SessionFailed(reason),)

    def _say(self, message: SessionMessage) -> None:
        version = self._connection.version
        self._ready.append(encode_frame(message, version=version, max_bytes=self.config.max_frame_bytes))

    def _pack(self, plain: dict[str, Any], version: int, sequence: int | None) -> bytes:
        return pack_frame(plain, version=version, sequence=sequence, max_bytes=self.config.max_frame_bytes)

    def _fill_ready(self) -> None:
        """Make ready all that an open connection has to carry; an acknowledgement travels along if it can."""
        connection = self._connection
        company = connection.keepalive.has_more or self._outbox.has_more
        if connection.ack_at is not None and (connection.ack_due or company):
            connection.ack_at, connection.ack_due = None, False
            self._acknowledged_up_to = self._received_up_to
            self._say(Ack(self._received_up_to))
        for message in connection.keepalive.messages_to_send():
            self._say(message)
        for sequence, parcel in self._outbox.hand_out():
            self._ready.append(self._pack(parcel.plain, connection.version, sequence))

    def _take(self, frame: Frame, now: float) -> tuple[SessionEvent, ...]:
        """Check a frame, then let it count. Raises ProtocolViolation before anything has changed."""
        message, connection = frame.message, self._connection
        happened = Peer.APPLICATION if isinstance(message, ApplicationMessage) else type(message)
        state = next_state(self.role, self.state, happened)
        if state is None:
            raise ProtocolViolation(f"{type(message).__name__} is not possible in {self.state}")
        if frame.version != connection.version and not isinstance(message, Close):
            raise ProtocolViolation(f"frame of version {frame.version}, spoken is {connection.version}")
        if (frame.sequence is not None) != (
            happened is Peer.APPLICATION and type(message) not in NEWEST_ONLY
        ):
            raise ProtocolViolation(f"{type(message).__name__} with sequence number {frame.sequence}")
        events: tuple[SessionEvent, ...] = ()
        match message:
            case Hello():
                return self._take_hello(message, state, now)
            case Welcome():
                return self._take_welcome(message, state, now)
            case Refused():
                events = (SessionRefused(message.code, message.reason, message.retry_after_s),)
            case Close():
                events = (PeerClosed(message.code, message.reason, message.retry_after_s),)
            case Ack():
                if not self._outbox.may_acknowledge(message.received_up_to):
                    raise ProtocolViolation(f"acknowledges {message.received_up_to}, which cannot be")
                self._outbox.acknowledge(message.received_up_to)
                connection.awaiting_since = None
            case Ping():
                connection.keepalive.answer(message)
            case Pong():
                if not connection.keepalive.is_ours(message):
                    raise ProtocolViolation(f"pong {message.nonce} answers no ping")
            case _:
                events = self._take_application(message, frame.sequence, now)
        connection.keepalive.heard(now)
        self.state = state
        self._look_for_acknowledgements(now)
        return events

    def _take_hello(self, hello: Hello, state: State, now: float) -> tuple[SessionEvent, ...]:
        if hello.role is not self.peer:
            raise ProtocolViolation(f"Hello of a {hello.role} in the session of a {self.peer}")
        ours, theirs = self.config.protocol_versions, hello.protocol_versions
        common = set(ours) & set(theirs)
        if not common:
            reason = f"no common protocol version: we speak {sorted(ours)}, you speak {sorted(theirs)}"
            self.refuse("no-common-version", reason)
            return (SessionFailed(reason),)
        knows_us = self.session_id is not None and hello.session_id == self.session_id
        resumed = knows_us and self._outbox.may_acknowledge(hello.received_up_to)
        self._begin(None if resumed else self._fresh_session_id, hello.received_up_to)
        interval_s, version = self.config.keepalive_interval_s, max(common)
        assert self.session_id is not None
        self._say(
            Welcome(
                protocol_version=version,
                session_id=self.session_id,
                resumed=resumed,
                received_up_to=self._received_up_to,
                keepalive_interval_s=interval_s,
                report_interval_s=self.config.report_interval_s,
            )
        )
        return self._open(Established(hello, resumed), state, version, interval_s, now)

    def _take_welcome(self, welcome: Welcome, state: State, now: float) -> tuple[SessionEvent, ...]:
        version = welcome.protocol_version
        if version not in self.config.protocol_versions:
            raise ProtocolViolation(f"chose version {version}, offered were {self.config.protocol_versions}")
        if welcome.resumed and welcome.session_id != self.session_id:
            raise ProtocolViolation(f"resumed {welcome.session_id!r}, asked for was {self.session_id!r}")
        if welcome.resumed and not self._outbox.may_acknowledge(welcome.received_up_to):
            raise ProtocolViolation(f"acknowledges {welcome.received_up_to}, which cannot be")
        if not welcome.resumed and welcome.received_up_to:
            raise ProtocolViolation(f"acknowledges {welcome.received_up_to} in a new session")
        self._begin(None if welcome.resumed else welcome.session_id, welcome.received_up_to)
        established = Established(welcome, welcome.resumed)
        return self._open(established, state, version, welcome.keepalive_interval_s, now)

    def _look_for_acknowledgements(self, now: float) -> None:
        """Sending has no time of its own: a wait counts from the next frame or deadline on (a ping's, at last)."""
        connection = self._connection
        if not self._outbox.awaits_acknowledgement:
            connection.awaiting_since = None
        elif connection.awaiting_since is None:
            connection.awaiting_since = now

    def _begin(self, fresh_session_id: str | None, peer_has: int) -> None:
        """Go on with the session, of which the peer has received so much, or begin a new one."""
        if fresh_session_id is None:
            self._outbox.acknowledge(peer_has)
        else:
            self.session_id = fresh_session_id
            self._received_up_to = 0
            self._outbox.renumber()
        self._acknowledged_up_to = self._received_up_to

    def _open(
        self, established: Established, state: State, version: int, interval_s: float, now: float
    ) -> tuple[SessionEvent, ...]:
        self._connection.version = version
        self._connection.keepalive = KeepAlive(interval_s, now)
        self.state = state
        return (established,)

    def _take_application(
        self, message: ApplicationMessage, sequence: int | None, now: float
    ) -> tuple[SessionEvent, ...]:
        if SENT_BETWEEN[type(message)] != (self.peer, self.role):
            raise ProtocolViolation(f"{type(message).__name__} is not sent from {self.peer} to {self.role}")
        if sequence is None:
            return (MessageReceived(message),)
        if sequence > self._received_up_to + 1:
            raise ProtocolViolation(f"sequence number {sequence} after {self._received_up_to}")
        connection = self._connection
        if connection.ack_at is None:
            connection.ack_at = now + self.config.ack_delay_s
        if sequence <= self._received_up_to:
            self.duplicates_total += 1
            return ()
        self._received_up_to = sequence
        if sequence - self._acknowledged_up_to >= self.config.ack_after:
            connection.ack_due = True
        return (MessageReceived(message),)
