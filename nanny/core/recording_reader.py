"""Reads a recording back and steps through it again: the same state, the same events, the same decisions?

Pure: bytes and values in, values out. Reads by the annotations of the core's own dataclasses, so a field that this
version lacks, or a class that it does not know, is an error that names it. Not for the supervising process, which
only writes recordings (``nanny.recorder``).
"""

from __future__ import annotations

import json
import types
import zlib
from dataclasses import dataclass, is_dataclass, replace
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints

from nanny.core import actions, child, command_ledger, config, events, invariants, records, state
from nanny.core.plain_values import TYPE_KEY, named
from nanny.core.policy import step
from nanny.protocol import incarnation
from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Step
    from nanny.core.events import Event
    from nanny.core.state import NannyState

FORMAT: Final = 1
SIZE_LIMIT_BYTES: Final = 64 << 20
"""Of a recording unpacked; a ring of the nanny's has a hundredth of it."""
_MODULES: Final = (actions, child, command_ledger, config, events, records, state, incarnation)
_KNOWN: Final[dict[str, Any]] = {
    name: value for module in _MODULES for name, value in vars(module).items() if isinstance(value, type)
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One event and what was decided on it."""

    at: float
    event: Event
    records: tuple[dict[str, Any], ...]
    actions: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a run of moments starts from.

    Attributes:
        at, wall_s: the same instant, by the monotonic and by the wall clock.
    """

    version: str
    node: str
    at: float
    wall_s: float
    config: PolicyConfig
    state: NannyState
    moments: tuple[Moment, ...]


@dataclass(frozen=True, slots=True)
class Played:
    """One moment, decided anew.

    Attributes:
        before: the state that it met.
        step: what is decided now.
        differs: how that is not what was decided then; empty where it is.
        violations: of the rules that hold in every state.
    """

    wall_s: float
    moment: Moment
    before: NannyState
    step: Step
    differs: str
    violations: tuple[str, ...]


def read_recording(packed: bytes) -> list[Piece]:
    """The pieces of a recording, oldest first; a cut one is read as far as it goes.

    Raises:
        ProtocolViolation: it is none, or of a version that this program can't read; the message says which.
    """
    lines = _unpacked(packed).split(b"\n")
    if lines and lines[-1]:
        lines.pop()  # Cut in the middle of a line.
    pieces: list[tuple[Piece, list[Moment]]] = []
    for number, line in enumerate(filter(None, lines), 1):
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                pieces.append((_piece(value), []))
            elif pieces:
                pieces[-1][1].append(_moment(value))
            else:
                raise ValueError("a recording begins with an object that has recording, config and state")
        except KeyError as error:
            raise ProtocolViolation(f"recording, line {number}: {error} is missing") from error
        except (TypeError, ValueError, AttributeError, RecursionError, ProtocolViolation) as error:
            raise ProtocolViolation(f"recording, line {number}: {error}") from error
    if not pieces:
        raise ProtocolViolation("the recording is empty")
    return [replace(piece, moments=tuple(moments)) for piece, moments in pieces]


def played(pieces: list[Piece]) -> Iterator[Played]:
    """Every moment, decided anew from the state that its piece starts from; `joints` tells whether pieces meet.

    Raises:
        ProtocolViolation: a moment that cannot be decided at all: a state that never was, or a bug of ours.
    """
    for piece in pieces:
        now_state = piece.state
        for moment in piece.moments:
            before = now_state
            result = _decided(before, moment, piece.config)
            now_state = result.state
            broken = invariants.violations(before, moment.event, result, moment.at, piece.config)
            wall_s = piece.wall_s + moment.at - piece.at
            yield Played(wall_s, moment, before, result, _difference(moment, result), tuple(broken))


def joints(pieces: list[Piece]) -> list[str]:
    """Where the state that a piece starts from is not the one that replaying the piece before it led to."""
    problems = []
    for at, (earlier, later) in enumerate(pairwise(pieces), 1):
        reached = earlier.state
        for moment in earlier.moments:
            reached = _decided(reached, moment, earlier.config).state
        if reached != later.state:
            problems.append(f"piece {at + 1} does not start from where piece {at} ends")
    return problems


def _decided(before: NannyState, moment: Moment, numbers: PolicyConfig) -> Step:
    try:
        return step(before, moment.event, moment.at, numbers)
    except Exception as error:
        what = f"{type(moment.event).__name__} at {moment.at:.3f}"
        raise ProtocolViolation(f"recording: {what} cannot be decided: {error!r}") from error


def _difference(moment: Moment, result: Step) -> str:
    now_records = [named(one) for one in result.records]
    now_actions = [named(one) for one in result.actions]
    then, now = [*moment.records, *moment.actions], [*now_records, *now_actions]
    if then == now:
        return ""
    return f"then {_names(then)}; now {_names(now)}"


def _names(decided: list[dict[str, Any]]) -> str:
    return ", ".join(json.dumps(one) for one in decided) or "nothing"


def _unpacked(packed: bytes) -> bytes:
    unpacked = bytearray()
    while packed:
        unpacker = zlib.decompressobj(31)
        try:
            unpacked += unpacker.decompress(packed, SIZE_LIMIT_BYTES - len(unpacked) + 1)
        except zlib.error as error:
            raise ProtocolViolation(f"the recording is no gzip file: {error}") from error
        if len(unpacked) > SIZE_LIMIT_BYTES:
            raise ProtocolViolation(f"the recording has more than {SIZE_LIMIT_BYTES} bytes unpacked")
        packed = unpacker.unused_data
    return bytes(unpacked)


def _piece(start: dict[str, Any]) -> Piece:
    if start.get("recording") != FORMAT:
        raise ProtocolViolation(f"recording format {start.get('recording')!r}: this program reads {FORMAT}")
    return Piece(
        str(start["version"]),
        str(start["node"]),
        float(start["at"]),
        float(start["wall"]),
        _typed(config.PolicyConfig, start["config"]),
        _typed(state.NannyState, start["state"]),
        (),
    )


def _moment(value: Any) -> Moment:
    at, event, *decided = value
    cls = _KNOWN.get(str(event.get(TYPE_KEY)))
    if cls is None or cls not in get_args(events.Event):
        raise ValueError(f"{event.get(TYPE_KEY)!r} is no event that this version knows")
    then_records, then_actions = decided or ([], [])
    return Moment(float(at), _typed(cls, event), tuple(then_records), tuple(then_actions))


def _typed(annotation: Any, value: Any) -> Any:
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType}:
        return None if value is None else _typed(_not_none(annotation), value)
    if origin in {tuple, frozenset}:
        (inner, *_) = get_args(annotation)
        return origin(_typed(inner, one) for one in value)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation(value)
    if is_dataclass(annotation) and isinstance(annotation, type):
        hints = _hints(annotation)
        unknown = set(value) - set(hints) - {TYPE_KEY}
        if unknown:
            raise ValueError(f"{annotation.__name__} has no {', '.join(sorted(unknown))} in this version")
        return annotation(**{name: _typed(hints[name], one) for name, one in value.items() if name in hints})
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # An integer that the shell gave for a float stays what it was: replay is exact.
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise TypeError(f"{str(value)[:80]!r} is no {annotation.__name__}")
    return value


def _not_none(annotation: Any) -> Any:
    (only,) = [one for one in get_args(annotation) if one is not type(None)]
    return only


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, globalns=_KNOWN)
