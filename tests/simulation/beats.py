"""Heartbeats, and how steady ones are folded.

A worker that is well says the same thing every two seconds, and the core answers it with the same state but for two
instants. Such beats are not stepped one by one: when a step has led to the state that it came from, moved in time, the
stream is *folded*, and only the last beat before the next event is delivered, at its own instant. Whether a state is
such a resting point is looked at and not assumed; that the fold changes nothing is proved by running it both ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.core.child import Child
from tests.simulation.worker import BEAT_S

if TYPE_CHECKING:
    from nanny.core import events as e
    from nanny.core.state import NannyState
    from tests.simulation.link import LinkProgram
    from tests.simulation.machine import Machine
    from tests.simulation.worker import Worker

_EPSILON_S: Final = 1e-6


class Beats:
    """The streams of beats of one machine: its worker's and its link's.

    Attributes:
        folded: those whose beats come without being stepped.
        folding: whether any may be.
    """

    __slots__ = ("_machine", "folded", "folding")

    def __init__(self, machine: Machine, *, folding: bool) -> None:
        self._machine = machine
        self.folded: dict[int, Worker | LinkProgram] = {}
        self.folding = folding

    def begin(self, sender: Worker | LinkProgram) -> None:
        """A stream starts now, in place of the sender's earlier one."""
        self.folded.pop(id(sender), None)
        sender.stream += 1
        self._beat(sender, sender.stream)

    def _beat(self, sender: Worker | LinkProgram, stream: int) -> None:
        if sender.dead or stream != sender.stream:
            return
        machine = self._machine
        now = sender.last_beat_at = machine.mono
        if not sender.is_silent(now):
            folds = self._deliver(sender, sender.beat(now))
            if folds and self.folding and not sender.dead and sender.is_steady(now):
                self.folded[id(sender)] = sender
                machine.rearm()
                return
        if not sender.dead and stream == sender.stream:
            machine.at_mono(now + BEAT_S, self._beat, sender, stream)

    def _deliver(self, sender: Worker | LinkProgram, event: e.Event) -> bool:
        """Whether the beat left the nanny as it was, moved in time."""
        machine = self._machine
        self._catch_up()
        before = machine.state
        machine.hear(event)
        after = machine.state
        return before is not None and after is not None and machine.is_at_rest and _is_moved(before, after)

    def _catch_up(self) -> None:
        """Deliver the last beat of each folded stream; they stay folded."""
        if self.folded:
            now = self._machine.mono
            for sender in sorted(self.folded.values(), key=lambda one: _last_before(one, now)):
                at = _last_before(sender, now)
                if at > sender.last_beat_at:
                    sender.last_beat_at = at
                    self._machine.hear_at(at, sender.beat(at))

    def unfold(self) -> None:
        """Something else happens now: up to here the beats have come, and the next ones are awaited one by one."""
        if self.folded:
            self._catch_up()
            folded, self.folded = self.folded, {}
            for sender in folded.values():
                self._machine.at_mono(sender.last_beat_at + BEAT_S, self._beat, sender, sender.stream)

    def is_folded(self, sender: Worker | LinkProgram | None) -> bool:
        """Whether this one's beats come without being stepped."""
        return sender is not None and id(sender) in self.folded

    def clear(self) -> None:
        """Nobody listens any more, or nobody speaks."""
        self.folded.clear()


def _last_before(sender: Worker | LinkProgram, now: float) -> float:
    return sender.last_beat_at + BEAT_S * int((now - sender.last_beat_at + _EPSILON_S) / BEAT_S)


def _is_moved(before: NannyState, after: NannyState) -> bool:
    """Whether two states are the same but for when each child was last heard, and what follows from that."""
    if after.vitals != before.vitals:
        return False
    moved = {"worker": _moved(after.worker, before.worker), "link": _moved(after.link, before.link)}
    return after.changed(moved) == before


def _moved(after: Child, before: Child) -> Child:
    return Child(
        after.stage,
        after.since,
        before.deadline,
        after.pid,
        before.last_beat_at,
        after.extended_s,
        after.failures,
    )
