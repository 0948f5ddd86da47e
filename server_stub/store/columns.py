"""Text that both databases can keep, whatever a node or a client has sent.

PostgreSQL has no place for U+0000, and neither database one for half a surrogate pair, which JSON can carry.
Either would fail the whole statement: one node with such a byte in its answer would fail a round for all.
They become U+FFFD on their way in. Lengths are the business of whoever reads from outside: PostgreSQL refuses
what is too long, SQLite keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


def storable(text: str) -> str:
    """Give the text with U+FFFD for what no database keeps."""
    if "\x00" not in text and text.isascii():
        return text
    return text.replace("\x00", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Storable(TypeDecorator[str]):
    impl: type[sqlalchemy.String] = sqlalchemy.Text

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class String(_Storable):
    """Text of at most so many characters."""

    impl = sqlalchemy.String
    cache_ok = True


class Text(_Storable):
    """Text of any length."""

    cache_ok = True
