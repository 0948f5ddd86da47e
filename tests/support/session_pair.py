"""Both ends of a session in memory: frames are shovelled by hand, time moves by hand, connections break at will.

The pair does what a program has to do (see `link_session.py`): it dials, delivers, and after the last word of
either end sends what is left and drops the connection.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import CommandOrder, CommandOutcome, Outcome, Role
from nanny.protocol.session_events import (
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_states import State
from tests.support.wire_examples import HELLO

if TYPE_CHECKING:
    from nanny.protocol.messages import ApplicationMessage
    from nanny.protocol.session_events import SessionEvent

TICK: Final = 0.001
"""What a frame takes on its way."""
CONFIG: Final = SessionConfig()


def command_id(number: int) -> str:
    return f"0190e0a0-0000-7000-8000-{number:012x}"


def order(number: int) -> CommandOrder:
    return CommandOrder(command_id(number), "restart", 60.0, "test", "tester")


def outcome(number: int) -> CommandOutcome:
    return CommandOutcome(command_id(number), Outcome.DONE, "")


class End:
    """One end: its session, what is on its way to it, and all that it told its program."""

    def __init__(self, session: LinkSession) -> None:
        self.session = session
        self.incoming: deque[bytes] = deque()
        self.events: list[SessionEvent] = []

    @property
    def received(self) -> list[ApplicationMessage]:
        return [event.message for event in self.events if isinstance(event, MessageReceived)]

    @property
    def failures(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, SessionFailed)]


class SessionPair:
    """Link and server, and the wire between them."""

    def __init__(self, link: SessionConfig = CONFIG, server: SessionConfig = CONFIG) -> None:
        self.now = 1000.0
        self.link = End(LinkSession(Role.LINK, Role.SERVER, link))
        self.server = End(LinkSession(Role.SERVER, Role.LINK, server))
        self.connected = False
        self._sessions = 0

    def other(self, end: End) -> End:
        return self.server if end is self.link else self.link

    def connect(self) -> None:
        """Dial: nothing has travelled yet."""
        assert not self.connected
        self._sessions += 1
        self.connected = True
        self.link.session.connection_made(HELLO, self.now)
        self.server.session.connection_accepted(f"session-{self._sessions}", self.now)
        self.collect()

    def establish(self) -> None:
        """Dial, and let all that there is to say arrive."""
        self.connect()
        self.settle()

    def cut(self) -> None:
        """The transport is gone at both ends, and what was on its way with it."""
        assert self.connected
        self.connected = False
        for end in (self.link, self.server):
            end.incoming.clear()
            end.session.connection_lost()

    def collect(self) -> None:
        """Put on the wire what both ends have to send."""
        if self.connected:
            for end in (self.link, self.server):
                self.other(end).incoming.extend(end.session.frames_to_send())

    def deliver(self, end: End, frame: bytes | None = None) -> None:
        """Let the next frame (or this one, out of turn) arrive at `end`."""
        self.now += TICK
        self._told(
            end, end.session.receive_frame(end.incoming.popleft() if frame is None else frame, self.now)
        )

    def settle(self) -> None:
        """Let everything arrive, until both ends are silent."""
        self.collect()
        while self.connected and (self.link.incoming or self.server.incoming):
            self.deliver(self.server if self.server.incoming else self.link)

    def advance(self, seconds: float, *, frames_arrive: bool = True) -> None:
        """Let time pass, deadline by deadline, as punctual programs do."""
        until = self.now + seconds
        while True:
            due = [at for end in (self.link, self.server) if (at := end.session.next_deadline()) is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            for end in (self.link, self.server):
                self._told(end, end.session.handle_deadline(self.now))
            if frames_arrive:
                self.settle()
        self.now = max(self.now, until)

    def restart_server(self) -> None:
        """The server forgets everything."""
        if self.connected:
            self.cut()
        self.server = End(LinkSession(Role.SERVER, Role.LINK, self.server.session.config))

    def _told(self, end: End, events: tuple[SessionEvent, ...]) -> None:
        end.events.extend(events)
        self.collect()
        if any(isinstance(event, (SessionFailed, PeerClosed, SessionRefused)) for event in events):
            self._hang_up(end)

    def _hang_up(self, end: End) -> None:
        """Send what `end` still had to say, then drop the connection."""
        peer = self.other(end)
        while peer.incoming and peer.session.state is not State.FINISHED:
            peer.events.extend(peer.session.receive_frame(peer.incoming.popleft(), self.now))
        self.cut()
