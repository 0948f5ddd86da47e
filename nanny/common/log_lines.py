"""Log lines as JSON, one line each, by a small part of the standard library and without `logging`.

Made for a process that must not fail: no line raises, none exceeds 8 KiB, none holds a second line. Nor
can anybody who is able to provoke a line fill the log: each event has its own token bucket, and what the
buckets held back is counted in the next line that is written.

Knows not where lines go: `write` may be `os.write` on a descriptor that does not block. Priorities for the
journal: sd-daemon(3); JOURNAL_STREAM: systemd.exec(5).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LINE_LIMIT: Final = 8192
"""The most bytes of a line, priority and newline included."""

_VALUE_LIMIT: Final = 2048
_NAME_LIMIT: Final = 128
_RESERVE: Final = 256  # for what is said about that which is left out
_BUCKETS_LIMIT: Final = 256
_OTHER_EVENTS: Final = "other"
_PRIORITIES: Final = {"info": b"<6>", "warning": b"<4>", "error": b"<3>"}
_OF_OTHERS: Final = {b"debug": b"<7>", b"warning": b"<4>", b"error": b"<3>", b"critical": b"<2>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A token bucket as a value: `burst` at once, then `rate_per_s`.

    Invariant: 0 <= tokens <= burst. A clock that is set back only stops the refilling.
    """

    rate_per_s: float
    burst: float
    tokens: float = -1.0
    refilled_at: float = 0.0

    def take(self, now: float) -> tuple[RateLimit, bool]:
        """The bucket after an attempt to take one token at `now`, in seconds, and whether there was one."""
        if self.tokens < 0:
            tokens = self.burst
        else:
            elapsed_s = max(now - self.refilled_at, 0.0)
            tokens = min(self.tokens + elapsed_s * self.rate_per_s, self.burst)
        allowed = tokens >= 1
        return replace(self, tokens=tokens - 1 if allowed else tokens, refilled_at=now), allowed


DEFAULT_LIMIT: Final = RateLimit(rate_per_s=2, burst=50)


@dataclass(slots=True)
class LogLines:
    """Writes what a program has to say, one JSON object a line.

    Attributes:
        write: Takes one whole line as bytes. What it raises is counted, never passed on.
        program: Which program speaks.
        clock: Seconds since the Unix epoch.
        priorities: Whether each line begins with its priority for the journal (`is_journal`).
        limit: The bucket that each event starts with; None for no limit.
        lost_total: Lines that `write` refused.
    """

    write: Callable[[bytes], object]
    program: str
    clock: Callable[[], float]
    priorities: bool = False
    limit: RateLimit | None = DEFAULT_LIMIT
    lost_total: int = 0
    _buckets: dict[str, RateLimit] = field(default_factory=dict)
    _suppressed: dict[str, int] = field(default_factory=dict)

    def info(self, event: str, /, **fields: object) -> None:
        """Say what happened as it should."""
        self._say("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Say what someone should look at some day."""
        self._say("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Say what someone must look at."""
        self._say("error", event, fields)

    def _say(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        try:
            now = self.clock()
            if self._allows(event, now):
                counted = {"suppressed": dict(self._suppressed)} if self._suppressed else {}
                line = render(now, level, self.program, event, {**counted, **fields})
                self.write(_PRIORITIES[level] + line if self.priorities else line)
                self._suppressed.clear()
        except Exception:
            self.lost_total += 1

    def _allows(self, event: str, now: float) -> bool:
        if self.limit is None:
            return True
        name = event if event in self._buckets or len(self._buckets) < _BUCKETS_LIMIT else _OTHER_EVENTS
        self._buckets[name], allowed = self._buckets.get(name, self.limit).take(now)
        if not allowed:
            self._suppressed[name] = self._suppressed.get(name, 0) + 1
        return allowed


def render(wall_s: float, level: str, program: str, event: str, fields: Mapping[str, object]) -> bytes:
    """One line of JSON in ASCII with its newline, at most LINE_LIMIT bytes with a priority before it.

    A value that JSON cannot hold appears as its repr, one that is too long is cut, and fields that no longer
    fit are counted in `fields_left_out`. A field with the name of one of the first four gets an underscore.
    """
    head = {"time": _utc(wall_s), "level": level, "program": program, "event": event}
    parts = [f'"{name}":{_value(text, _NAME_LIMIT)}' for name, text in head.items()]
    room = LINE_LIMIT - _RESERVE - sum(map(len, parts)) - len(parts)
    left_out = 0
    for name, value in fields.items():
        part = f"{_value(f'{name}_' if name in head else name, _NAME_LIMIT)}:{_value(value, _VALUE_LIMIT)}"
        if len(part) < room:
            parts.append(part)
            room -= len(part) + 1
        else:
            left_out += 1
    if left_out:
        parts.append(f'"fields_left_out":{left_out}')
    return f"{{{','.join(parts)}}}\n".encode("ascii")


def with_priority(line: bytes) -> bytes:
    """A line of JSON that names its level, with its priority for the journal before it; any other line as it is."""
    if not line.startswith(b"{"):
        return line
    named = line.partition(b'"level":')[2][:16].lstrip(b' "')
    return _OF_OTHERS.get(named.partition(b'"')[0].lower(), b"") + line


def is_journal(descriptor: int, journal_stream: str | None) -> bool:
    """Whether a descriptor is the journal's stream that JOURNAL_STREAM names as `device:inode`."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _utc(wall_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, as 2026-05-01T12:00:00.250Z."""
    whole_s, milliseconds = divmod(int(wall_s * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole_s))}.{milliseconds:03d}Z"


def _value(value: object, limit: int) -> str:
    """The value as JSON in ASCII of at most about `limit` characters."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except Exception:
        value = _repr(value)
        text = json.dumps(value)
    if len(text) <= limit:
        return text
    kept = value if isinstance(value, str) else text
    # An escaped character takes six bytes (a surrogate pair twelve): what is kept then is cut again.
    for length in (limit, limit // 6, limit // 12):
        text = json.dumps(f"{kept[:length]}... ({len(kept) - length} more)")
        if len(text) <= limit + 40:
            break
    return text


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} without repr>"
