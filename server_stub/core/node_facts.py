"""What the server knows of a node, and what it says of it: the words that facts and verdicts are made of.

Instants (`_at`) are the server's monotonic seconds: a node's clock is never among the facts. Holds no
decisions; `connectivity` makes a `Verdict` of `NodeFacts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanny.protocol.incarnation import Incarnation


@unique
class Word(StrEnum):
    """The one word for a node, gravest first."""

    MAINTENANCE = "MAINTENANCE"
    DRAINING = "DRAINING"
    NOT_READY = "NOT_READY"
    UNKNOWN = "UNKNOWN"
    UNREACHABLE = "UNREACHABLE"
    STALLED = "STALLED"
    DEGRADED = "DEGRADED"
    PENDING = "PENDING"
    READY = "READY"


PRECEDENCE: Final = tuple(Word)


@unique
class Lifecycle(StrEnum):
    """What people want of the node."""

    ACTIVE = "active"
    STOPPED = "stopped"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


@unique
class Reachability(StrEnum):
    """What the server can reach of the node."""

    REACHABLE = "reachable"
    UNPROVEN = "unproven"
    """Registered, or restarted since, and not yet probed with success."""
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"
    """The server could not even ask, by its own fault."""
    OFFLINE = "offline"
    AWAITED = "awaited"
    """Silent, but the server has not listened for long enough: the stored word stands."""


@unique
class Health(StrEnum):
    """How the worker is."""

    HEALTHY = "healthy"
    STARTING = "starting"
    DEGRADED = "degraded"
    STALLED = "stalled"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Nobody has said anything yet."""


@unique
class ProbeClass(StrEnum):
    """What one whole check of /healthz came to, its tries together."""

    OK = "ok"
    STALLED = "503-stalled"
    FALLBACK = "503-fallback"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    RESET = "reset"
    BAD_ANSWER = "bad-answer"
    DNS = "dns"
    NO_ROUTE = "no-route"
    VERSION = "version"
    """Answered in a version of /healthz that this server doesn't speak."""
    SERVER_FAULT = "server-fault"
    """The server could not ask: descriptors, memory, a bug of its own."""


ANSWERED: Final = frozenset(
    {ProbeClass.OK, ProbeClass.STALLED, ProbeClass.FALLBACK, ProbeClass.BAD_ANSWER, ProbeClass.VERSION}
)
"""Classes in which something at the node's address spoke: a sign of the node."""

WHY: Final[Mapping[ProbeClass, str]] = {
    ProbeClass.OK: "its worker answers well",
    ProbeClass.STALLED: "its worker answers that its event loop stands still",
    ProbeClass.FALLBACK: "only its nanny answers: no worker accepts connections",
    ProbeClass.REFUSED: "nothing listens at its address and port",
    ProbeClass.TIMEOUT: "no answer within the budget of the check",
    ProbeClass.RESET: "its connections break before an answer",
    ProbeClass.BAD_ANSWER: "what answers is not this node's /healthz",
    ProbeClass.DNS: "its address does not resolve",
    ProbeClass.NO_ROUTE: "there is no route to its address",
    ProbeClass.VERSION: "its answer is of a version that this server does not speak",
    ProbeClass.SERVER_FAULT: "the server could not ask",
}
"""What each class says to an operator."""


@dataclass(frozen=True, slots=True)
class ProbeFact:
    """The newest check."""

    result: ProbeClass
    at: float
    """When it ended."""
    since_at: float
    """When the first check of this unbroken run of the same class ended."""
    status: str | None = None
    """The word in the answer's body: starting, ok, stalled, fallback."""
    incarnation: Incarnation | None = None
    where: str | None = None
    """What the answer says of where the loop stands, or what the error was."""
    good_in_row: int = 0
    """Good checks in an unbroken row, up to this one. Counted by `Arrivals`."""
    good_before_at: float | None = None
    """When the good check before this one ended; None: there is none in this row."""

    @property
    def is_good(self) -> bool:
        """Whether its worker answered well, and was not just starting."""
        return self.result is ProbeClass.OK and self.status != "starting"


@dataclass(frozen=True, slots=True)
class ConnectionFact:
    """One of the node's two connections, link's or the worker's."""

    is_open: bool
    changed_at: float
    """When it was opened or closed."""
    heard_at: float
    """When its last message came. Invariant: heard_at <= now."""


@dataclass(frozen=True, slots=True)
class NannyFact:
    """The nanny's own view, as link last reported it."""

    phase: str
    desired_down: bool
    desired_by: str
    desired_reason: str
    desired_since_at: float
    draining: bool
    incarnation: Incarnation | None
    conditions: tuple[str, ...]
    """Types of the conditions that are True, sorted."""
    at: float
    """When the report came."""
    phase_since_at: float
    """When the first report of this unbroken run of the same phase came."""
    reborn_at: float | None = None
    """When a report first told this incarnation after another one; None: it told no other."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """All that a verdict is made from."""

    stored: Stored
    listening_since_at: float
    """Since when this server could have heard this node."""
    probe: ProbeFact | None = None
    worker: ConnectionFact | None = None
    """None: not seen by this server's process."""
    link: ConnectionFact | None = None
    nanny: NannyFact | None = None
    registered_incarnation: Incarnation | None = None
    reborn_at: float | None = None
    """When a registration last brought another life or address; None: not in this server's life."""
    worker_conditions: tuple[str, ...] = ()
    answered_at: float | None = None
    """When a check was last answered, well or badly; None: not in this server's life."""
    failed_at: float | None = None
    """When the nanny last said `failed`; None again after two good checks in a row."""
    maintenance_until_at: float | None = None
    """When the node's maintenance ends by itself; None: when people end it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database says of the node."""

    lifecycle: Lifecycle
    """MAINTENANCE stays until people undo it or its time is over; the others follow the nanny."""
    unreachable: bool
    """It was lost sight of, and two good checks in a row have not shown it well since."""
    word: Word
    reason: str
    detail: str
    is_registered: bool
    has_healthz: bool
    has_link: bool
    """Whether a link ever spoke for this node: only then is its silence told."""
    maintenance: str = ""
    """Who put it into maintenance, and why."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an axis stands where it stands."""

    code: str
    """One CamelCase word for machines."""
    detail: str = ""
    """For people, as `what: more`; holds no duration that runs."""
    since_at: float | None = None
    """Since when, in the server's monotonic seconds; None: since the node came to this state."""

    def sentence(self, since: str) -> str:
        """Give the reason with its since-time after what it is about: `stalled since 14:02:11 in module:function`."""
        what, _, more = (self.detail or self.code.lower()).partition(": ")
        joined = f" {more}" if more.startswith("in ") else f": {more}"
        return f"{what} since {since}{joined if more else ''}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a node's state should be."""

    word: Word
    reason: Reason
    """Of the axis that decided the word."""
    reasons: tuple[Reason, ...]
    """Of all axes that are not at their best, gravest first."""
    lifecycle: Lifecycle
    reachability: Reachability
    health: Health
    unreachable: bool

    def differs_from(self, stored: Stored) -> bool:
        """Tell whether storing this verdict would change the node's row."""
        return (self.word, self.reason.code, self.reason.detail, self.lifecycle, self.unreachable) != (
            stored.word,
            stored.reason,
            stored.detail,
            stored.lifecycle,
            stored.unreachable,
        )
