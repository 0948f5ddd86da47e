"""The wire contract: one frozen dataclass for each message between link, worker and server.

Each class says who sends it to whom and when; each field its unit and, through its rule, its limits.
Instants never cross the wire: ages and remaining times do, so that no one's wall clock decides; the one
exception, `wall_clock_s` of the reports, is shown to people and decides nothing. `to_wire`
and `from_wire` give and take plain data (`{"t": name, "b": body}`), fit for msgpack towards the server and
for JSON on the control socket.

Growing the contract within a version: new fields are optional, new words only where the rule is a `token`.
Anything else is a new version. Knows nothing of frames, sequence numbers, connections, time or msgpack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.wire_fields import (
    MAX_SECONDS,
    Mismatch,
    Rule,
    choice,
    flag,
    identifier,
    integer,
    many,
    mapping,
    optional,
    read_fields,
    scalar,
    seconds,
    structure,
    text,
    token,
    tree,
    uuid_text,
    wire,
    write_fields,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL_VERSIONS: Final = (1,)
"""The versions that this code speaks, ascending."""

Scalar = str | int | float | bool | None


@unique
class Role(StrEnum):
    """Which program stands at an end of a session."""

    LINK = "link"
    WORKER = "worker"
    SERVER = "server"


@unique
class Desired(StrEnum):
    """What the nanny is to keep its worker."""

    UP = "up"
    DOWN = "down"


@unique
class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@unique
class CommandKind(StrEnum):
    """The commands of version 1; an order may name a newer one, which the nanny then rejects by name."""

    RESTART = "restart"
    STOP = "stop"
    START = "start"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    HOLD = "hold"
    RELEASE = "release"
    CLEAR = "clear"
    COLLECT_EVIDENCE = "collect-evidence"
    RELOAD = "reload"


@unique
class Outcome(StrEnum):
    """A command's one end."""

    DONE = "done"
    ALREADY_SATISFIED = "already-satisfied"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    FAILED = "failed"


_EPOCH: Final = identifier(64)


def _read_incarnation(value: object) -> Incarnation:
    if not isinstance(value, str):
        raise Mismatch("", f"expected an incarnation as epoch/number, got {type(value).__name__}")
    try:
        incarnation = Incarnation.parse(value)
    except ProtocolViolation as violation:
        raise Mismatch("", str(violation)) from None
    _EPOCH.decode(incarnation.epoch)
    return incarnation


def _write_incarnation(value: object) -> str:
    if not isinstance(value, Incarnation):
        raise Mismatch("", f"expected an Incarnation, got {type(value).__name__}")
    return str(_read_incarnation(str(value)))


INCARNATION: Final = Rule(_read_incarnation, _write_incarnation)
_REASON: Final = text(1024)
_VERSION: Final = text(64)


# Parts of messages


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that lasts: its type, whether it holds, and why."""

    type: str = field(metadata=wire(token()))
    """For instance `GpuDriverUnresponsive`."""
    status: ConditionStatus = field(metadata=wire(choice(ConditionStatus)))
    reason: str = field(metadata=wire(text(128)))
    """One word for machines."""
    message: str = field(metadata=wire(_REASON))
    """A sentence for people."""
    age_s: float = field(metadata=wire(seconds()))
    """Since the status last changed."""


@dataclass(frozen=True, slots=True)
class LastRestart:
    """How the worker's present incarnation came to be."""

    reason: str = field(metadata=wire(token()))
    age_s: float = field(metadata=wire(seconds()))
    incarnation_before: Incarnation | None = field(metadata=wire(optional(INCARNATION)))
    incarnation_after: Incarnation | None = field(metadata=wire(optional(INCARNATION)))
    """None while there is no successor yet."""


_CONDITIONS: Final = many(structure(Condition), limit=128)


# Session layer: either end of a connection, no sequence numbers


