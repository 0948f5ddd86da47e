"""The step under way: a scratch pad that lives for one call of ``step`` and is frozen into its result.

Handlers change a draft instead of threading three values through every function; seen from outside,
``step`` stays a pure function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nanny.core.records import ConditionChanged
from nanny.core.state import Condition, ConditionType, NannyState

if TYPE_CHECKING:
    from nanny.core.actions import Action
    from nanny.core.config import PolicyConfig
    from nanny.core.records import Record


@dataclass(frozen=True, slots=True)
class Step:
    """What one event led to: the new state, what must be durable, and then be done."""

    state: NannyState
    records: tuple[Record, ...]
    actions: tuple[Action, ...]


class Draft:
    """State, records and actions in the making."""

    __slots__ = ("actions", "config", "now", "records", "state")

    def __init__(self, state: NannyState, now: float, config: PolicyConfig) -> None:
        self.state = state
        self.now = now
        self.config = config
        self.records: list[Record] = []
        self.actions: list[Action] = []

    def change(self, **fields: Any) -> None:
        """Replace fields of the state."""
        self.state = self.state.changed(fields)

    def record(self, *records: Record) -> None:
        """What has to be durable before this step's actions run."""
        self.records.extend(records)

    def act(self, *actions: Action) -> None:
        """What the shell is to do, in order."""
        self.actions.extend(actions)

    def set_condition(self, type_: ConditionType, reason: str, message: str) -> None:
        """A lasting fact holds; recorded when it begins or its reason changes."""
        known = self.state.condition(type_)
        if known is not None and known.reason == reason:
            if known.message != message:
                self._put(replace(known, message=message))
            return
        self._put(Condition(type_, reason, message, self.now))
        self.record(ConditionChanged(str(type_), status=True, reason=reason, message=message))

    def clear_condition(self, type_: ConditionType, reason: str) -> None:
        """A lasting fact has ended; nothing happens when it did not hold."""
        if self.state.condition(type_) is None:
            return
        self.change(conditions=tuple(one for one in self.state.conditions if one.type is not type_))
        self.record(ConditionChanged(str(type_), status=False, reason=reason, message=""))

    def _put(self, condition: Condition) -> None:
        others = [one for one in self.state.conditions if one.type is not condition.type]
        self.change(conditions=tuple(sorted([*others, condition], key=lambda one: one.type)))

    def finish(self) -> Step:
        """The result of the step."""
        return Step(self.state, tuple(self.records), tuple(self.actions))
