"""Breadth-first search over every state that ``step`` can reach from a start, with the rules checked at each step.

Two states are one when ``normalised`` says so: deadlines relative to now, incarnations relative to the current one,
counters saturated, text dropped. Of each class the first member found is kept and expanded. Knows nothing of what
happens in the world: ``stimuli`` says which events may come next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nanny.core import events as e
from nanny.core import invariants
from nanny.core.child import Child, Stage
from nanny.core.config import PolicyConfig
from nanny.core.draft import Step
from nanny.core.policy import next_deadline, step
from nanny.core.state import NannyState, Phase

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation

Stimulus = tuple[e.Event | None, float]
"""An event and the instant at which it is delivered; None: only time goes by, and nobody tells the core."""
Stimuli = Callable[[NannyState, float, PolicyConfig], Iterator[Stimulus]]
Prune = Callable[[NannyState], NannyState]

_AGE_LIMIT_S = 3.0
"""Ages of silences and stalls beyond this are one."""
_FAILURES_LIMIT = 3
_NUMBERS_LIMIT = 3


def normalised(state: NannyState, now: float, *, numbers: bool = False) -> Hashable:
    """What of a state decides its future; ``numbers``: the reservations of incarnation numbers as well."""
    vitals, stopping, hold, suspicion = state.vitals, state.stopping, state.hold, state.vitals.suspicion
    current = state.incarnation

    def relative(one: Incarnation | None) -> Hashable:
        if one is None or current is None:
            return one is None
        if one.epoch != current.epoch:
            return one.epoch < current.epoch
        return min(max(one.number - current.number, -1), 1)

    return (
        state.intent.desired,
        state.draining,
        None if hold is None else hold.until - now,
        _child(state.worker, now),
        (
            None
            if suspicion is None
            else (
                suspicion.kind,
                suspicion.asked,
                suspicion.deadline - now,
                min(now - suspicion.since, _AGE_LIMIT_S),
                suspicion.extended_s,
            )
        ),
        (vitals.warned, bool(vitals.overdue), vitals.triggered, vitals.leaving),
        (vitals.granted_s, vitals.expect_used_s),
        (
            None
            if stopping is None
            else (stopping.reason, stopping.rung, stopping.remaining, stopping.deadline - now)
        ),
        bool(state.fenced),
        current in state.fenced,
        current is None,
        state.is_crash_looping,
        state.is_shutting_down,
        state.journal_degraded,
        frozenset(
            (
                one.command.id,
                relative(one.command.target),
                None if one.deadline is None else one.deadline - now,
            )
            for one in state.ledger.pending
        ),
        frozenset((one.command_id, one.outcome, one.acknowledged) for one in state.ledger.finished),
        tuple((one.type, one.reason) for one in state.conditions),
        _child(state.link, now),
        state.link_signal,
        (
            (
                state.epoch == state.spare_epoch,
                current is not None and current.epoch != state.epoch,
                min(max(state.reserved_until - state.next_number, -2), _NUMBERS_LIMIT),
                min(max(state.reserving_until - state.next_number, -2), _NUMBERS_LIMIT),
            )
            if numbers
            else None
        ),
    )


def _child(one: Child, now: float) -> Hashable:
    ripening = one.stage is Stage.READY and one.failures > 0
    return (
        one.stage,
        None if one.deadline is None else one.deadline - now,
        min(one.failures, _FAILURES_LIMIT),
        one.extended_s,
        min(now - one.since, _AGE_LIMIT_S) if ripening else None,
    )


@dataclass(slots=True)
class Found:
    """What an exploration saw."""

    states: dict[Hashable, tuple[NannyState, float]] = field(default_factory=dict)
    transitions: int = 0
    problems: list[str] = field(default_factory=list)
    """Each with the way that led to it."""
    decided: set[tuple[type[e.Event], Phase]] = field(default_factory=set)
    """Which cells of the table were entered."""
    cut_off: bool = False


def explore(
    starts: list[tuple[NannyState, float]],
    stimuli: Stimuli,
    config: PolicyConfig,
    *,
    numbers: bool = False,
    prune: Prune = lambda state: state,
    states_limit: int = 200_000,
    problems_limit: int = 3,
) -> Found:
    """Take every step from every state; stops early at ``problems_limit`` problems."""
    found = Found()
    came_from: dict[Hashable, tuple[Hashable, Stimulus]] = {}
    todo: deque[Hashable] = deque()
    for state, now in starts:
        key = normalised(state, now, numbers=numbers)
        found.states[key] = (state, now)
        todo.append(key)
    while todo:
        key = todo.popleft()
        state, now = found.states[key]
        for event, at in stimuli(state, now, config):
            found.transitions += 1
            after = state
            if event is not None:
                found.decided.add((type(event), state.phase))
                result = step(state, event, at, config)
                problems = [
                    *invariants.violations(state, event, result, at, config),
                    *_early_time(state, event, result, at, config),
                ]
                if problems:
                    story = _story(key, came_from, (event, at))
                    found.problems += [f"{problem}\n{story}" for problem in problems]
                    if len(found.problems) >= problems_limit:
                        return found
                if result.state is state:
                    continue
                after = prune(result.state)
            reached = normalised(after, at, numbers=numbers)
            if reached not in found.states:
                if len(found.states) >= states_limit:
                    found.cut_off = True
                    return found
                found.states[reached] = (after, at)
                came_from[reached] = (key, (event, at))
                todo.append(reached)
    return found


def _early_time(
    state: NannyState, event: e.Event, result: Step, at: float, config: PolicyConfig
) -> Iterator[str]:
    if isinstance(event, e.TimePassed):
        deadline = next_deadline(state, config)
        if (deadline is None or at < deadline) and result != Step(state, (), ()):
            yield "time alone, before any deadline, changed something"


def _story(key: Hashable, came_from: dict[Hashable, tuple[Hashable, Stimulus]], last: Stimulus) -> str:
    way = [last]
    while key in came_from:
        key, stimulus = came_from[key]
        way.append(stimulus)
    return "\n".join(f"    at {at:g}: {event}" for event, at in reversed(way) if event is not None)
