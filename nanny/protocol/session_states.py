"""The positions of a session's connection as a table: what may happen in each, and where it leads.

Two rules, as in h11: all that decides *whether* something may happen now stands in this table, and this
file does not know what a message does. What is not in the table is refused: from the peer it is a
ProtocolViolation, from our own program a LocalError, and in both cases nothing has changed.

Theory of operation. A *session* outlives its connections: it has an id, and each end numbers what it sends.
A *connection* belongs to one session and goes through four positions: OFFLINE (there is none), GREETING
(the one who dialled has said Hello, the server has to answer with Welcome or Refused), OPEN, and FINISHED:
one side has said its last word, or broken the rules, and nothing that still comes in counts; the program is
to drop the connection. Whatever happens, the loss of the connection leads back to OFFLINE, and the next one
resumes the session if both ends still know it.

Not in the table: that a Hello without a common version finishes instead of opening.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from nanny.protocol.messages import Ack, Close, Hello, Ping, Pong, Refused, Role, SessionMessage, Welcome

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Where the connection stands."""

    OFFLINE = auto()
    GREETING = auto()
    OPEN = auto()
    FINISHED = auto()


class Local(Enum):
    """What our own program, or the clock, does to the connection."""

    DIALLED = auto()
    ACCEPTED = auto()
    LOST = auto()
    REFUSE = auto()
    CLOSE = auto()
    FAIL = auto()


class Peer(Enum):
    """What the peer sends, beside the messages of the session layer."""

    APPLICATION = auto()


Input = Local | Peer | type[SessionMessage]

_OPEN: Final[Mapping[Input, State]] = {
    Peer.APPLICATION: State.OPEN,
    Ack: State.OPEN,
    Ping: State.OPEN,
    Pong: State.OPEN,
    Close: State.FINISHED,
    Local.CLOSE: State.FINISHED,
    Local.FAIL: State.FINISHED,
    Local.LOST: State.OFFLINE,
}
_FINISHED: Final[Mapping[Input, State]] = {
    # What was on its way when the last word was said is ignored; what of it matters is sent again.
    **dict.fromkeys((Peer.APPLICATION, Hello, Welcome, Refused, Ack, Ping, Pong, Close), State.FINISHED),
    Local.CLOSE: State.FINISHED,
    Local.LOST: State.OFFLINE,
}
_DIALLER: Final[Mapping[State, Mapping[Input, State]]] = {
    State.OFFLINE: {Local.DIALLED: State.GREETING},
    State.GREETING: {
        Welcome: State.OPEN,
        Refused: State.FINISHED,
        Close: State.FINISHED,
        Local.CLOSE: State.FINISHED,
        Local.FAIL: State.FINISHED,
        Local.LOST: State.OFFLINE,
    },
    State.OPEN: _OPEN,
    State.FINISHED: _FINISHED,
}
_SERVER: Final[Mapping[State, Mapping[Input, State]]] = {
    State.OFFLINE: {Local.ACCEPTED: State.GREETING},
    State.GREETING: {
        Hello: State.OPEN,
        Close: State.FINISHED,
        Local.REFUSE: State.FINISHED,
        Local.CLOSE: State.FINISHED,
        Local.FAIL: State.FINISHED,
        Local.LOST: State.OFFLINE,
    },
    State.OPEN: _OPEN,
    State.FINISHED: _FINISHED,
}
TRANSITIONS: Final[Mapping[Role, Mapping[State, Mapping[Input, State]]]] = {
    Role.LINK: _DIALLER,
    Role.WORKER: _DIALLER,
    Role.SERVER: _SERVER,
}


def next_state(role: Role, state: State, happened: Input) -> State | None:
    """Give the position after `happened`, or None if it may not happen in `state` at this end."""
    return TRANSITIONS[role][state].get(happened)
