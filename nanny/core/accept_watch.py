"""Decides whether the worker takes the connections that wait on its listening socket, and who answers them.

Four stances. QUIET: the queue was empty. WATCHING: something waits; the queue is looked at now and then, and
any sign that somebody accepts starts the window anew. ANSWERING: nobody accepted for `after_s`, or the worker
is dead; the nanny answers at once, until a sign of life. YIELDING: while answering, once a second, one
connection is left to the worker for a moment, so that one that came back without a beat is noticed.

What shows that somebody accepts: the queue is empty, or shorter; or connections arrived and it is no longer
than before. So "always new ones" differs from "the same one waits", for one patient client, too, whose next
connection always follows the last. A queue that only grows proves less: then the age of the first one taken
decides (queues are first in, first out).

It knows no socket: the shell looks, accepts and answers (nanny.fallback_responder). Instants are monotonic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, assert_never

# Pauses between two looks, as parts of the window: uneven, so that no periodic worker hides between them, and
# short, since a window begun anew is late by up to one of them.
_PAUSES: Final = (0.08, 0.05, 0.07, 0.06, 0.075, 0.055)
# A look that comes this much too late tells of our own absence, in which the worker may have been away, too.
_LATE_S: Final = 0.1
_YIELD_EVERY_S: Final = 1.0
_YIELD_FOR_S: Final = 0.02


class Stance(StrEnum):
    """Who is to take the next connection, and how sure we are."""

    QUIET = "quiet"
    WATCHING = "watching"
    ANSWERING = "answering"
    YIELDING = "yielding"


@dataclass(frozen=True, slots=True)
class QueueSampled:
    """The queue was looked at."""

    length: int
    has_arrivals: bool | None
    """Whether any arrived since the last look; None where the host cannot count them (length is 0 or 1)."""


@dataclass(frozen=True, slots=True)
class FirstTaken:
    """We took the oldest connection; it had waited for `age_s`, or at least seems to."""

    age_s: float


@dataclass(frozen=True, slots=True)
class TakenByOther:
    """We meant to take a connection, and somebody else had."""


@dataclass(frozen=True, slots=True)
class WorkerShowedLife:
    """A beat arrived, or anything else that a silent worker cannot do."""


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker was released; it accepts nothing yet."""


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The worker is dead: nobody accepts."""


AcceptEvent = QueueSampled | FirstTaken | TakenByOther | WorkerShowedLife | WorkerStarted | WorkerGone


@dataclass(frozen=True, slots=True)
class AcceptWatch:
    """What is known of who accepts. Begins QUIET, with a worker that may or may not live.

    Attributes:
        after_s: how long nobody may accept before the nanny does.
        worker_is_gone: there is nobody to yield to.
        silent_since: begin of the window. Invariant: no sign of an accept is known since.
        look_at: when the queue wants to be looked at; None: not at a certain time.
        pauses: how many of the uneven pauses were used.
        queue_length: at the last look; None: not looked at in this window.
        is_edge_owed: the queue grew, and its arrival has not been told yet.
        has_grown: the queue grew in this window: accepts may hide behind arrivals.
        yield_at: not before, in ANSWERING.
    """

    after_s: float
    stance: Stance = Stance.QUIET
    worker_is_gone: bool = False
    silent_since: float = 0.0
    look_at: float | None = None
    pauses: int = 0
    queue_length: int | None = None
    is_edge_owed: bool = False
    has_grown: bool = False
    yield_at: float = 0.0

    @property
    def is_proof_weak(self) -> bool:
        """Tell whether the first connection taken has to confirm the silence (`FirstTaken`)."""
        return self.stance is Stance.ANSWERING and self.has_grown

    def is_yield_due(self, now: float) -> bool:
        """Tell whether to look at the queue (`QueueSampled`) before the next connection is taken."""
        return self.stance is Stance.ANSWERING and not self.worker_is_gone and now >= self.yield_at


def next_deadline(watch: AcceptWatch) -> float | None:
    """Give when the queue is to be looked at, if nothing happens before."""
    return watch.look_at


def observe(watch: AcceptWatch, event: AcceptEvent, now: float) -> AcceptWatch:
    """Give the watch after the event. Total: every stance takes every event."""
    match event:
        case QueueSampled():
            return _sampled(watch, event, now)
        case FirstTaken(age_s):
            if not watch.is_proof_weak:
                return watch
            # A young head: others were taken before it. Half a window keeps clear of all rounding.
            return _begin(watch, now) if age_s < watch.after_s / 2 else replace(watch, has_grown=False)
        case TakenByOther():
            # With the worker dead it was some remnant of it, which owes nobody an answer.
            return watch if watch.worker_is_gone else _end_answering(watch, now)
        case WorkerShowedLife():
            return _end_answering(replace(watch, worker_is_gone=False), now)
        case WorkerStarted():
            return replace(watch, worker_is_gone=False, yield_at=now + _YIELD_EVERY_S)
        case WorkerGone():
            return _answering(replace(watch, worker_is_gone=True, has_grown=False), now)
        case _:
            assert_never(event)


def _sampled(watch: AcceptWatch, seen: QueueSampled, now: float) -> AcceptWatch:
    match watch.stance:
        case Stance.QUIET:
            return _looked(_begin(watch, now), seen.length, now) if seen.length else watch
        case Stance.WATCHING:
            return _watched(watch, seen, now)
        case Stance.ANSWERING:
            if not watch.is_yield_due(now) or not seen.length:
                return watch
            return replace(
                watch,
                stance=Stance.YIELDING,
                queue_length=seen.length,
                look_at=now + _YIELD_FOR_S,
                is_edge_owed=False,
            )
        case Stance.YIELDING:
            if _somebody_accepted(watch, seen):
                return _looked(_begin(watch, now), seen.length, now)
            return _answering(watch, now)
        case _:
            assert_never(watch.stance)


def _watched(watch: AcceptWatch, seen: QueueSampled, now: float) -> AcceptWatch:
    if watch.look_at is not None and now - watch.look_at > _LATE_S:
        watch = replace(watch, silent_since=watch.silent_since + now - watch.look_at)
    if _somebody_accepted(watch, seen):
        return _looked(_begin(watch, now), seen.length, now)
    if now >= watch.silent_since + watch.after_s:
        return _answering(_noted(watch, seen), now)
    return _looked(_noted(watch, seen), seen.length, now)


def _somebody_accepted(watch: AcceptWatch, seen: QueueSampled) -> bool:
    before = watch.queue_length
    if seen.length == 0:
        return True
    if before is None or seen.has_arrivals is None:
        return False
    return seen.length < before or (seen.length == before and seen.has_arrivals and not watch.is_edge_owed)


def _noted(watch: AcceptWatch, seen: QueueSampled) -> AcceptWatch:
    """Remember growth. If it was seen before its arrival was told, that telling proves nothing later."""
    if watch.queue_length is None or seen.has_arrivals is None:
        return watch
    grew = seen.length > watch.queue_length
    return replace(
        watch,
        has_grown=watch.has_grown or grew,
        is_edge_owed=(watch.is_edge_owed or grew) and not seen.has_arrivals,
    )


def _begin(watch: AcceptWatch, now: float) -> AcceptWatch:
    """Begin a window with a look that is due at once."""
    return replace(
        watch,
        stance=Stance.WATCHING,
        silent_since=now,
        look_at=now,
        queue_length=None,
        is_edge_owed=False,
        has_grown=False,
    )


def _looked(watch: AcceptWatch, length: int, now: float) -> AcceptWatch:
    """Go on watching until the next look, or be quiet with an empty queue."""
    if not length:
        return replace(watch, stance=Stance.QUIET, look_at=None, queue_length=None)
    pause_s = _PAUSES[watch.pauses % len(_PAUSES)] * watch.after_s
    return replace(
        watch,
        look_at=min(now + pause_s, watch.silent_since + watch.after_s),
        pauses=(watch.pauses + 1) % len(_PAUSES),
        queue_length=length,
    )


def _answering(watch: AcceptWatch, now: float) -> AcceptWatch:
    return replace(
        watch,
        stance=Stance.ANSWERING,
        look_at=None,
        queue_length=None,
        is_edge_owed=False,
        yield_at=now + _YIELD_EVERY_S,
    )


def _end_answering(watch: AcceptWatch, now: float) -> AcceptWatch:
    if watch.stance in (Stance.QUIET, Stance.WATCHING):
        # While we only watch, accepting itself is the better witness: beats may come from another thread.
        return watch
    return _begin(watch, now)
