"""What a link session tells its program, and what it is told once: events, settings, and errors of our own.

Knows nothing of how a session works; `link_session.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanny.protocol.codec import DEFAULT_FRAME_BYTES, HARD_FRAME_BYTES
from nanny.protocol.messages import PROTOCOL_VERSIONS, ApplicationMessage, Hello, Welcome


class LocalError(Exception):
    """Our own program asked for what the session does not allow: a bug. Nothing has changed."""


class BacklogFull(Exception):  # noqa: N818  (a condition to wait out, not a fault)
    """So much waits to be acknowledged that no further message can be promised. Nothing has changed.

    The caller keeps the message and tries again once acknowledgements have come.
    """


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Settings of one end of a session."""

    protocol_versions: tuple[int, ...] = PROTOCOL_VERSIONS
    """Spoken by this end."""
    hello_timeout_s: float = 10.0
    """From the connection to Welcome, or on the server to Hello."""
    keepalive_interval_s: float = 10.0
    """Server only, told in Welcome: a ping after one interval of silence, given up after three."""
    report_interval_s: float = 10.0
    """Server only, told in Welcome."""
    ack_delay_s: float = 1.0
    """How long an acknowledgement waits for a frame to travel with."""
    ack_after: int = 32
    """So many unacknowledged messages are acknowledged at once."""
    ack_timeout_s: float = 30.0
    """How long a message may wait to be acknowledged before the connection is given up and it is sent again: what
    a proxy in between has lost would otherwise be missed for as long as nothing else is said."""
    max_unacknowledged: int = 1024
    max_unacknowledged_bytes: int = 4 * 1024 * 1024
    max_frame_bytes: int = DEFAULT_FRAME_BYTES

    def __post_init__(self) -> None:
        assert self.protocol_versions, "no protocol version"
        assert min(self.hello_timeout_s, self.keepalive_interval_s, self.ack_delay_s, self.ack_timeout_s) > 0
        assert 0 < self.max_frame_bytes <= HARD_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Established:
    """Both ends have greeted each other: from here on messages flow.

    Send now what only the newest of matters (report, offered spec): such messages are not repeated.
    """

    peer: Hello | Welcome
    resumed: bool
    """False: a new session; the peer may have forgotten all it knew, and repeat what it had sent."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An application message, in order; the numbered ones exactly once in a session's life."""

    message: ApplicationMessage


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """The server does not want us, and says why. Drop the connection."""

    code: str
    reason: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer ended the connection in order. Drop it; dial again as it asks. It means no more than that."""

    code: str
    reason: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """The peer broke the rules or fell silent. Send what is left, drop the connection, count, dial again."""

    reason: str


SessionEvent = Established | MessageReceived | SessionRefused | PeerClosed | SessionFailed
