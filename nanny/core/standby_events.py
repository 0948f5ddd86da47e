"""What the standby's core hears, and what it has done: plain values, told apart by a process's ``number``.

Nothing here decides; see ``nanny.core.standby``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation


class Reason(StrEnum):
    """Why one is dropped, for counting."""

    ORDERED = "ordered"
    RELOAD = "reload"
    CODE = "code"
    AGE = "age"
    MEMORY = "memory"
    NOT_PARKED = "not-parked"
    NO_ANSWER = "no-answer"
    TOO_EARLY = "too-early"
    QUICK_DEATHS = "quick-deaths"
    CLOSING = "closing"


# Events


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker became ready."""

    since: float


@dataclass(frozen=True, slots=True)
class WorkerAway:
    """The worker is no longer ready: it ends, has ended, or is another one."""


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A life is over; ``is_ordered`` when somebody wanted that."""

    incarnation: Incarnation
    is_ordered: bool


@dataclass(frozen=True, slots=True)
class ChildWanted:
    """The nanny's core asked for a child for this life."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Parked:
    """The process has done its imports and waits."""

    number: int


@dataclass(frozen=True, slots=True)
class Answered:
    """It answered the call."""

    number: int


@dataclass(frozen=True, slots=True)
class CannotAnswer:
    """It was called, and the kernel says that it can't answer: stopped, for one."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended, or could not be made, before it became anybody."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Buried:
    """A dropped one is dead."""


@dataclass(frozen=True, slots=True)
class WakeTaken:
    """The promoted process has taken its wake: it is a worker like any other from now on."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class CodeChanged:
    """What it has loaded is no longer what the files hold."""

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class MemoryLooked:
    """What of the node's memory is available; ``is_squeezed`` when our cgroup ran against a limit since."""

    available_bytes: int | None
    is_squeezed: bool = False


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The settings were read anew."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The nanny ends."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline was reached."""


Event = (
    WorkerReady
    | WorkerAway
    | WorkerEnded
    | ChildWanted
    | Parked
    | Answered
    | CannotAnswer
    | Ended
    | Buried
    | WakeTaken
    | CodeChanged
    | MemoryLooked
    | Reloaded
    | Closing
    | TimePassed
)


# Actions


@dataclass(frozen=True, slots=True)
class Make:
    """Start a process that parks."""

    number: int


@dataclass(frozen=True, slots=True)
class Call:
    """Ask it whether it is there."""

    number: int


@dataclass(frozen=True, slots=True)
class CheckCode:
    """Have it compare what it loaded with what the files hold."""

    number: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Kill it; it never was anybody."""

    number: int
    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The process becomes this life's child, still waiting for its wake."""

    number: int
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class StartCold:
    """This life's child is made anew."""

    incarnation: Incarnation
    why: str


@dataclass(frozen=True, slots=True)
class LookAtMemory:
    """Read how much memory is available."""


@dataclass(frozen=True, slots=True)
class KillUnwoken:
    """The promoted process does not take its wake: kill it, its death is this life's end."""

    incarnation: Incarnation


Action = Make | Call | CheckCode | Drop | Promote | StartCold | LookAtMemory | KillUnwoken
