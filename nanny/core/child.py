"""One supervised child: absent, spawning, starting, ready, in backoff. Serves worker and link alike.

Holds the stage, its one deadline and the count of failures in a row, and nothing of what the child is for.
Ladder, commands and verdicts sit on top. Backoff jitter is a hash, not a random source: spread over a
fleet, exact in replay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING
from zlib import crc32

from nanny.core.config import HeartbeatMode

if TYPE_CHECKING:
    from nanny.core.config import ChildTiming


class Stage(StrEnum):
    """Where a child is in its life."""

    ABSENT = "absent"
    SPAWNING = "spawning"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"


@dataclass(frozen=True, slots=True)
class Child:
    """A supervised child as the nanny sees it; all instants are monotonic seconds."""

    stage: Stage = Stage.ABSENT
    since: float = 0.0
    """When it entered the stage."""
    deadline: float | None = None
    """When the stage must have ended: born, ready, next beat (or the exit), next try. Invariant: None only
    when absent, ready without heartbeats, silent and under suspicion, or on its way down the ladder."""
    pid: int = 0
    """0 while there is none."""
    last_beat_at: float | None = None
    extended_s: float = 0.0
    """EXTEND_TIMEOUT_USEC granted in this stage."""
    failures: int = 0
    """In a row; reset after ``stable_after_s`` of being ready."""
    may_be_ready: bool = False
    """Adopted while starting: its READY=1 may have come when there was no nanny to hear it."""

    @property
    def is_live(self) -> bool:
        """Whether a process exists, or is being made."""
        return self.stage in {Stage.SPAWNING, Stage.STARTING, Stage.READY}


def spawning(child: Child, now: float, timing: ChildTiming) -> Child:
    """A child was asked for."""
    return Child(Stage.SPAWNING, now, now + timing.spawn_timeout_s, failures=child.failures)


def born(child: Child, pid: int, now: float, timing: ChildTiming) -> Child:
    """The child exists; without heartbeats, that is all the readiness there will be."""
    started = replace(child, stage=Stage.STARTING, since=now, deadline=now + timing.start_timeout_s, pid=pid)
    return ready(started, now, timing) if timing.mode is HeartbeatMode.NONE else started


def ready(child: Child, now: float, timing: ChildTiming) -> Child:
    """The child said READY=1."""
    deadline = now + timing.heartbeat_timeout_s if timing.mode is HeartbeatMode.WATCHDOG else None
    return replace(child, stage=Stage.READY, since=now, deadline=deadline, extended_s=0.0, may_be_ready=False)


def beat(child: Child, now: float, timing: ChildTiming, *, keep_deadline: bool = False) -> Child:
    """The child sent a heartbeat; before READY=1 it does not move the start deadline."""
    deadline = child.deadline
    if child.stage is Stage.READY and timing.mode is HeartbeatMode.WATCHDOG and not keep_deadline:
        deadline = now + timing.heartbeat_timeout_s
    return Child(
        child.stage,
        child.since,
        deadline,
        child.pid,
        now,
        child.extended_s,
        child.failures,
        child.may_be_ready,
    )


def extend(child: Child, extend_s: float, now: float, timing: ChildTiming) -> Child:
    """The child asked for more time in this stage; granted up to ``extend_limit_s`` in all."""
    if child.deadline is None:
        return child
    granted = min(now + extend_s - child.deadline, timing.extend_limit_s - child.extended_s)
    if granted <= 0:
        return child
    return replace(child, deadline=child.deadline + granted, extended_s=child.extended_s + granted)


def is_stable(child: Child, now: float, timing: ChildTiming) -> bool:
    """Whether it has been ready long enough for its past failures to be forgotten."""
    return child.stage is Stage.READY and now >= child.since + timing.stable_after_s


def failed(child: Child, now: float, timing: ChildTiming, seed: str) -> Child:
    """The child is gone and that was a failure: wait for the next try (the first one is due at once)."""
    failures = 1 if is_stable(child, now, timing) else child.failures + 1
    return Child(Stage.BACKOFF, now, now + backoff_s(failures, timing, seed), failures=failures)


def gone(child: Child, now: float, timing: ChildTiming) -> Child:
    """The child is gone as it was meant to be."""
    return Child(Stage.ABSENT, now, failures=0 if is_stable(child, now, timing) else child.failures)


def is_crash_looping(child: Child, timing: ChildTiming) -> bool:
    """Whether retries come at the slowest rate from now on."""
    return child.failures >= timing.crash_loop_after


def backoff_s(failures: int, timing: ChildTiming, seed: str) -> float:
    """Seconds to wait after this many failures in a row: none after the first, then exponential with jitter.

    The jitter takes up to half of the delay away, by a hash of ``seed`` (node, incarnation) and ``failures``.
    """
    if failures <= 1:
        return 0.0
    if is_crash_looping(Child(failures=failures), timing):
        delay_s = timing.backoff_ceiling_s
    else:
        exponent = min(failures - 2, 64)
        delay_s = min(timing.backoff_ceiling_s, timing.backoff_initial_s * timing.backoff_factor**exponent)
    return delay_s * (1.0 - 0.5 * crc32(f"{seed}#{failures}".encode()) / 2**32)
