"""The brakes: when the server stops believing itself, and when it may again.

*Demotions*: if half of the nodes that were in reach go out of reach within minutes, the server's own network
is the likelier culprit. No node is then taken to a graver word on account of what the server cannot reach;
what nodes *say* of themselves (stalled, failed, stopped) proves that they are heard, and passes, as do all
promotions. What was written before the threshold was reached stands, but goes no further. *Commands*: see
`repair_budget`; its brake has only a position here.

Instants are the server's monotonic seconds. Knows no clock, no rows, and not who asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

from server_stub.core.connectivity import WORD_OF_REACHABILITY
from server_stub.core.node_facts import PRECEDENCE, Lifecycle, Reachability, Word

if TYPE_CHECKING:
    from server_stub.core.node_facts import Stored, Verdict

OUT_OF_REACH: Final = frozenset({Reachability.UNREACHABLE, Reachability.UNKNOWN, Reachability.OFFLINE})
BAD: Final = frozenset({Word.UNREACHABLE, Word.UNKNOWN, Word.NOT_READY})
RELEASED_BELOW: Final = 0.5
"""Of both thresholds: the distance between on and off keeps the brake from flapping."""


@unique
class BrakeName(StrEnum):
    """Which brake."""

    DEMOTIONS = "demotions"
    COMMANDS = "commands"


@unique
class Standing(StrEnum):
    """How a node counts."""

    IN_REACH = "in-reach"
    """Heard: whatever it says of itself."""
    OUT_OF_REACH = "out-of-reach"
    NEW = "new"
    """Never proven yet: it cannot be lost."""
    ASIDE = "aside"
    """In maintenance, draining or stopped: never counted."""


@unique
class BrakeChange(StrEnum):
    """What became of a brake; the name of its event."""

    ON = "brake.on"
    OFF = "brake.off"
    LIFTED = "brake.lifted"
    LIFT_ENDED = "brake.lift-ended"


@dataclass(frozen=True, slots=True)
class BrakeSettings:
    """Thresholds of the demotion brake."""

    share: float = 0.5
    """Of the nodes that were in reach."""
    nodes: int = 10
    fleet: int = 20
    """Smaller fleets have no brake."""
    window_s: float = 300.0
    calm_s: float = 25.0
    """So long the ground has to be gone before it is released: in it each node has its turn to be probed."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A fleet at one moment. Invariant: in_reach + turned <= fleet."""

    fleet: int
    """All nodes but those set aside."""
    in_reach: int
    turned: int
    """Went out of reach within the window, and are so still."""

    @property
    def share(self) -> float:
        """The part of those that were in reach; 0 where there are none."""
        return self.turned / (self.in_reach + self.turned) if self.turned else 0.0


@dataclass(frozen=True, slots=True)
class Brake:
    """A brake's position. Invariant: one that is lifted is not on."""

    is_on: bool = False
    since_at: float | None = None
    """Of the position; None: as it was at first."""
    lifted_until_at: float | None = None
    calm_since_at: float | None = None
    """Since when an applied brake has no ground without a break."""


def rests_on_reach(verdict: Verdict) -> bool:
    """Tell whether the word is the server's own view of what it can reach, not what the node or people said."""
    return (
        verdict.lifecycle is Lifecycle.ACTIVE
        and verdict.reachability in OUT_OF_REACH
        and verdict.word is WORD_OF_REACHABILITY[verdict.reachability]
    )


def is_demotion(stored: Stored, verdict: Verdict) -> bool:
    """Tell whether storing this verdict would make the node's word graver because it is out of reach."""
    return rests_on_reach(verdict) and PRECEDENCE.index(verdict.word) < PRECEDENCE.index(stored.word)


def standing_of(verdict: Verdict, before: Standing) -> Standing:
    """Give how the node counts now; one that is awaited, or between two lives (PENDING), counts as it did."""
    if verdict.lifecycle is not Lifecycle.ACTIVE:
        return Standing.ASIDE
    if verdict.reachability is Reachability.AWAITED:
        return Standing.NEW if before is Standing.ASIDE else before
    if rests_on_reach(verdict):
        return Standing.OUT_OF_REACH
    if verdict.word is Word.PENDING and before in {Standing.NEW, Standing.ASIDE}:
        return Standing.NEW
    return Standing.IN_REACH


def standing_of_stored(stored: Stored) -> Standing:
    """Give how a node counted when its row was written, for a server that has not judged it yet."""
    if stored.lifecycle is not Lifecycle.ACTIVE:
        return Standing.ASIDE
    if stored.word in BAD:
        return Standing.OUT_OF_REACH
    return Standing.NEW if stored.word is Word.PENDING else Standing.IN_REACH


def is_tripped(counts: Counts, settings: BrakeSettings) -> bool:
    """Tell whether so many turned that the server is to suspect itself."""
    return (
        counts.fleet >= settings.fleet and counts.turned >= settings.nodes and counts.share >= settings.share
    )


def is_calm(counts: Counts, settings: BrakeSettings) -> bool:
    """Tell whether an applied brake has no ground any more."""
    return (
        counts.fleet < settings.fleet
        or counts.turned < settings.nodes * RELEASED_BELOW
        or counts.share < settings.share * RELEASED_BELOW
    )


def decide(
    brake: Brake, counts: Counts, now: float, settings: BrakeSettings, *, may_release: bool
) -> tuple[Brake, BrakeChange | None]:
    """Give the demotion brake's next position, and what became of it.

    Args:
        brake: its position so far.
        counts: the fleet now.
        now: monotonic seconds.
        settings: the thresholds.
        may_release: False until the server has listened for one offline time-out: before that a node that
            is not heard and one that is gone look the same, and a brake taken over from an earlier process stays.
    """
    if brake.lifted_until_at is not None:
        if now < brake.lifted_until_at:
            return brake, None
        return Brake(since_at=now), BrakeChange.LIFT_ENDED
    if brake.is_on:
        if not (may_release and is_calm(counts, settings)):
            return replace(brake, calm_since_at=None), None
        if brake.calm_since_at is None:
            return replace(brake, calm_since_at=now), None
        if now < brake.calm_since_at + settings.calm_s:
            return brake, None
        return Brake(since_at=now), BrakeChange.OFF
    if is_tripped(counts, settings):
        return Brake(is_on=True, since_at=now), BrakeChange.ON
    return brake, None


def lift(now: float, for_s: float) -> Brake:
    """Give the position after people have said that what the server sees is true, for so long."""
    return Brake(since_at=now, lifted_until_at=now + for_s)


def reason_of(counts: Counts, settings: BrakeSettings) -> str:
    """Say why the brake is on, for people."""
    return (
        f"{counts.turned} of {counts.in_reach + counts.turned} nodes that were in reach went out of reach "
        f"within {settings.window_s:g} s: the server suspects itself"
    )
