"""The standby worker's own small core: when there is to be one, when not any more, and who serves the next life.

``step(standby, event, now, config) -> (standby, actions)`` and ``next_deadline``. The nanny's core knows nothing of
it: it asks for a child and gets one, from here or from cold. Whoever asks is served once, within ``answer_timeout_s``
(rule: a failed standby never delays a cold start). One is made only beside a worker that has been ready for a while;
it is dropped by an order, a reload, changed code, age or scarce memory, and after quick deaths of promoted ones there
is none until somebody changes something.

All instants are monotonic seconds; a process is told apart by its ``number``, so that late news of a dropped one do
no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, assert_never

from nanny.core.standby_events import (
    Answered,
    Buried,
    Call,
    CannotAnswer,
    CheckCode,
    ChildWanted,
    Closing,
    CodeChanged,
    Drop,
    Ended,
    KillUnwoken,
    LookAtMemory,
    Make,
    MemoryLooked,
    Parked,
    Promote,
    Reason,
    Reloaded,
    StartCold,
    TimePassed,
    WakeTaken,
    WorkerAway,
    WorkerEnded,
    WorkerReady,
)

if TYPE_CHECKING:
    from nanny.core.standby_events import Action, Event
    from nanny.protocol.incarnation import Incarnation

_ENOUGH_AGAIN: Final = 1.25
"""Memory counts as enough again at so many times the limit."""


class Stage(StrEnum):
    """Where the standby is in its life; the process itself is the shell's."""

    NONE = "none"
    MAKING = "making"
    PARKED = "parked"
    CALLED = "called"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyConfig:
    """The numbers that the decisions use."""

    after_s: float = 30.0
    """For so long the worker has been ready before a standby is made beside it."""
    max_age_s: float = 6 * 3600.0
    min_available_bytes: int = 512 << 20
    make_timeout_s: float = 60.0
    answer_timeout_s: float = 0.2
    """A parked process answers in less than a millisecond; on a node with five processes a core, in up to 60."""
    wake_timeout_s: float = 5.0
    """For the wake to be sent and taken by one that has just answered."""
    check_interval_s: float = 30.0
    memory_interval_s: float = 10.0
    quick_deaths: int = 2
    """Of promoted ones in a row, before they had been ready for ``after_s``."""
    pardon_s: float = 3600.0
    retry_initial_s: float = 10.0
    retry_ceiling_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Standby:
    """What is known of the standby, and of the worker as far as it matters here."""

    stage: Stage = Stage.NONE
    since: float = 0.0
    """When it entered the stage."""
    number: int = 0
    """Of the process that was made last."""
    made_at: float = 0.0
    check_at: float = 0.0
    look_at: float = 0.0
    """When memory is looked at next, while that is of interest."""
    ready_since: float | None = None
    """Of the worker; None while it is not ready."""
    memory_is_low: bool = False
    undead: int = 0
    """Dropped ones that are not dead yet: stuck on a dead disk, perhaps, where the next would get stuck as well."""
    waiting: Incarnation | None = None
    """The life that a called standby is to serve; called ahead of it, None."""
    has_answered: bool = False
    """Called ahead, and there."""
    promoted: Incarnation | None = None
    """The latest life that came from a standby, while it lives."""
    promoted_at: float = 0.0
    is_taken: bool = True
    """Whether that one has taken its wake."""
    is_proven: bool = True
    """Whether that one has been ready for long enough to count as good."""
    quick_deaths: int = 0
    failures: int = 0
    not_before: float = 0.0
    why_none: str = ""
    """What ended the last one, for people."""
    is_closed: bool = False
    """No more of them: the nanny ends."""


class _Draft:
    """The step under way."""

    __slots__ = ("actions", "config", "now", "standby")

    def __init__(self, standby: Standby, now: float, config: StandbyConfig) -> None:
        self.standby = standby
        self.now = now
        self.config = config
        self.actions: list[Action] = []

    def enter(self, stage: Stage, **fields: Any) -> None:
        self.standby = replace(self.standby, stage=stage, since=self.now, **fields)

    def change(self, **fields: Any) -> None:
        self.standby = replace(self.standby, **fields)

    def drop(self, reason: Reason, why: str) -> None:
        """Be without one from now on."""
        if self.standby.stage is not Stage.NONE:
            self.actions.append(Drop(self.standby.number, reason, why))
            self.change(undead=self.standby.undead + 1)
            self.gone(why)

    def forgive(self) -> None:
        """What failed before need not fail now: the next one is made as soon as there may be one."""
        self.change(quick_deaths=0, failures=0, not_before=self.now, look_at=self.now)

    def gone(self, why: str) -> None:
        """It is no more; whoever waited for it is served from cold."""
        waiting = self.standby.waiting
        self.enter(Stage.NONE, waiting=None, why_none=why)
        if waiting is not None:
            self.actions.append(StartCold(waiting, why))

    def fail(self) -> None:
        """Wait before the next one is made, longer each time."""
        failures = self.standby.failures + 1
        delay_s = min(self.config.retry_initial_s * 2.0 ** min(failures - 1, 16), self.config.retry_ceiling_s)
        self.change(failures=failures, not_before=max(self.standby.not_before, self.now + delay_s))