@dataclass(frozen=True, slots=True)
class Hello:
    """Link or worker to server, the first frame of each connection.

    Always framed as version 1, whatever is spoken afterwards: it grows by optional fields alone.
    """

    role: Role = field(metadata=wire(choice(Role)))
    protocol_versions: tuple[int, ...] = field(metadata=wire(many(integer(1, 65535), limit=32)))
    node_id: str = field(metadata=wire(identifier()))
    node_name: str = field(metadata=wire(text(256)))
    machine_id: str = field(metadata=wire(identifier()))
    boot_id: str = field(metadata=wire(identifier()))
    software_version: str = field(metadata=wire(_VERSION))
    incarnation: Incarnation | None = field(metadata=wire(optional(INCARNATION)))
    """The worker's life: a worker's own, for link the supervised one's; None: there is none."""
    session_id: str | None = field(default=None, metadata=wire(optional(identifier())))
    """The session to resume, None for a new one."""
    received_up_to: int = field(default=0, metadata=wire(integer()))
    """Highest sequence number that the sender has delivered in that session."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Server to link or worker, in answer to Hello. Always framed as version 1."""

    protocol_version: int = field(metadata=wire(integer(1, 65535)))
    """Spoken by both from the next frame on."""
    session_id: str = field(metadata=wire(identifier()))
    resumed: bool = field(metadata=wire(flag()))
    """False: a new session, both ends count from 1 again."""
    received_up_to: int = field(metadata=wire(integer()))
    """Highest sequence number that the server has delivered in this session."""
    keepalive_interval_s: float = field(metadata=wire(seconds(0.01, 3600.0)))
    """Either end pings after so much silence, and gives the other up after three times that."""
    report_interval_s: float = field(metadata=wire(seconds(0.01, 3600.0)))
    """How often the server wants a report when nothing changes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Server to link or worker, in answer to Hello, before it closes. Always framed as version 1."""

    code: str = field(metadata=wire(token()))
    """For instance `no-common-version`, `identity-conflict`, `not-enrolled`."""
    reason: str = field(metadata=wire(_REASON))
    retry_after_s: float | None = field(default=None, metadata=wire(optional(seconds())))


@dataclass(frozen=True, slots=True)
class Ack:
    """Either end to the other, soon after a sequenced frame was delivered."""

    received_up_to: int = field(metadata=wire(integer()))
    """All sequence numbers up to this one have reached the application."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Either end to the other after silence; answered by Pong."""

    nonce: int = field(metadata=wire(integer()))


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to Ping, with its nonce."""

    nonce: int = field(metadata=wire(integer()))


@dataclass(frozen=True, slots=True)
class Close:
    """Either end to the other: the last frame of a connection. It never changes a desired state."""

    code: str = field(metadata=wire(token()))
    """For instance `shutting-down`, `replaced`."""
    reason: str = field(metadata=wire(_REASON))
    retry_after_s: float | None = field(default=None, metadata=wire(optional(seconds())))


# Link to server


@dataclass(frozen=True, slots=True)
class NannyReport:
    """Link to server: the nanny's view, on change and at each report interval. Only the newest matters."""

    phase: str = field(metadata=wire(token()))
    desired: Desired = field(metadata=wire(choice(Desired)))
    desired_by: str = field(metadata=wire(text(256)))
    """Who set the desired state."""
    desired_reason: str = field(metadata=wire(_REASON))
    desired_since_s: float = field(metadata=wire(seconds()))
    """Age of the desired state."""
    incarnation: Incarnation | None = field(metadata=wire(optional(INCARNATION)))
    worker_state: str = field(metadata=wire(token()))
    loop_lag_s: float | None = field(metadata=wire(optional(seconds())))
    """None: not known."""
    beat_age_s: float | None = field(metadata=wire(optional(seconds())))
    """Since the last heartbeat; None: none seen in this incarnation."""
    conditions: tuple[Condition, ...] = field(metadata=wire(_CONDITIONS))
    restarts: dict[str, int] = field(metadata=wire(mapping(integer(), limit=64)))
    """Restarts by reason since the nanny's journal began."""
    last_restart: LastRestart | None = field(metadata=wire(optional(structure(LastRestart))))
    next_step: str = field(metadata=wire(text(256)))
    """What the nanny does next by itself, in words."""
    next_step_in_s: float | None = field(metadata=wire(optional(seconds())))
    hold_remaining_s: float | None = field(metadata=wire(optional(seconds())))
    """None: no hold."""
    draining: bool = field(metadata=wire(flag()))
    nanny_version: str = field(metadata=wire(_VERSION))
    journal_degraded: bool = field(metadata=wire(flag()))
    """True: the journal does not answer; orders that change the desired state are rejected."""
    uptime_s: float = field(metadata=wire(seconds()))
    """Of the nanny."""
    wall_clock_s: float | None = field(default=None, metadata=wire(optional(seconds())))
    """The node's wall clock when this was sent, as seconds since 1970, to show how wrong it is; None: not told."""


