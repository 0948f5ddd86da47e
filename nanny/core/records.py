"""What must be durable before anything is done about it; also what ``nannyctl history`` shows.

``to_json`` and ``from_json`` turn records into flat JSON objects and back. Unknown types and unknown fields
are passed over when read (a newer nanny may have written them); a known type with a bad field is dropped
and named, because one bad line must not cost the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nanny.core.actions import Outcome
from nanny.core.events import Command, CommandKind, Source
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from collections.abc import Mapping


class Desired(StrEnum):
    """What the nanny wants of the worker; written by a command, never by an observation."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EpochMinted:
    """From here on incarnations count anew within this epoch."""

    epoch: str


@dataclass(frozen=True, slots=True)
class NumbersReserved:
    """Numbers up to and with this one may have been used."""

    until: int


@dataclass(frozen=True, slots=True)
class IncarnationStarted:
    """A child waits at the gate and is about to be released."""

    incarnation: Incarnation
    pid: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class IncarnationReady:
    """The worker said READY=1."""

    incarnation: Incarnation
    after_s: float


@dataclass(frozen=True, slots=True)
class StopDecided:
    """The worker is about to be stopped, and why."""

    incarnation: Incarnation
    reason: str
    detail: str
    then: str


@dataclass(frozen=True, slots=True)
class IncarnationEnded:
    """The worker's main process is dead."""

    incarnation: Incarnation
    reason: str
    status: str
    failures: int
    """Failures in a row, this one included."""


@dataclass(frozen=True, slots=True)
class IncarnationFenced:
    """The worker would not die; it is refused everywhere and replaced."""

    incarnation: Incarnation
    reason: str


@dataclass(frozen=True, slots=True)
class EvidenceSaved:
    """A bundle was written, or could not be."""

    incarnation: Incarnation
    bundle: str
    message: str


@dataclass(frozen=True, slots=True)
class DesiredSet:
    """The nanny's own desired state changed."""

    desired: Desired
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainSet:
    """No new work is wanted on this node, or it is wanted again."""

    draining: bool
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class HoldSet:
    """Involuntary kills are suspended until an instant on this boot's monotonic clock; None: no longer."""

    until: float | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class CommandAccepted:
    """A command is in the ledger and will have exactly one outcome."""

    command: Command


@dataclass(frozen=True, slots=True)
class CommandFinished:
    """The one outcome of a command."""

    command_id: str
    kind: CommandKind
    outcome: Outcome
    detail: str
    incarnation: Incarnation | None
    local: bool


@dataclass(frozen=True, slots=True)
class OutcomeDelivered:
    """The server acknowledged the outcome."""

    command_id: str


@dataclass(frozen=True, slots=True)
class ConditionChanged:
    """A lasting fact began or ended."""

    condition: str
    """Its type; not named so, because ``type`` is the record's own in JSON."""
    status: bool
    reason: str
    message: str


Record = (
    EpochMinted
    | NumbersReserved
    | IncarnationStarted
    | IncarnationReady
    | StopDecided
    | IncarnationEnded
    | IncarnationFenced
    | EvidenceSaved
    | DesiredSet
    | DrainSet
    | HoldSet
    | CommandAccepted
    | CommandFinished
    | OutcomeDelivered
    | ConditionChanged
)

_TYPES: dict[str, type[Record]] = {
    "epoch-minted": EpochMinted,
    "numbers-reserved": NumbersReserved,
    "incarnation-started": IncarnationStarted,
    "incarnation-ready": IncarnationReady,
    "stop-decided": StopDecided,
    "incarnation-ended": IncarnationEnded,
    "incarnation-fenced": IncarnationFenced,
    "evidence-saved": EvidenceSaved,
    "desired-set": DesiredSet,
    "drain-set": DrainSet,
    "hold-set": HoldSet,
    "command-accepted": CommandAccepted,
    "command-finished": CommandFinished,
    "outcome-delivered": OutcomeDelivered,
    "condition-changed": ConditionChanged,
}
_NAMES: dict[type[Record], str] = {cls: name for name, cls in _TYPES.items()}


def to_json(record: Record) -> dict[str, Any]:
    """The record as a flat JSON object with its ``type``."""
    plain: dict[str, Any] = {"type": _NAMES[type(record)]}
    value: Any
    for field in fields(record):
        value = getattr(record, field.name)
        plain[field.name] = _command_to_json(value) if isinstance(value, Command) else _to_plain(value)
    return plain


def from_json(plain: Mapping[str, Any]) -> Record | None:
    """The record of a JSON object; None for a type that this version does not know.

    Raises:
        ProtocolViolation: a known type with a missing or wrong field.
    """
    record_type = _TYPES.get(str(plain.get("type")))
    if record_type is None:
        return None
    try:
        values = {field.name: _field(field.name, plain[field.name]) for field in fields(record_type)}
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"record {plain.get('type')}: field {error} is missing or wrong") from error
    return record_type(**values)


def _to_plain(value: Any) -> Any:
    return str(value) if isinstance(value, Incarnation | StrEnum) else value


def _command_to_json(command: Command) -> dict[str, Any]:
    return {field.name: _to_plain(getattr(command, field.name)) for field in fields(command)}


def _incarnation(value: Any) -> Incarnation | None:
    return None if value is None else Incarnation.parse(_typed(str, value))


def _typed(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _field(name: str, value: Any) -> Any:
    match name:
        case "incarnation":
            return _incarnation(value)
        case "desired":
            return Desired(value)
        case "kind":
            return CommandKind(value)
        case "outcome":
            return Outcome(value)
        case "command":
            return _command(_typed(dict, value))
        case "until" | "after_s":
            return (
                value
                if value is None
                else _typed(float, value)
                if isinstance(value, float)
                else _typed(int, value)
            )
        case "pid" | "start_time_ticks" | "failures":
            return _typed(int, value)
        case "draining" | "local" | "status" if isinstance(value, bool):
            return value
        case _:
            return _typed(str, value)


def _command(plain: dict[str, Any]) -> Command:
    for_s = plain.get("for_s")
    return Command(
        id=_typed(str, plain["id"]),
        kind=CommandKind(plain["kind"]),
        time_to_live_s=float(plain["time_to_live_s"]),
        reason=_typed(str, plain["reason"]),
        actor=_typed(str, plain["actor"]),
        source=Source(plain["source"]),
        target=_incarnation(plain.get("target")),
        for_s=None if for_s is None else float(for_s),
    )
