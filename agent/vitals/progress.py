"""Proofs of progress by name, and announced long work.

A progress point is the loop's stamp for any other service: touched by its own code, overdue after its own
deadline. `Expectations` hold what is legitimately busy: while one lasts nothing counts as stalled, afterwards
ages start anew, and a total per life keeps a broken program from excusing itself for ever.

Writers share a lock among themselves; the reader takes none: it sees tuples that are swapped, never changed.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Self

from nanny.protocol.notify_format import NAME_LIMIT_BYTES, PROGRESS_LIMIT, ProgressAge

if TYPE_CHECKING:
    from types import TracebackType


class ProgressPoint:
    """A service's stamp; made by `ProgressPoints.add`."""

    __slots__ = ("_points", "critical", "deadline_s", "name", "touched_at")

    def __init__(self, points: ProgressPoints, name: str, deadline_s: float, *, critical: bool) -> None:
        self._points = points
        self.name = name
        self.deadline_s = deadline_s
        self.critical = critical
        self.touched_at = time.monotonic()

    def touch(self) -> None:
        """Say that the service made progress; cheap, from any thread."""
        self.touched_at = time.monotonic()

    def close(self) -> None:
        """Watch the service no more: it ended on purpose."""
        self._points.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ProgressPoints:
    """The points that are watched now."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._points: tuple[ProgressPoint, ...] = ()

    def add(self, name: str, deadline_s: float, *, critical: bool) -> ProgressPoint:
        """Watch a new point, touched now.

        Raises:
            ValueError: the name is taken, too long or not of letters, digits and ``._-``; the deadline is not
                positive; there are 64 points already.
        """
        if not name or len(name) > NAME_LIMIT_BYTES or not name.isascii():
            raise ValueError(
                f"progress point {name[:80]!r}: 1 to {NAME_LIMIT_BYTES} ASCII characters expected"
            )
        if not all(c.isalnum() or c in "._-" for c in name):
            raise ValueError(f"progress point {name!r}: only letters, digits, '.', '_' and '-' expected")
        if not deadline_s > 0:
            raise ValueError(f"progress point {name!r}: deadline_s is {deadline_s}, more than 0 expected")
        point = ProgressPoint(self, name, deadline_s, critical=critical)
        with self._lock:
            if any(other.name == name for other in self._points):
                raise ValueError(f"progress point {name!r} exists already")
            if len(self._points) == PROGRESS_LIMIT:
                raise ValueError(f"progress point {name!r}: {PROGRESS_LIMIT} points exist already")
            self._points = (*self._points, point)
        return point

    def remove(self, point: ProgressPoint) -> None:
        """Forget a point; nothing happens if it is forgotten already."""
        with self._lock:
            self._points = tuple(other for other in self._points if other is not point)

    def ages(self, now: float, since: float = 0.0) -> tuple[ProgressAge, ...]:
        """Each point's age, counted from `since` at the earliest."""
        return tuple(
            [
                ProgressAge(p.name, max(0.0, now - max(p.touched_at, since)), p.deadline_s, p.critical)
                for p in self._points
            ]
        )


class Expectation:
    """A span of announced work, as a context manager: gives the seconds that were granted."""

    __slots__ = ("_expectations", "_timeout_s", "started_at", "until_at", "why")

    def __init__(self, expectations: Expectations, timeout_s: float, why: str) -> None:
        self._expectations = expectations
        self._timeout_s = timeout_s
        self.why = why
        self.started_at = 0.0
        self.until_at = 0.0

    def __enter__(self) -> float:
        return self._expectations.begin(self, self._timeout_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._expectations.end(self)


class Expectations:
    """All announced work of one life and the total that is left for it.

    Overlapping spans are charged one by one: the total bounds the sum, hence also the union.

    Attributes:
        refused_total: spans that got less than they asked for.
    """

    def __init__(self, total_s: float) -> None:
        """Grant at most `total_s` seconds in all."""
        self._lock = Lock()
        self._left_s = total_s
        self._active: tuple[Expectation, ...] = ()
        self._ended_at = 0.0
        self.refused_total = 0

    @property
    def left_s(self) -> float:
        """What may still be granted."""
        return self._left_s

    def change_total(self, by_s: float) -> None:
        """Grant so much more, or less, in all."""
        with self._lock:
            self._left_s = max(0.0, self._left_s + by_s)

    def begin(self, expectation: Expectation, timeout_s: float) -> float:
        """Start a span; gives what it was granted, 0 when the total is used up."""
        with self._lock:
            granted_s = max(0.0, min(timeout_s, self._left_s))
            if granted_s < timeout_s:
                self.refused_total += 1
            self._left_s -= granted_s
            expectation.started_at = time.monotonic()
            expectation.until_at = expectation.started_at + granted_s
            self._active = (*self._active, expectation)
        return granted_s

    def end(self, expectation: Expectation) -> None:
        """End a span; what it didn't use goes back to the total."""
        with self._lock:
            now = time.monotonic()
            unused_s = max(0.0, expectation.until_at - now)
            self._left_s += unused_s
            self._ended_at = max(self._ended_at, min(now, expectation.until_at))
            self._active = tuple(other for other in self._active if other is not expectation)

    def current(self, now: float) -> tuple[float, str] | None:
        """Seconds left and the reason of the span that lasts longest; None when nothing is announced."""
        latest: Expectation | None = None
        for expectation in self._active:
            if expectation.until_at > now and (latest is None or expectation.until_at > latest.until_at):
                latest = expectation
        return None if latest is None else (latest.until_at - now, latest.why)

    def over_since(self, now: float) -> float:
        """When the last span ended or ran out: ages count from there."""
        ended_at = self._ended_at
        for expectation in self._active:
            if ended_at < expectation.until_at <= now:
                ended_at = expectation.until_at
        return ended_at
