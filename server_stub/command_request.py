"""The bodies of POST /v1/nodes/{node}/commands and POST /v1/commands, checked.

`{kind, reason, actor, time_to_live_s, target_incarnation, parameters}`; only kind and reason are required,
what is unknown is refused by name. The second has also `nodes` or `selector`, and `dry_run`. Knows neither
nodes nor the database.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import CommandKind
from server_stub.core import selector
from server_stub.core.selector import Selector, SelectorError
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
MAX_NAMES: Final = 2000
MAX_NAME: Final = 256
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
_SELECTION_FIELDS: Final = frozenset({"nodes", "selector"})


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
    """The same for the same request to the same nodes."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes a request is for: those named, or those with these labels."""

    names: tuple[str, ...] | None
    """Names or ids, each once; None if there is a selector."""
    selector: Selector | None
    text: str
    """The selector as it came; empty if nodes are named."""


def parse(body: Any, node_id: str, default_actor: str) -> CommandRequest:
    """Give the request that a JSON body makes.

    Raises:
        Problem: `invalid`, naming the field and what would be right.
    """
    return _fingerprinted(parse_order(body, default_actor, _FIELDS), [node_id])


def parse_for_many(body: Any, default_actor: str) -> tuple[CommandRequest, Selection, bool]:
    """Give the request of a JSON body, the nodes that it is for, and whether it only asks who they would be.

    Raises:
        Problem: `invalid`, naming the field and what would be right.
    """
    wanted = parse_order(body, default_actor, _FIELDS | _SELECTION_FIELDS | {"dry_run"})
    selection = parse_selection(body)
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise invalid("dry_run", "expected true or false")
    return _fingerprinted(wanted, [selection.text, *sorted(selection.names or ())]), selection, dry_run


def parse_order(body: Any, default_actor: str, fields: frozenset[str]) -> CommandRequest:
    """Give what a JSON body orders, its fingerprint empty.

    Raises:
        Problem: `malformed`, or `invalid`, naming the field and what would be right.
    """
    if not isinstance(body, dict):
        raise Problem("malformed", "expected a JSON object")
    unknown = sorted(body.keys() - fields)
    if unknown:
        raise invalid(str(unknown[0])[:64], f"no such field; there are {', '.join(sorted(fields))}")
    kind = body.get("kind")
    if kind not in list(CommandKind):
        raise invalid("kind", f"expected one of {', '.join(CommandKind)}")
    kind = CommandKind(kind)
    default_target = CURRENT if kind is CommandKind.RESTART else None
    return CommandRequest(
        kind=kind,
        reason=text_of(body, "reason", MAX_REASON, None),
        actor=text_of(body, "actor", MAX_ACTOR, default_actor),
        time_to_live_s=_time_to_live_s(body.get("time_to_live_s", DEFAULT_TIME_TO_LIVE_S)),
        target=_target(body.get("target_incarnation", default_target)),
        parameters=_parameters(body.get("parameters", {})),
        fingerprint="",
    )


def parse_selection(body: dict[str, Any]) -> Selection:
    """Give the nodes that a JSON body is for.

    Raises:
        Problem: `invalid`: it has not exactly one of `nodes` and `selector`, or that is none.
    """
    names, text = body.get("nodes"), body.get("selector")
    if (names is None) == (text is None):
        raise invalid("nodes", "expected exactly one of nodes and selector")
    if text is not None:
        if not isinstance(text, str):
            raise invalid("selector", "expected text such as rack=r1,gpu in (h200,b200)")
        return Selection(None, parse_selector(text), text.strip())
    expected = f"expected a list of 1 to {MAX_NAMES} names or ids, each once"
    if not isinstance(names, list) or not 0 < len(names) <= MAX_NAMES:
        raise invalid("nodes", expected)
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME and _is_storable(name) for name in names):
        raise invalid("nodes", expected)
    if len(set(names)) != len(names):
        raise invalid("nodes", expected)
    return Selection(tuple(names), None, "")


def parse_selector(text: str) -> Selector:
    """Give the label selector that a request says.

    Raises:
        Problem: `invalid`: it is none.
    """
    try:
        return selector.parse(text)
    except SelectorError as error:
        raise invalid("selector", str(error)) from None


def fingerprint_of(*told: Any) -> str:
    """Give a digest that is the same for the same plain values."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _fingerprinted(wanted: CommandRequest, whom: list[str]) -> CommandRequest:
    told = [*whom, wanted.kind, wanted.reason, wanted.actor, wanted.time_to_live_s, str(wanted.target)]
    return replace(wanted, fingerprint=fingerprint_of(*told, wanted.parameters))


def parse_key(header: str | None) -> str | None:
    """Give the Idempotency-Key of a request, None if it has none.

    Raises:
        Problem: `invalid`: it is empty, too long, or not printable ASCII.
    """
    if header is None:
        return None
    if not 0 < len(header) <= MAX_KEY or not header.isascii() or not header.isprintable():
        raise invalid("Idempotency-Key", f"expected 1 to {MAX_KEY} printable ASCII characters")
    return header


def invalid(field: str, expected: str) -> Problem:
    """Give the problem of a field whose value cannot be."""
    return Problem("invalid", f"{field}: {expected}", field=field)


def text_of(body: dict[str, Any], field: str, limit: int, default: str | None) -> str:
    """Give a text of a JSON body.

    Raises:
        Problem: `invalid`: it is missing without a default, empty, too long, or no Unicode.
    """
    value = body.get(field, default)
    if not isinstance(value, str) or not value.strip() or len(value) > limit:
        raise invalid(field, f"expected text of 1 to {limit} characters")
    if not _is_storable(value):
        raise invalid(field, "expected text without NUL and lone surrogates")
    return value


def _is_storable(value: str) -> bool:
    """Tell whether every database and every reader can have it: Unicode, and no NUL."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _time_to_live_s(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_TIME_TO_LIVE_S:
        raise invalid("time_to_live_s", f"expected seconds, more than 0, at most {MAX_TIME_TO_LIVE_S:g}")
    return float(value)


def _target(value: Any) -> Incarnation | str | None:
    if value is None or value == CURRENT:
        return value  # type: ignore[no-any-return]
    expected = f'expected "{CURRENT}", an incarnation as epoch/number, or null'
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise invalid("target_incarnation", expected)
    try:
        return Incarnation.parse(value)
    except ProtocolViolation as violation:
        raise invalid("target_incarnation", f"{expected}: {violation}") from None


def _parameters(value: Any) -> dict[str, Scalar]:
    expected = f"expected an object of at most {MAX_PARAMETERS} texts, numbers and booleans"
    if not isinstance(value, dict) or len(value) > MAX_PARAMETERS:
        raise invalid("parameters", expected)
    for name, parameter in value.items():
        match parameter:
            case None | bool():
                is_good = True
            case str():
                is_good = len(parameter) <= MAX_PARAMETER_TEXT and _is_storable(parameter)
            case int():
                is_good = abs(parameter) <= MAX_INTEGER
            case float():
                is_good = isfinite(parameter)
            case _:
                is_good = False
        if not is_good or not 0 < len(name) <= 128 or not _is_storable(name):
            raise invalid("parameters", expected)
    return value
