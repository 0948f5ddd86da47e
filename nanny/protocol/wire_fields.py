"""Rules for the fields of messages: how a value becomes plain data for the wire, and back, checked.

A field of a message declares its rule in its metadata, so that type, unit, limit and documentation stand in
one place. Decoding is strict in types, ranges and lengths, ignores fields it does not know (a newer peer's)
and refuses to be without those it needs. Encoding applies the same rules, so that we never send what a peer
must refuse; only text meant for people is clipped, because an over-long reason must not silence a report.

Knows nothing of message types, frames, msgpack, or JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from enum import StrEnum

MAX_INTEGER: Final = 2**63 - 1
MAX_SECONDS: Final = 1e10
_KEY: Final = "wire"
_TOKEN_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:+@-")
_HEX: Final = frozenset("0123456789abcdef")

T = TypeVar("T")


class Mismatch(ValueError):  # noqa: N818  (a finding of a rule; the boundary decides whose error it is)
    """A value breaks the rule of its field: `path` says where, `problem` what was expected and what came."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem

    def within(self, outer: str) -> Mismatch:
        """Return the same finding, seen from one level further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Mismatch(f"{outer}{joint}{self.path}", self.problem)


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of field."""

    decode: Callable[[object], Any]
    """Plain data from the wire to the field's value. Raises Mismatch."""
    encode: Callable[[Any], Any]
    """The field's value to plain data for the wire. Raises Mismatch."""
    required: bool = True
    """False: may be absent, and None is written as absence."""


def wire(rule: Rule) -> dict[str, Rule]:
    """Give the metadata that ties a dataclass field to its rule."""
    return {_KEY: rule}


def clip_text(text: str, limit: int) -> str:
    """Return `text` fit for the wire: at most `limit` characters, bytes that were no UTF-8 shown as `?`."""
    sound = text.encode("utf-8", "replace").decode("utf-8")
    return sound if len(sound) <= limit else sound[: limit - 1] + "…"


def _shown(value: object) -> str:
    return (
        f"{type(value).__name__} {str(value)[:40]!r}"
        if isinstance(value, (str, int, float))
        else type(value).__name__
    )


def _checked(decode: Callable[[object], Any]) -> Rule:
    return Rule(decode, decode)


def text(limit: int) -> Rule:
    """Words for people, at most `limit` characters; clipped when sent."""

    def decode(value: object) -> str:
        if type(value) is not str or len(value) > limit:
            raise Mismatch("", f"expected text of at most {limit} characters, got {_shown(value)}")
        return value

    def encode(value: str) -> str:
        if not isinstance(value, str):
            raise Mismatch("", f"expected text, got {_shown(value)}")
        return clip_text(value, limit)

    return Rule(decode, encode)


def identifier(limit: int = 128) -> Rule:
    """A name for machines: 1 to `limit` printable ASCII characters without spaces."""

    def decode(value: object) -> str:
        if isinstance(value, str) and 0 < len(value) <= limit and value.isascii():
            plain = str.__str__(value)
            if plain.isprintable() and " " not in plain:
                return plain
        raise Mismatch(
            "", f"expected 1 to {limit} printable ASCII characters without spaces, got {_shown(value)}"
        )

    return _checked(decode)


def token(limit: int = 64) -> Rule:
    """A word of a vocabulary that may grow (a phase, a kind): letters, digits and `._:+@-`.

    The receiver shows or refuses words it does not know by itself; a new word never breaks the connection.
    """

    def decode(value: object) -> str:
        if isinstance(value, str) and 0 < len(value) <= limit and _TOKEN_CHARACTERS.issuperset(value):
            return str.__str__(value)
        raise Mismatch("", f"expected a word of 1 to {limit} letters, digits and ._:+@-, got {_shown(value)}")

    return _checked(decode)


