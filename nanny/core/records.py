"""What must be durable before anything is done about it; also what ``nannyctl history`` shows.

``to_json`` and ``from_json`` turn records into flat JSON objects and back. Unknown types and unknown fields
are passed over when read (a newer nanny may have written them); a known type with a bad field is dropped
and named, because one bad line must not cost the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nanny.core.actions import Outcome
from nanny.core.events import Command, CommandKind, Source
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_T = TypeVar("_T")
_COUNT_LIMIT: Final = 2**53


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
        ProtocolViolation: a known type with a missing or wrong field, which is named.
    """
    record_type = _TYPES.get(str(plain.get("type")))
    return None if record_type is None else _read(record_type, plain)


def _to_plain(value: Any) -> Any:
    return str(value) if isinstance(value, Incarnation | StrEnum) else value


def _command_to_json(command: Command) -> dict[str, Any]:
    return {field.name: _to_plain(getattr(command, field.name)) for field in fields(command)}


def _read(cls: type[_T], plain: Mapping[str, Any]) -> _T:
    values = {}
    for field in fields(cls):  # type: ignore[arg-type]
        try:
            values[field.name] = _READERS[str(field.type)](plain[field.name])
        except (KeyError, TypeError, ValueError, ProtocolViolation) as error:
            what = f"{plain.get('type', cls.__name__)}: {field.name}"
            found = "missing" if isinstance(error, KeyError) else f"{str(plain[field.name])[:80]!r} ({error})"
            raise ProtocolViolation(f"record {what} is {found}") from error
    return cls(**values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _COUNT_LIMIT:
        raise ValueError(f"not a whole number from 0 to {_COUNT_LIMIT}")
    return value


def _number(value: Any) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not -_COUNT_LIMIT < value < _COUNT_LIMIT
    ):
        raise ValueError("not a finite number")
    return float(value)


def _command(value: Any) -> Command:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return _read(Command, {"target": None, "for_s": None, **value})


def _optional(read: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    return lambda value: None if value is None else read(value)


def _incarnation(value: Any) -> Incarnation:
    return Incarnation.parse(_text(value))


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "str": _text,
    "bool": _truth,
    "int": _count,
    "float": _number,
    "float | None": _optional(_number),
    "Incarnation": _incarnation,
    "Incarnation | None": _optional(_incarnation),
    "Command": _command,
    "CommandKind": CommandKind,
    "Desired": Desired,
    "Outcome": Outcome,
    "Source": Source,
}
"""By a field's annotation: what its value in JSON has to be."""