@dataclass(frozen=True, slots=True)
class CommandAccepted:
    """Link to server: the nanny has taken the command into its ledger."""

    command_id: str = field(metadata=wire(uuid_text()))


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """Link to server: a command's one end; sent again in each new session until OutcomeAcknowledged."""

    command_id: str = field(metadata=wire(uuid_text()))
    outcome: Outcome = field(metadata=wire(choice(Outcome)))
    detail: str = field(metadata=wire(_REASON))
    incarnation: Incarnation | None = field(default=None, metadata=wire(optional(INCARNATION)))
    """The worker's life after the command."""


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """Link to server: evidence of a worker was saved on the node."""

    bundle_id: str = field(metadata=wire(identifier()))
    incarnation: Incarnation = field(metadata=wire(INCARNATION))
    reason: str = field(metadata=wire(_REASON))
    size_bytes: int = field(metadata=wire(integer()))
    stalled_at: str | None = field(default=None, metadata=wire(optional(text(512))))
    """Where the loop stood (`file:line in function`), if the stacks tell."""
    signature: str | None = field(default=None, metadata=wire(optional(text(1024))))
    """The kind of hang: innermost calls as `module:function`, joined by ` < `, without line numbers."""


# Server to link


@dataclass(frozen=True, slots=True)
class CommandOrder:
    """Server to link: do this, within so much time; the same id twice has one effect."""

    command_id: str = field(metadata=wire(uuid_text()))
    """UUIDv7."""
    kind: str = field(metadata=wire(token()))
    """A CommandKind; a word unknown here is the nanny's to reject."""
    time_to_live_s: float = field(metadata=wire(seconds()))
    """Relative: each station subtracts the time for which it held the order."""
    reason: str = field(metadata=wire(_REASON))
    actor: str = field(metadata=wire(text(256)))
    """Who ordered it, a person or a policy."""
    target: Incarnation | None = field(default=None, metadata=wire(optional(INCARNATION)))
    """The life it is aimed at; a later one means already satisfied."""
    parameters: dict[str, Scalar] = field(default_factory=dict, metadata=wire(mapping(scalar(), limit=32)))
    """For instance `for_s` of a hold."""


@dataclass(frozen=True, slots=True)
class OutcomeAcknowledged:
    """Server to link: the outcome is stored; the nanny may forget it."""

    command_id: str = field(metadata=wire(uuid_text()))


# Worker to server


@dataclass(frozen=True, slots=True)
class Registration:
    """Worker to server: who and where I am, at each new connection and when it changes."""

    incarnation: Incarnation | None = field(metadata=wire(optional(INCARNATION)))
    """None: not started by a nanny."""
    addresses: tuple[str, ...] = field(metadata=wire(many(identifier(), limit=16)))
    """Where the server can reach this node, best first."""
    healthz_port: int = field(metadata=wire(integer(0, 65535)))
    """0: there is none."""
    capacity: dict[str, Any] = field(metadata=wire(tree(item_limit=1024, depth_limit=6)))
    labels: dict[str, str] = field(metadata=wire(mapping(text(256), limit=128)))
    software_version: str = field(metadata=wire(_VERSION))
    started_age_s: float = field(metadata=wire(seconds()))


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """Worker to server: how it goes, on change and at each report interval. Only the newest matters."""

    seq: int = field(metadata=wire(integer()))
    """Counts the reports of this incarnation."""
    loop_lag_s: float = field(metadata=wire(seconds()))
    telemetry: dict[str, Any] = field(metadata=wire(tree()))
    conditions: tuple[Condition, ...] = field(metadata=wire(_CONDITIONS))
    observed_generation: int | None = field(default=None, metadata=wire(optional(integer())))
    """The last spec that was carried out to its last step."""
    wall_clock_s: float | None = field(default=None, metadata=wire(optional(seconds())))
    """The node's wall clock when this was sent, as seconds since 1970, to show how wrong it is; None: not told."""