def step(
    standby: Standby, event: Event, now: float, config: StandbyConfig
) -> tuple[Standby, tuple[Action, ...]]:
    """What one event leads to."""
    draft = _Draft(standby, now, config)
    is_ours = standby.stage is not Stage.NONE and getattr(event, "number", standby.number) == standby.number
    match event:
        case WorkerReady(since):
            draft.change(ready_since=since, look_at=min(standby.look_at, since + config.after_s))
        case WorkerAway():
            draft.change(ready_since=None)
        case WorkerEnded():
            _worker_ended(draft, event)
        case ChildWanted(incarnation):
            _child_wanted(draft, incarnation)
        case Parked():
            if is_ours and standby.stage is Stage.MAKING:
                draft.enter(Stage.PARKED, check_at=now + config.check_interval_s)
        case Answered():
            if is_ours and standby.stage is Stage.CALLED:
                if standby.waiting is None:
                    draft.change(has_answered=True)
                else:
                    _promote(draft, standby.waiting)
        case CannotAnswer() | Ended():
            if is_ours:
                _failed(draft, event)
        case Buried():
            draft.change(undead=max(standby.undead - 1, 0))
        case WakeTaken(incarnation):
            if incarnation == standby.promoted:
                draft.change(is_taken=True, failures=0)
        case CodeChanged(_, what):
            if is_ours:
                draft.drop(Reason.CODE, f"{what} is another file now")
                draft.forgive()
        case MemoryLooked():
            _memory_looked(draft, event)
        case Reloaded():
            draft.drop(Reason.RELOAD, "the settings were read anew")
            draft.forgive()
        case Closing():
            draft.change(is_closed=True)
            draft.drop(Reason.CLOSING, "the nanny ends")
        case TimePassed():
            pass
        case _:
            assert_never(event)
    _due(draft)
    if isinstance(event, TimePassed):
        _overdue(draft)
    return draft.standby, tuple(draft.actions)


def next_deadline(standby: Standby, config: StandbyConfig) -> float | None:
    """The earliest instant at which ``TimePassed`` would do something."""
    instants = []
    match standby.stage:
        case Stage.NONE:
            wanted_at = _wanted_at(standby, config)
            if wanted_at is not None:
                instants.append(max(wanted_at, standby.look_at))
        case Stage.MAKING:
            instants.append(standby.since + config.make_timeout_s)
        case Stage.PARKED:
            instants += [standby.made_at + config.max_age_s, standby.check_at, standby.look_at]
        case Stage.CALLED:
            instants.append(standby.since + config.answer_timeout_s)
    if standby.promoted is not None and not standby.is_taken:
        instants.append(standby.promoted_at + config.wake_timeout_s)
    if standby.ready_since is not None and not standby.is_proven:
        instants.append(standby.ready_since + config.after_s)
    return min(instants, default=None)


def is_cold(standby: Standby, config: StandbyConfig) -> bool:
    """Whether quick deaths of promoted ones have made it stop."""
    return standby.quick_deaths >= config.quick_deaths


def _wanted_at(standby: Standby, config: StandbyConfig) -> float | None:
    """From when on a standby is to be made; None: not as things stand."""
    if standby.ready_since is None or standby.is_closed or standby.undead:
        return None
    return max(standby.ready_since + config.after_s, standby.not_before)


def _worker_ended(draft: _Draft, event: WorkerEnded) -> None:
    standby, config = draft.standby, draft.config
    draft.change(ready_since=None)
    if event.is_ordered:
        # Whoever orders a restart may have changed the program, its settings or its world.
        draft.drop(Reason.ORDERED, "an ordered restart loads the program anew")
        draft.forgive()
    elif standby.stage is Stage.PARKED:
        # Most likely it is wanted next, once the end is on record: so it answers meanwhile.
        _call(draft, None)
    if event.incarnation != standby.promoted:
        return
    deaths = 0 if event.is_ordered or standby.is_proven else standby.quick_deaths + 1
    draft.change(promoted=None, is_taken=True, is_proven=True, quick_deaths=deaths)
    if deaths >= config.quick_deaths:
        draft.drop(Reason.QUICK_DEATHS, f"{deaths} promoted ones died quickly")
        draft.change(not_before=draft.now + config.pardon_s, why_none=f"{deaths} promoted ones died quickly")


def _failed(draft: _Draft, event: CannotAnswer | Ended) -> None:
    draft.fail()
    if isinstance(event, Ended):
        draft.gone(event.why)
    else:
        draft.drop(Reason.NO_ANSWER, event.why)


