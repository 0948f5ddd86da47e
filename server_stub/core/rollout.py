"""A rollout: one command for many nodes, a few at a time, on only while those before came back well.

    waiting ─► ordered ─► settling ─► done | failed            a step, that is one node's turn
          └──► skipped: in maintenance, draining, stopped, deleted, or never begun

    running ─► done | aborting ─► aborted                      the rollout

`decide` looks at what is known of the nodes whose turn it is and says what changes; `apply` makes the changed
rollout. A step is in flight from its order until its node is READY in a newer life than the one the command
was aimed at, or until that has taken too long. More failures than allowed, or a person, abort: nothing is
ordered any more, what is in flight is followed to its end. Each node has at most one step, each step at most
one order. Knows no clock, no database and no connection; instants are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, unique
from math import ceil
from typing import TYPE_CHECKING, Final

from server_stub.core.command_lifecycle import CommandState, is_finished
from server_stub.core.node_facts import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nanny.protocol.incarnation import Incarnation


@unique
class StepState(StrEnum):
    """Where one node's turn stands; the last three are its ends."""

    WAITING = "waiting"
    ORDERED = "ordered"
    """Its command is stored and not finished."""
    SETTLING = "settling"
    """Its command ended well; the node is not yet READY in a newer life."""
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@unique
class RolloutState(StrEnum):
    """Where the rollout stands; the last two are its ends."""

    RUNNING = "running"
    ABORTING = "aborting"
    """Nothing is ordered any more; steps in flight come to their ends."""
    DONE = "done"
    ABORTED = "aborted"


