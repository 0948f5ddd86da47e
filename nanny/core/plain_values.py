"""Values of the core as JSON values: every dataclass an object with all its fields.

One direction only, because the supervising process needs no other; ``nanny.core.recording_reader`` reads them back.
An object names its class where more than one could stand (events, records, actions).
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any, Final

_NAMES: Final[dict[type, tuple[str, ...]]] = {}
TYPE_KEY: Final = "is"


def plain(value: Any) -> Any:
    """A JSON value; total over what the core is made of."""
    if value is None or value.__class__ in {bool, int, float, str}:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(plain(one) for one in value)
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return _object(value)


def named(value: Any) -> dict[str, Any]:
    """A dataclass with the name of its class."""
    return {TYPE_KEY: type(value).__name__, **_object(value)}


def _object(value: Any) -> dict[str, Any]:
    cls = type(value)
    names = _NAMES.get(cls)
    if names is None:
        names = _NAMES[cls] = tuple(one.name for one in fields(cls))
    return {name: plain(getattr(value, name)) for name in names}
