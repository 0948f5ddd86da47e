"""The only caller of ``step``: facts in, records to the journal, actions out.

The shell's contract, in this order: (1) every ready socket and pidfd is drained before ``TimePassed`` is
delivered; (2) one event at a time; (3) a step's records go to the journal writer; (4) its actions run when the
writer says durable, or after ``journal_timeout_s`` with the journal marked degraded, in the order of the steps;
(5) each action's result comes back as an event; (6) one timer is re-armed from ``next_deadline`` and fires with
``max(deadline, now)``. If the nanny itself was late, or the node was away, the core hears of it first.

An action, an observer or a step that raises is logged and counted, and supervision goes on: nothing here ends
the process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanny import fault_point
from nanny.core import events as e
from nanny.core import invariants
from nanny.core.actions import ConfirmNumbers
from nanny.core.policy import next_deadline, step
from nanny.core.records import to_json
from nanny.event_loop import DeadlineSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.core.actions import Action
    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Step
    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from nanny.durability import Durability
    from nanny.event_loop import EventLoop


@dataclass(slots=True)
class _Held:
    """Actions that wait until their records are durable."""

    ticket: int | None
    actions: tuple[Action, ...]


class Supervisor:
    """Holds the state; everything else only tells it what happened.

    Attributes:
        state: as the last step left it.
        config: the numbers in force; replaced by a reload.
        steps_total, errors_total, violations_total: counted since the start.
        on_step: called after each step with (before, after, records), for whoever shows them.
        recorder: keeps each step with all that led to it; None: nobody does.
    """

    def __init__(
        self,
        state: NannyState,
        config: PolicyConfig,
        loop: EventLoop,
        durability: Durability,
        log: LogLines,
        spare_epoch: Callable[[], str],
    ) -> None:
        self.state = state
        self.config = config
        self._loop = loop
        self._durability = durability
        self._log = log
        self._spare_epoch = spare_epoch
        self._inbox: deque[e.Event] = deque()
        self._held: deque[_Held] = deque()
        self._effects: dict[type[Action], Callable[[Any], None]] = {ConfirmNumbers: self._confirm_numbers}
        self._is_settling = False
        self.steps_total = 0
        self.errors_total = 0
        self.violations_total = 0
        self.on_step: list[Callable[[NannyState, NannyState, tuple[Record, ...]], None]] = []
        self.recorder: Callable[[NannyState, e.Event, float, PolicyConfig, Step], None] | None = None
        durability.on_change = self._journal_changed
        loop.add_source(DeadlineSource(self._next_deadline, lambda _now: self.tell(e.TimePassed())))

    def effect(self, action: type[Action], run: Callable[[Any], None]) -> None:
        """Say who carries out an action."""
        assert action not in self._effects, f"{action.__name__} has an effect already"
        self._effects[action] = run

    def tell(self, event: e.Event) -> None:
        """Something happened. Safe to call from within an effect: it is then taken up afterwards."""
        self._inbox.append(event)
        self.settle()

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was decided is still to be done."""
        return not self._inbox and not self._held

    def settle(self) -> None:
        """Take steps and run what may run until nothing is left to do now."""
        if self._is_settling:
            return
        self._is_settling = True
        try:
            while self._inbox or self._may_run():
                if self._inbox:
                    self._take_step(self._inbox.popleft())
                else:
                    self._run(self._held.popleft().actions)
        finally:
            self._is_settling = False

    def _take_step(self, event: e.Event) -> None:
        before, now, config = self.state, self._loop.now, self.config
        fault_point.hear(event.command.kind if isinstance(event, e.CommandReceived) else type(event).__name__)
        try:
            result = step(before, event, now, config)
        except Exception as error:
            self._failed("step failed", event=type(event).__name__, error=repr(error))
            return
        self.state = result.state
        self.steps_total += 1
        if self.recorder is not None:
            try:
                self.recorder(before, event, now, config, result)
            except Exception as error:
                self._failed("recorder failed", event=type(event).__name__, error=repr(error))
        has_effects = bool(result.records or result.actions)
        if has_effects:
            fault_point.reach("decided")
        ticket = None
        if result.records:
            at = round(self._loop.now, 3)
            try:
                ticket = self._durability.append([{**to_json(record), "at": at} for record in result.records])
            except (TypeError, ValueError) as error:
                # A record that can't be written must not cost what it was about: act without it, and shout.
                self._failed("record not written", event=type(event).__name__, error=repr(error))
            fault_point.reach("recorded")
        if result.actions:
            self._held.append(_Held(ticket, result.actions))
        if has_effects:
            for problem in invariants.cheap(self.state, self.config):
                self.violations_total += 1
                self._log.error("invariant broken", problem=problem, caused_by=type(event).__name__)
        for observe in self.on_step:
            try:
                observe(before, self.state, result.records)
            except Exception as error:
                self._failed("observer failed", event=type(event).__name__, error=repr(error))
        if has_effects:
            fault_point.reach("observed")

    def _may_run(self) -> bool:
        if not self._held:
            return False
        ticket = self._held[0].ticket
        return ticket is None or self.state.journal_degraded or self._durability.is_durable(ticket)

    def _run(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            try:
                self._effects[type(action)](action)
            except Exception as error:
                self._failed("action failed", action=type(action).__name__, error=repr(error))
            fault_point.reach(type(action).__name__)

    def _failed(self, what: str, **fields: str) -> None:
        self.errors_total += 1
        self._log.error(what, **fields)

    def _confirm_numbers(self, action: ConfirmNumbers) -> None:
        if not self.state.journal_degraded:
            self._inbox.append(e.NumbersConfirmed(action.epoch, action.until))

    def _journal_changed(self) -> None:
        degraded = self._durability.degraded
        if degraded and not self.state.journal_degraded:
            # Told before the held actions run: what they relied on is not durable.
            self._inbox.appendleft(e.JournalDegraded(degraded))
        elif not degraded and self.state.journal_degraded:
            self._inbox.appendleft(e.JournalRecovered(self._spare_epoch()))
        self.settle()

    def was_late(self, late_s: float) -> None:
        """The loop served a deadline late."""
        self._log.warning("the nanny was late", late_s=round(late_s, 3))
        self.tell(e.NannyWasLate(late_s))

    def was_away(self, away_s: float) -> None:
        """The node was suspended."""
        self._log.warning("the node was away", away_s=round(away_s, 3))
        self.tell(e.NodeResumed(away_s))

    def _next_deadline(self) -> float | None:
        return next_deadline(self.state, self.config)
