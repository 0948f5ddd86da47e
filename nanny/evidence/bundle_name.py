"""The name of a bundle: ``20260501T120000.123456Z-7-stalled``, sortable by time, readable without opening it.

UTC, so that bundles of one fleet line up; the microseconds keep two of one second apart. The number is the
incarnation's within its epoch; the bundle's ``reason.json`` has the epoch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

REASON_LIMIT: Final = 40
UNFINISHED: Final = ".partial-"
"""Before the name of a bundle that is still being written, or never was finished."""
_FORM: Final = "%Y%m%dT%H%M%S"


@dataclass(frozen=True, slots=True)
class BundleName:
    """A name taken apart."""

    at: str
    """``20260501T120000.123456Z``"""
    number: int
    reason: str


def bundle_name(wall_s: float, number: int, reason: str) -> str:
    """Give the name for evidence taken at `wall_s` (seconds since the epoch)."""
    microseconds = max(round(wall_s * 1e6), 0)
    whole_s, fraction = divmod(microseconds, 1_000_000)
    return f"{time.strftime(_FORM, time.gmtime(whole_s))}.{fraction:06d}Z-{number}-{slug(reason)}"


def slug(text: str) -> str:
    """Give text as a part of a file name: ASCII letters, digits and single hyphens, at most 40."""
    out = ""
    for character in text.lower()[: REASON_LIMIT * 2]:
        if character.isascii() and character.isalnum():
            out += character
        elif out and not out.endswith("-"):
            out += "-"
    return out[:REASON_LIMIT].strip("-") or "unknown"


def parse_name(name: str) -> BundleName | None:
    """Take a name apart; None if it is not one of ours (a hidden or unfinished one is not)."""
    at, _, rest = name.partition("-")
    number, _, reason = rest.partition("-")
    day, t, clock = at.partition("T")
    digits = day + clock.removesuffix("Z").replace(".", "", 1)
    is_time = len(at) == 23 and t == "T" and at.endswith("Z") and digits.isascii() and digits.isdigit()
    is_number = 0 < len(number) < 20 and number.isascii() and number.isdigit()
    if not (is_time and is_number and reason and slug(reason) == reason):
        return None
    return BundleName(at, int(number), reason)