def _child_wanted(draft: _Draft, incarnation: Incarnation) -> None:
    standby = draft.standby
    # An older life that still waits was given up by whoever asked: this one counts.
    draft.change(waiting=None, ready_since=None)
    match standby.stage:
        case Stage.PARKED:
            _call(draft, incarnation)
        case Stage.NONE:
            draft.actions.append(StartCold(incarnation, standby.why_none or "none was made yet"))
        case Stage.MAKING:
            # It would compete with the cold start for processor and disk.
            draft.drop(Reason.TOO_EARLY, "the worker ended before it was parked")
            draft.actions.append(StartCold(incarnation, draft.standby.why_none))
        case Stage.CALLED if standby.has_answered:
            _promote(draft, incarnation)
        case Stage.CALLED if standby.waiting is None:
            draft.change(waiting=incarnation)
        case Stage.CALLED:
            draft.fail()
            draft.drop(Reason.NO_ANSWER, "it was asked for again before it answered")
            draft.actions.append(StartCold(incarnation, draft.standby.why_none))


def _call(draft: _Draft, waiting: Incarnation | None) -> None:
    draft.enter(Stage.CALLED, waiting=waiting, has_answered=False)
    draft.actions.append(Call(draft.standby.number))


def _promote(draft: _Draft, incarnation: Incarnation) -> None:
    draft.actions.append(Promote(draft.standby.number, incarnation))
    draft.enter(
        Stage.NONE,
        waiting=None,
        promoted=incarnation,
        promoted_at=draft.now,
        is_taken=False,
        is_proven=False,
        why_none=f"it became {incarnation}",
    )


def _memory_looked(draft: _Draft, event: MemoryLooked) -> None:
    standby, config = draft.standby, draft.config
    limit = config.min_available_bytes * (_ENOUGH_AGAIN if standby.memory_is_low else 1.0)
    is_low = event.is_squeezed or (event.available_bytes is not None and event.available_bytes < limit)
    draft.change(memory_is_low=is_low, look_at=draft.now + config.memory_interval_s)
    if is_low and standby.stage in {Stage.MAKING, Stage.PARKED}:
        draft.drop(Reason.MEMORY, "memory is low")
    elif is_low and standby.stage is Stage.NONE:
        draft.change(why_none="memory is low")
    elif standby.stage is Stage.NONE and _is_due(_wanted_at(standby, config), draft.now):
        if is_cold(standby, config):
            draft.change(quick_deaths=0)
        draft.enter(Stage.MAKING, number=standby.number + 1, made_at=draft.now)
        draft.actions.append(Make(draft.standby.number))


def _due(draft: _Draft) -> None:
    """Whatever is due by now, whichever event came first."""
    standby, config, now = draft.standby, draft.config, draft.now
    good_at = (
        None if standby.is_proven or standby.ready_since is None else standby.ready_since + config.after_s
    )
    if _is_due(good_at, now):
        draft.change(is_proven=True, quick_deaths=0)
    if standby.stage is Stage.PARKED:
        _parked_due(draft)
    elif (
        standby.stage is Stage.NONE
        and _is_due(_wanted_at(draft.standby, config), now)
        and now >= standby.look_at
    ):
        # Whether there is room for one decides; the answer makes it.
        draft.change(look_at=now + config.memory_interval_s)
        draft.actions.append(LookAtMemory())


def _overdue(draft: _Draft) -> None:
    """Who has not been heard of in time: judged once the shell has told all that had come by now, and not before.

    After a standstill of the nanny other news may come first, and the answer right behind them.
    """
    standby, config, now = draft.standby, draft.config, draft.now
    unwoken = None if standby.is_taken else standby.promoted
    if unwoken is not None and now >= standby.promoted_at + config.wake_timeout_s:
        draft.change(is_taken=True)
        draft.actions.append(KillUnwoken(unwoken))
        draft.fail()
    if standby.stage is Stage.MAKING and now >= standby.since + config.make_timeout_s:
        draft.fail()
        draft.drop(Reason.NOT_PARKED, f"not parked within {config.make_timeout_s:g} s")
    if standby.stage is Stage.CALLED and now >= standby.since + config.answer_timeout_s:
        if standby.has_answered:
            # It was not wanted so soon; what it answered says little about later.
            draft.enter(Stage.PARKED, has_answered=False)
        else:
            draft.fail()
            draft.drop(Reason.NO_ANSWER, f"no answer within {1000 * config.answer_timeout_s:g} ms")


def _parked_due(draft: _Draft) -> None:
    standby, config, now = draft.standby, draft.config, draft.now
    if now >= standby.made_at + config.max_age_s:
        draft.change(look_at=now)
        draft.drop(Reason.AGE, "its age")
        return
    if now >= standby.check_at:
        draft.change(check_at=now + config.check_interval_s)
        draft.actions.append(CheckCode(standby.number))
    if now >= standby.look_at:
        draft.change(look_at=now + config.memory_interval_s)
        draft.actions.append(LookAtMemory())


def _is_due(instant: float | None, now: float) -> bool:
    return instant is not None and now >= instant