def choice(words: type[StrEnum]) -> Rule:
    """One word of a closed vocabulary."""

    def decode(value: object) -> StrEnum:
        if isinstance(value, str):
            try:
                return words(value)
            except ValueError:
                pass
        raise Mismatch("", f"expected one of {', '.join(words)}, got {_shown(value)}")

    return Rule(decode, lambda value: str.__str__(decode(value)))


def uuid_text() -> Rule:
    """A UUID in its canonical lower-case form (RFC 9562); we mint version 7 and accept any."""

    def decode(value: object) -> str:
        if type(value) is str and [len(part) for part in value.split("-")] == [8, 4, 4, 4, 12]:
            digits = value.replace("-", "")
            if _HEX.issuperset(digits):
                return value
        raise Mismatch("", f"expected a UUID in lower-case canonical form, got {_shown(value)}")

    return _checked(decode)


def flag() -> Rule:
    """A boolean."""

    def decode(value: object) -> bool:
        if type(value) is not bool:
            raise Mismatch("", f"expected true or false, got {_shown(value)}")
        return value

    return _checked(decode)


def integer(low: int = 0, high: int = MAX_INTEGER) -> Rule:
    """A whole number in [low, high]."""

    def decode(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Mismatch("", f"expected a whole number from {low} to {high}, got {_shown(value)}")
        return value

    return _checked(decode)


def seconds(low: float = 0.0, high: float = MAX_SECONDS) -> Rule:
    """A finite duration in seconds in [low, high]."""

    def decode(value: object) -> float:
        if type(value) not in {int, float} or not low <= value <= high:  # type: ignore[operator]
            raise Mismatch("", f"expected {low:g} to {high:g} seconds, got {_shown(value)}")
        return float(value)  # type: ignore[arg-type]

    return _checked(decode)


def optional(rule: Rule) -> Rule:
    """As `rule`, or None: absence on the wire."""
    return Rule(
        lambda value: None if value is None else rule.decode(value),
        lambda value: None if value is None else rule.encode(value),
        required=False,
    )


def many(rule: Rule, limit: int) -> Rule:
    """At most `limit` values of one rule, in order, as a tuple."""

    def each(values: object, turn: Callable[[Any], Any]) -> list[Any]:
        if not isinstance(values, (list, tuple)) or len(values) > limit:
            raise Mismatch("", f"expected a list of at most {limit}, got {_shown(values)}")
        turned = []
        for position, value in enumerate(values):
            try:
                turned.append(turn(value))
            except Mismatch as mismatch:
                raise mismatch.within(f"[{position}]") from None
        return turned

    return Rule(lambda values: tuple(each(values, rule.decode)), lambda values: each(values, rule.encode))


def mapping(rule: Rule, limit: int, key_limit: int = 128) -> Rule:
    """At most `limit` named values of one rule."""

    def each(values: object, turn: Callable[[Any], Any]) -> dict[str, Any]:
        if not isinstance(values, dict) or len(values) > limit:
            raise Mismatch("", f"expected a map of at most {limit} entries, got {_shown(values)}")
        turned = {}
        for key, value in values.items():
            if not isinstance(key, str) or not 0 < len(key) <= key_limit:
                raise Mismatch("", f"expected keys of 1 to {key_limit} characters, got {_shown(key)}")
            try:
                turned[str.__str__(key)] = turn(value)
            except Mismatch as mismatch:
                raise mismatch.within(f"[{key}]") from None
        return turned

    return Rule(lambda values: each(values, rule.decode), lambda values: each(values, rule.encode))


def scalar(text_limit: int = 4096) -> Rule:
    """None, a boolean, a 64-bit whole number, a finite number, or a text."""

    def decode(value: object) -> object:
        kind = type(value)
        if (
            value is None
            or kind is bool
            or (kind is float and isfinite(value))  # type: ignore[arg-type]
            or (kind is int and -MAX_INTEGER - 1 <= value <= 2 * MAX_INTEGER + 1)  # type: ignore[operator]
            or (kind is str and len(value) <= text_limit)  # type: ignore[arg-type]
        ):
            return value
        raise Mismatch("", f"expected a finite number, a boolean or text, got {_shown(value)}")

    def encode(value: object) -> object:
        return decode(clip_text(value, text_limit) if isinstance(value, str) else value)

    return Rule(decode, encode)


def tree(item_limit: int = 8192, depth_limit: int = 10, text_limit: int = 4096) -> Rule:
    """A map of nested maps and lists over scalars, at most `item_limit` items in all. Copied when sent."""
    leaf = scalar(text_limit)

    def decode(value: object) -> object:
        if type(value) is not dict:
            raise Mismatch("", f"expected a map, got {_shown(value)}")
        items, level = 0, [value]
        for _ in range(depth_limit):
            deeper: list[Any] = []
            for container in level:
                items += len(container)
                if items > item_limit:
                    raise Mismatch("", f"more than {item_limit} items")
                for inner in _values_of(container, text_limit):
                    kind = type(inner)
                    if kind is dict or kind is list:
                        deeper.append(inner)
                    else:
                        leaf.decode(inner)
            if not deeper:
                return value
            level = deeper
        raise Mismatch("", f"nested deeper than {depth_limit}")

    def copy(value: object, depth: int) -> object:
        if depth > depth_limit + 1:  # too deep already; this only keeps a loop within itself from going on
            raise Mismatch("", f"nested deeper than {depth_limit}")
        if isinstance(value, dict):
            return {
                clip_text(key, text_limit) if isinstance(key, str) else key: copy(inner, depth + 1)
                for key, inner in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [copy(inner, depth + 1) for inner in value]
        return leaf.encode(value)

    return Rule(decode, lambda value: decode(copy(value, 1)))


def _values_of(container: Any, key_limit: int) -> Iterable[Any]:
    if type(container) is list:
        return container
    for key in container:
        if type(key) is not str or len(key) > key_limit:
            raise Mismatch("", f"expected keys of at most {key_limit} characters, got {_shown(key)}")
    values: Iterable[Any] = container.values()
    return values


def structure(shape: type[Any]) -> Rule:
    """A nested dataclass whose fields have rules of their own."""
    return Rule(lambda value: read_fields(shape, value), lambda value: write_fields(shape, value))


def write_fields(shape: type[Any], instance: object) -> dict[str, Any]:
    """Give the plain data of a dataclass instance; absent optional fields are left out. Raises Mismatch."""
    if type(instance) is not shape:
        raise Mismatch("", f"expected {shape.__name__}, got {_shown(instance)}")
    body = {}
    for name, rule in rules_of(shape).items():
        value = getattr(instance, name)
        if value is None and not rule.required:
            continue
        try:
            body[name] = rule.encode(value)
        except Mismatch as mismatch:
            raise mismatch.within(name) from None
    return body


def read_fields(shape: type[T], body: object) -> T:
    """Give the dataclass instance that `body` describes; fields unknown here are ignored. Raises Mismatch."""
    if not isinstance(body, dict):
        raise Mismatch("", f"expected a map, got {_shown(body)}")
    values = {}
    for name, rule in rules_of(shape).items():
        if name not in body and rule.required:
            raise Mismatch(name, "missing")
        try:
            values[name] = rule.decode(body.get(name))
        except Mismatch as mismatch:
            raise mismatch.within(name) from None
    return shape(**values)


_rules_by_shape: Final[dict[type[Any], Mapping[str, Rule]]] = {}


def rules_of(shape: type[Any]) -> Mapping[str, Rule]:
    """Give the rule of each field of a message or a part of one, in order of declaration."""
    rules = _rules_by_shape.get(shape)
    if rules is None:
        rules = {field.name: field.metadata[_KEY] for field in dataclasses.fields(shape)}
        _rules_by_shape[shape] = rules
    return rules