IN_FLIGHT: Final = frozenset({StepState.ORDERED, StepState.SETTLING})
ENDED: Final = frozenset({RolloutState.DONE, RolloutState.ABORTED})
NOT_BEGUN: Final = "not begun: the rollout was aborted"
_GOOD_OUTCOMES: Final = frozenset({CommandState.DONE, CommandState.ALREADY_SATISFIED})
_SKIPPED_LIFECYCLES: Final = {
    Lifecycle.MAINTENANCE: "in maintenance",
    Lifecycle.DRAINING: "draining",
    Lifecycle.STOPPED: "stopped on purpose",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One node's turn."""

    position: int
    """Its place in the order, and in `Rollout.steps`."""
    node_id: str
    state: StepState = StepState.WAITING
    detail: str = ""
    since_at: float = 0.0
    """When it came to this state, or when this process took the rollout over: then its time begins anew."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The whole of it. Invariant: `steps[n].position == n`, and no two steps have the same node."""

    concurrency: int
    failures_allowed: int
    health_timeout_s: float
    steps: tuple[Step, ...]
    state: RolloutState = RolloutState.RUNNING
    detail: str = ""
    time_to_live_s: float = 300.0
    """Of its commands: after that one that arrives has no effect any more."""

    def in_flight(self) -> list[Step]:
        """Give the steps that are under way."""
        return [step for step in self.steps if step.state in IN_FLIGHT]

    def candidates(self, spare: int = 0) -> list[Step]:
        """Give the next steps that may be begun: as many as there is room for, and `spare` for those skipped."""
        if self.state is not RolloutState.RUNNING:
            return []
        room = self.concurrency - len(self.in_flight())
        waiting = (step for step in self.steps if step.state is StepState.WAITING)
        return [step for step, _ in zip(waiting, range(room + spare), strict=False)] if room > 0 else []

    def counts(self) -> dict[str, int]:
        """Give how many steps are in each state."""
        counted = dict.fromkeys(map(str, StepState), 0)
        for step in self.steps:
            counted[step.state] += 1
        return counted


@dataclass(frozen=True, slots=True)
class CommandFact:
    """What became of a step's command so far."""

    state: CommandState
    detail: str
    target: Incarnation | None
    """The life it was aimed at."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What is known of the node of a step."""

    lifecycle: Lifecycle | None
    """None: the node was deleted."""
    is_ready: bool
    """The server judges it READY now."""
    word: str
    """Its state, for people."""
    incarnation: Incarnation | None
    """The life that has registered."""
    command: CommandFact | None = None
    """Of a step in flight."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step's new state."""

    position: int
    state: StepState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be stored, and then done. `orders` are commands to make, in the same transaction."""

    changes: tuple[Change, ...]
    state: RolloutState
    detail: str

    @property
    def orders(self) -> tuple[int, ...]:
        """Positions of the steps to order."""
        return tuple(change.position for change in self.changes if change.state is StepState.ORDERED)


def concurrency_of(wanted: int | str, nodes: int) -> int:
    """Give the number of nodes at a time for a number or a share such as "10%", one at least.

    Raises:
        ValueError: it is neither; the message says what would be right.
    """
    expected = 'expected a whole number from 1, or a share from "1%" to "100%"'
    if isinstance(wanted, str):
        number, sign, after = wanted.partition("%")
        if not sign or after or not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= 100:
            raise ValueError(expected)
        # Rounded down: a limit is not to be passed by a fraction of a node.
        return max(1, nodes * int(number) // 100)
    if isinstance(wanted, bool) or wanted < 1:
        raise ValueError(expected)
    return wanted


def decide(rollout: Rollout, facts: Mapping[str, StepFacts], now: float) -> Decision:
    """Give what changes now.

    Args:
        rollout: as it stands.
        facts: by node id, of the steps in flight and of the next ones; a node that is missing is left alone.
        now: the time.
    """
    changes = [
        change
        for step in rollout.in_flight()
        if (known := facts.get(step.node_id)) is not None
        and (change := _follow(rollout, step, known, now)) is not None
    ]
    moved = apply(rollout, Decision(tuple(changes), rollout.state, rollout.detail), now)
    state, detail = moved.state, moved.detail
    if state is RolloutState.RUNNING:
        failed = [step for step in moved.steps if step.state is StepState.FAILED]
        if len(failed) > rollout.failures_allowed:
            state = RolloutState.ABORTING
            detail = f"{len(failed)} failed, {rollout.failures_allowed} may: {_names(failed)}"
    if state is RolloutState.RUNNING:
        changes += _begin(moved, facts)
        moved = apply(rollout, Decision(tuple(changes), state, detail), now)
    if not moved.in_flight():
        if state is RolloutState.ABORTING:
            state = RolloutState.ABORTED
        elif state is RolloutState.RUNNING and not any(s.state is StepState.WAITING for s in moved.steps):
            state = RolloutState.DONE
    if state is RolloutState.ABORTED and rollout.state is not RolloutState.ABORTED:
        left = (step for step in moved.steps if step.state is StepState.WAITING)
        changes += [Change(step.position, StepState.SKIPPED, NOT_BEGUN) for step in left]
    return Decision(tuple(changes), state, detail)


def abort(rollout: Rollout, detail: str) -> Rollout:
    """Give the rollout that orders nothing any more; one that has ended stays as it is."""
    if rollout.state is not RolloutState.RUNNING:
        return rollout
    return replace(rollout, state=RolloutState.ABORTING, detail=detail)


def apply(rollout: Rollout, decision: Decision, now: float) -> Rollout:
    """Give the rollout after a decision."""
    if not decision.changes:
        return replace(rollout, state=decision.state, detail=decision.detail)
    steps = list(rollout.steps)
    for change in decision.changes:
        steps[change.position] = replace(
            steps[change.position], state=change.state, detail=change.detail, since_at=now
        )
    return replace(rollout, steps=tuple(steps), state=decision.state, detail=decision.detail)


def percent_done(rollout: Rollout) -> int:
    """Give how much of it has ended, from 0 to 100; 100 only when all has."""
    if not rollout.steps:
        return 100
    ended = sum(step.state not in IN_FLIGHT and step.state is not StepState.WAITING for step in rollout.steps)
    return 100 - ceil(100 * (len(rollout.steps) - ended) / len(rollout.steps))


def _follow(rollout: Rollout, step: Step, known: StepFacts, now: float) -> Change | None:
    """Say what has become of a step in flight; None while nothing has."""
    if known.lifecycle is None:
        return Change(step.position, StepState.FAILED, "the node was deleted")
    command = known.command
    if command is None:
        return Change(step.position, StepState.FAILED, "its command is gone")
    if step.state is StepState.ORDERED:
        if not is_finished(command.state):
            patience_s = rollout.time_to_live_s + rollout.health_timeout_s
            if now < step.since_at + patience_s:
                return None
            # The server never calls a sent command expired, so a machine that died would hold all up.
            why = f"command {command.state}, and no outcome within {patience_s:g} s"
            return Change(step.position, StepState.FAILED, why)
        if command.state not in _GOOD_OUTCOMES:
            why = f"command {command.state}" + (f": {command.detail}" if command.detail else "")
            return Change(step.position, StepState.FAILED, why)
        if not _is_well(known, command.target):
            return Change(step.position, StepState.SETTLING, f"command {command.state}")
        return Change(step.position, StepState.DONE, f"command {command.state}")
    if _is_well(known, command.target):
        return Change(step.position, StepState.DONE, f"command {command.state}")
    if now < step.since_at + rollout.health_timeout_s:
        return None
    life = "in a newer life " if known.is_ready else ""
    return Change(
        step.position,
        StepState.FAILED,
        f"not READY {life}within {rollout.health_timeout_s:g} s: {known.word}, incarnation {known.incarnation}",
    )


def _begin(rollout: Rollout, facts: Mapping[str, StepFacts]) -> list[Change]:
    """Order the next steps, as far as there is room, skipping nodes that are not to be touched."""
    room = rollout.concurrency - len(rollout.in_flight())
    changes: list[Change] = []
    for step in rollout.steps:
        if room <= 0:
            break
        if step.state is not StepState.WAITING:
            continue
        known = facts.get(step.node_id)
        if known is None:
            break
        why = "deleted" if known.lifecycle is None else _SKIPPED_LIFECYCLES.get(known.lifecycle)
        if why is not None:
            changes.append(Change(step.position, StepState.SKIPPED, why))
            continue
        changes.append(Change(step.position, StepState.ORDERED))
        room -= 1
    return changes


def _is_well(known: StepFacts, target: Incarnation | None) -> bool:
    """Tell whether the node is READY in a life after `target`; epochs are not compared, only told apart."""
    if not known.is_ready:
        return False
    if target is None:
        return True
    life = known.incarnation
    return life is not None and (life.epoch != target.epoch or life.number > target.number)


def _names(steps: Iterable[Step]) -> str:
    named = [f"{step.node_id} ({step.detail})" for step in steps]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
