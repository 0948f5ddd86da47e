"""Label selectors as Kubernetes writes them: `key=value, key!=value, key in (a,b), key notin (a), key, !key`.

All requirements must hold. `!=` and `notin` hold for a node without the label, too, as they do there. `*` alone
is every node: a selector that says nothing is refused, since a forgotten one would be the whole fleet. Also the
rules of keys and values that people set, which are such that a selector can name them. Knows no node.
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EVERY_NODE: Final = "*"
MAX_TEXT: Final = 4096
MAX_REQUIREMENTS: Final = 64
MAX_NAME: Final = 63
MAX_PREFIX: Final = 253

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_.\-]*[A-Za-z0-9])?"
_KEY: Final = re.compile(rf"(?:(?P<prefix>[a-z0-9](?:[a-z0-9.\-]*[a-z0-9])?)/)?(?P<name>{_NAME})")
_VALUE: Final = re.compile(rf"(?:{_NAME})?")
_TOKEN: Final = re.compile(r"\s*(?:(?P<word>[^\s,()!=<>]+)|(?P<sign>!=|==|[,()!=<>]))")
_END: Final = ""
_FORMS: Final = "key, !key, key=value, key!=value, key in (a,b), key notin (a,b), or * for every node"


class SelectorError(ValueError):
    """The text is no selector; the message says where, and what would be right."""


@unique
class Operator(StrEnum):
    """What a requirement asks of a label."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    NOT_EXISTS = "!"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()
    """Of IN and NOT_IN; never empty there."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a node with these labels meets it."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.NOT_EXISTS:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that all must hold; none at all is `*`."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a node with these labels is selected."""
        return all(requirement.holds(labels) for requirement in self.requirements)


def parse(text: str) -> Selector:
    """Give the selector that the text says.

    Raises:
        SelectorError: it says none.
    """
    if len(text) > MAX_TEXT:
        raise SelectorError(f"{len(text)} characters, at most {MAX_TEXT} can be")
    if not text.strip():
        raise SelectorError(f"it is empty; expected {_FORMS}")
    if text.strip() == EVERY_NODE:
        return Selector(())
    tokens = _Tokens(text)
    requirements = [_requirement(tokens)]
    while tokens.take(","):
        requirements.append(_requirement(tokens))
    if tokens.next != _END:
        raise tokens.unexpected("a comma between requirements, or the end")
    if len(requirements) > MAX_REQUIREMENTS:
        raise SelectorError(f"{len(requirements)} requirements, at most {MAX_REQUIREMENTS} can be")
    return Selector(tuple(requirements))


def is_key(text: str) -> bool:
    """Tell whether people may set a label of this key: `[prefix/]name`."""
    found = _KEY.fullmatch(text)
    return found is not None and len(found["name"]) <= MAX_NAME and len(found["prefix"] or "") <= MAX_PREFIX


def is_value(text: str) -> bool:
    """Tell whether people may give a label this value; empty is one."""
    return len(text) <= MAX_NAME and _VALUE.fullmatch(text) is not None


class _Tokens:
    """The words and signs of a text, with one seen ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._rest = self._read()
        self.next = _END
        self.at = 0
        self.is_word = False
        self.advance()

    def advance(self) -> str:
        """Step on; gives what was seen ahead."""
        seen = self.next
        self.next, self.at, self.is_word = next(self._rest)
        return seen

    def take(self, sign: str) -> bool:
        """Step on if this sign is next."""
        if self.is_word or self.next != sign:
            return False
        self.advance()
        return True

    def unexpected(self, expected: str) -> SelectorError:
        found = "the end" if self.next == _END else repr(self.next[:64])
        return SelectorError(f"at character {self.at + 1}: expected {expected}, found {found}")

    def _read(self) -> Iterator[tuple[str, int, bool]]:
        at = 0
        while found := _TOKEN.match(self._text, at):
            yield found["word"] or found["sign"], found.end() - len(found[0].lstrip()), bool(found["word"])
            at = found.end()
        while True:
            yield _END, len(self._text), False


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.take("!"):
        return Requirement(_key(tokens), Operator.NOT_EXISTS)
    key = _key(tokens)
    if tokens.take("=") or tokens.take("=="):
        return Requirement(key, Operator.IN, frozenset({_value(tokens)}))
    if tokens.take("!="):
        return Requirement(key, Operator.NOT_IN, frozenset({_value(tokens)}))
    if tokens.is_word:
        if tokens.next not in {Operator.IN, Operator.NOT_IN}:
            raise tokens.unexpected("one of =, !=, in, notin, a comma, or the end")
        operator = Operator(tokens.advance())
        return Requirement(key, operator, _values(tokens))
    if tokens.next not in {_END, ","}:
        raise tokens.unexpected("one of =, !=, in, notin, a comma, or the end")
    return Requirement(key, Operator.EXISTS)


def _key(tokens: _Tokens) -> str:
    if not tokens.is_word:
        raise tokens.unexpected("the key of a label")
    if tokens.next == EVERY_NODE:
        raise tokens.unexpected("the key of a label (* stands alone)")
    return tokens.advance()


def _value(tokens: _Tokens) -> str:
    """Give a value; the empty one is what stands before a comma or the end."""
    if tokens.is_word:
        return tokens.advance()
    if tokens.next in {_END, ",", ")"}:
        return ""
    raise tokens.unexpected("a value")


def _values(tokens: _Tokens) -> frozenset[str]:
    if not tokens.take("("):
        raise tokens.unexpected("values in parentheses, such as (a,b)")
    values = {_value(tokens)}
    while tokens.take(","):
        values.add(_value(tokens))
    if not tokens.take(")"):
        raise tokens.unexpected("a comma or )")
    return frozenset(values)
