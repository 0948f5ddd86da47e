"""The collector's answer to the nanny: one line of JSON on a pipe, short enough to be written in one piece.

The nanny takes nothing in it on trust but its shape: a collector may have been torn apart in the middle of it.
PIPE_BUF in pipe(7).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from nanny.evidence.apart import Stuck

LINE_LIMIT_BYTES: Final = 4096
_TEXT_LIMIT: Final = 300  # of them three, with up to four bytes a character


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an order."""

    bundle: str
    """Empty when there is none."""
    message: str
    size_bytes: int = 0
    stalled_at: str = ""
    signature: str = ""
    stuck: tuple[Stuck, ...] = ()
    """Steps that do not die of SIGKILL."""


def render(answer: Answer) -> bytes:
    """Give the line, at most 4096 bytes with its newline."""
    shape = {
        "bundle": answer.bundle,
        "message": _short(answer.message, _TEXT_LIMIT),
        "size_bytes": answer.size_bytes,
        "stalled_at": _short(answer.stalled_at, _TEXT_LIMIT),
        "signature": _short(answer.signature, _TEXT_LIMIT),
        "stuck": [[one.pid, one.start_time_ticks, one.on_disk] for one in answer.stuck[:4]],
    }
    line = json.dumps(shape, ensure_ascii=False).encode() + b"\n"
    assert len(line) <= LINE_LIMIT_BYTES, f"an answer of {len(line)} bytes"
    return line


def _short(text: str, limit: int) -> str:
    # Control characters and lone surrogates would take six bytes each, or not be text at all.
    return "".join(character if character.isprintable() else "?" for character in text[:limit])


def parse(line: bytes) -> Answer | None:
    """Read the line; None if it is none of ours."""
    try:
        told = json.loads(line)
        texts = [told[name] for name in ("bundle", "message", "stalled_at", "signature")]
        size_bytes, stuck = told["size_bytes"], tuple(Stuck(*one) for one in told["stuck"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers = [size_bytes, *(one.pid for one in stuck), *(one.start_time_ticks for one in stuck)]
    # By exact type: JSON's true is an int to isinstance.
    if {type(text) for text in texts} != {str} or {type(number) for number in numbers} != {int}:
        return None
    if not all(isinstance(one.on_disk, bool) for one in stuck):
        return None
    bundle, message, stalled_at, signature = texts
    return Answer(bundle, message, size_bytes, stalled_at, signature, stuck)
