"""The body of POST /v1/nodes/{node}/commands, checked.

`{kind, reason, actor, time_to_live_s, target_incarnation, parameters}`; only kind and reason are required,
what is unknown is refused by name. Knows neither the node nor the database.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import CommandKind
from server_stub.problems import Problem

if TYPE_CHECKING:
    from nanny.protocol.messages import Scalar

DEFAULT_TIME_TO_LIVE_S: Final = 300.0
MAX_TIME_TO_LIVE_S: Final = 86400.0
MAX_REASON: Final = 1024
MAX_ACTOR: Final = 256
MAX_KEY: Final = 256
MAX_PARAMETERS: Final = 32
MAX_PARAMETER_TEXT: Final = 1024
MAX_INTEGER: Final = 2**63 - 1
CURRENT: Final = "current"

_FIELDS: Final = frozenset(
    {
        "kind",
        "reason",
        "actor",
        "time_to_live_s",
        "target_incarnation",
        "parameters",
    }
)


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What a client orders."""

    kind: CommandKind
    reason: str
    actor: str
    time_to_live_s: float
    target: Incarnation | str | None
    """A life of the worker, CURRENT for the one that is known when the request comes, None for any."""
    parameters: dict[str, Scalar]
    fingerprint: str
    """The same for the same request to the same node."""


def parse(body: Any, node_id: str, default_actor: str) -> CommandRequest:
    """Give the request that a JSON body makes.

    Raises:
        Problem: `invalid`, naming the field and what would be right.
    """
    if not isinstance(body, dict):
        raise Problem("malformed", "expected a JSON object")
    unknown = sorted(body.keys() - _FIELDS)
    if unknown:
        raise _invalid(str(unknown[0])[:64], f"no such field; there are {', '.join(sorted(_FIELDS))}")
    kind = body.get("kind")
    if kind not in list(CommandKind):
        raise _invalid("kind", f"expected one of {', '.join(CommandKind)}")
    kind = CommandKind(kind)
    default_target = CURRENT if kind is CommandKind.RESTART else None
    parsed = CommandRequest(
        kind=kind,
        reason=_text(body, "reason", MAX_REASON, None),
        actor=_text(body, "actor", MAX_ACTOR, default_actor),
        time_to_live_s=_time_to_live_s(body.get("time_to_live_s", DEFAULT_TIME_TO_LIVE_S)),
        target=_target(body.get("target_incarnation", default_target)),
        parameters=_parameters(body.get("parameters", {})),
        fingerprint="",
    )
    told = [node_id, parsed.kind, parsed.reason, parsed.actor, parsed.time_to_live_s, str(parsed.target)]
    canonical = json.dumps([*told, parsed.parameters], sort_keys=True)
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return CommandRequest(
        parsed.kind,
        parsed.reason,
        parsed.actor,
        parsed.time_to_live_s,
        parsed.target,
        parsed.parameters,
        fingerprint,
    )


def parse_key(header: str | None) -> str | None:
    """Give the Idempotency-Key of a request, None if it has none.

    Raises:
        Problem: `invalid`: it is empty, too long, or not printable ASCII.
    """
    if header is None:
        return None
    if not 0 < len(header) <= MAX_KEY or not header.isascii() or not header.isprintable():
        raise _invalid("Idempotency-Key", f"expected 1 to {MAX_KEY} printable ASCII characters")
    return header


def _invalid(field: str, expected: str) -> Problem:
    return Problem("invalid", f"{field}: {expected}", field=field)


def _text(body: dict[str, Any], field: str, limit: int, default: str | None) -> str:
    value = body.get(field, default)
    if not isinstance(value, str) or not value.strip() or len(value) > limit:
        raise _invalid(field, f"expected text of 1 to {limit} characters")
    if not _is_unicode(value):
        raise _invalid(field, "expected text without lone surrogates")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time_to_live_s(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_TIME_TO_LIVE_S:
        raise _invalid("time_to_live_s", f"expected seconds, more than 0, at most {MAX_TIME_TO_LIVE_S:g}")
    return float(value)


def _target(value: Any) -> Incarnation | str | None:
    if value is None or value == CURRENT:
        return value  # type: ignore[no-any-return]
    expected = f'expected "{CURRENT}", an incarnation as epoch/number, or null'
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise _invalid("target_incarnation", expected)
    try:
        return Incarnation.parse(value)
    except ProtocolViolation as violation:
        raise _invalid("target_incarnation", f"{expected}: {violation}") from None


def _parameters(value: Any) -> dict[str, Scalar]:
    expected = f"expected an object of at most {MAX_PARAMETERS} texts, numbers and booleans"
    if not isinstance(value, dict) or len(value) > MAX_PARAMETERS:
        raise _invalid("parameters", expected)
    for name, parameter in value.items():
        match parameter:
            case None | bool():
                is_good = True
            case str():
                is_good = len(parameter) <= MAX_PARAMETER_TEXT and _is_unicode(parameter)
            case int():
                is_good = abs(parameter) <= MAX_INTEGER
            case float():
                is_good = isfinite(parameter)
            case _:
                is_good = False
        if not is_good or not 0 < len(name) <= 128 or not _is_unicode(name):
            raise _invalid("parameters", expected)
    return value
