"""Which hangs are the same: the stack that hung, without what differs between nodes and runs.

A nanny gives the innermost calls as `module:function`, joined by ` < `. Numbers of tasks, addresses and generated
names are folded, and what started the loop or the thread is cut off: fourteen nodes at one line are one hang.
Knows no database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

SEPARATOR: Final = " < "
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]+")
_NUMBER: Final = re.compile(r"\d{3,}|(?<=[-_#])\d+")
_RUNTIME: Final = (
    "<frozen runpy>:",
    "asyncio.base_events:",
    "asyncio.events:",
    "asyncio.runners:",
    "concurrent.futures.thread:",
    "runpy:",
    "threading:",
    "uvloop:",
)
"""Beneath these no frame says anything about the hang."""


@dataclass(frozen=True, slots=True)
class HangSignature:
    """One kind of hang."""

    key: str
    """16 hexadecimal digits; the same for the same kind on all nodes."""
    frames: tuple[str, ...]
    """Innermost first."""


def hang_signature(told: str | None, stalled_at: str | None) -> HangSignature | None:
    """Give the kind of hang that a summary tells of; None if it tells of none.

    Args:
        told: the nanny's own signature; None from one that sends none yet.
        stalled_at: `module:function:line`, used when there is nothing better.
    """
    text = told or _without_line(stalled_at or "")
    frames = [_folded(frame) for frame in text.split(SEPARATOR) if frame.strip()]
    while len(frames) > 1 and frames[-1].startswith(_RUNTIME):
        frames.pop()
    if not frames:
        return None
    key = blake2b(SEPARATOR.join(frames).encode(), digest_size=8).hexdigest()
    return HangSignature(key, tuple(frames))


def _folded(frame: str) -> str:
    return _NUMBER.sub("#", _ADDRESS.sub("0x#", frame.strip()))


def _without_line(stalled_at: str) -> str:
    place, _, line = stalled_at.rpartition(":")
    return place if place and line.isdigit() else stalled_at