# Server to worker


@dataclass(frozen=True, slots=True)
class Registered:
    """Server to worker: the registration is stored."""

    node_id: str = field(metadata=wire(identifier()))


@dataclass(frozen=True, slots=True)
class SpecOffer:
    """Server to worker: the desired workloads, at each connection and on change. Only the newest matters."""

    generation: int = field(metadata=wire(integer()))
    spec: dict[str, Any] = field(metadata=wire(tree(item_limit=16384, depth_limit=12)))


SessionMessage = Hello | Welcome | Refused | Ack | Ping | Pong | Close
LinkMessage = NannyReport | CommandAccepted | CommandOutcome | EvidenceSummary
WorkerMessage = Registration | WorkerReport
ServerMessage = CommandOrder | OutcomeAcknowledged | Registered | SpecOffer
ApplicationMessage = LinkMessage | WorkerMessage | ServerMessage
Message = SessionMessage | ApplicationMessage

MESSAGE_TYPES: Final[Mapping[str, type[Message]]] = {
    "hello": Hello,
    "welcome": Welcome,
    "refused": Refused,
    "ack": Ack,
    "ping": Ping,
    "pong": Pong,
    "close": Close,
    "nanny-report": NannyReport,
    "command-accepted": CommandAccepted,
    "command-outcome": CommandOutcome,
    "evidence-summary": EvidenceSummary,
    "command-order": CommandOrder,
    "outcome-acknowledged": OutcomeAcknowledged,
    "registration": Registration,
    "worker-report": WorkerReport,
    "registered": Registered,
    "spec-offer": SpecOffer,
}
MESSAGE_NAMES: Final[Mapping[type[Message], str]] = {shape: name for name, shape in MESSAGE_TYPES.items()}

SENT_BETWEEN: Final[Mapping[type[ApplicationMessage], tuple[Role, Role]]] = {
    NannyReport: (Role.LINK, Role.SERVER),
    CommandAccepted: (Role.LINK, Role.SERVER),
    CommandOutcome: (Role.LINK, Role.SERVER),
    EvidenceSummary: (Role.LINK, Role.SERVER),
    CommandOrder: (Role.SERVER, Role.LINK),
    OutcomeAcknowledged: (Role.SERVER, Role.LINK),
    Registration: (Role.WORKER, Role.SERVER),
    WorkerReport: (Role.WORKER, Role.SERVER),
    Registered: (Role.SERVER, Role.WORKER),
    SpecOffer: (Role.SERVER, Role.WORKER),
}
"""Sender and receiver of each application message; any other pair is a violation."""


def shown_wall_clock_s(wall_s: float) -> float:
    """Give a wall clock as it may be told: one that stands before 1970 or too far ahead is told as the limit."""
    return min(max(wall_s, 0.0), MAX_SECONDS)


NEWEST_ONLY: Final[frozenset[type[ApplicationMessage]]] = frozenset({NannyReport, WorkerReport, SpecOffer})
"""Messages that a later one of the same type makes worthless: never resent, never acknowledged."""


def to_wire(message: Message) -> dict[str, Any]:
    """Give a message as plain data, `{"t": name, "b": body}`.

    Raises:
        ValueError: a field breaks its own rule (our bug: text for people is clipped, the rest refused).
    """
    name = MESSAGE_NAMES[type(message)]
    try:
        return {"t": name, "b": write_fields(type(message), message)}
    except Mismatch as mismatch:
        raise mismatch.within(name) from None


def from_wire(plain: object) -> Message:
    """Give the message that `{"t": name, "b": body}` describes; unknown fields are ignored.

    Raises:
        ProtocolViolation: naming the message, the field and what was expected there.
    """
    if not isinstance(plain, dict):
        raise ProtocolViolation(f"a message is a map with t and b, got {type(plain).__name__}")
    name = plain.get("t")
    shape = MESSAGE_TYPES.get(name) if isinstance(name, str) else None
    if shape is None:
        raise ProtocolViolation(f"unknown message type {str(name)[:64]!r}")
    try:
        return read_fields(shape, plain.get("b"))
    except Mismatch as mismatch:
        raise ProtocolViolation(str(mismatch.within(str(name)))) from None
