"""Which commands are known, which are pending, how each one ended.

Data and its queries; what a command *does* is in ``commands``. An id is in exactly one of pending and
finished. Outcomes stay until the server has acknowledged them, then until newer ones push them out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nanny.core.config import (
    PENDING_COMMANDS_LIMIT,
    REMEMBERED_OUTCOMES_LIMIT,
    UNACKNOWLEDGED_OUTCOMES_LIMIT,
)

if TYPE_CHECKING:
    from nanny.core.actions import Outcome
    from nanny.core.events import Command, CommandKind
    from nanny.protocol.incarnation import Incarnation


@dataclass(frozen=True, slots=True)
class Pending:
    """A command in the ledger whose outcome is still open."""

    command: Command
    """For restart with its target resolved: the life that has to be succeeded."""
    deadline: float | None = None
    """When it fails for want of an answer (reload, collect-evidence)."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command's one outcome."""

    command_id: str
    kind: CommandKind
    outcome: Outcome
    detail: str
    incarnation: Incarnation | None
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Ledger:
    """All commands that the nanny still answers for."""

    pending: tuple[Pending, ...] = ()
    finished: tuple[Finished, ...] = ()
    """Oldest first."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be taken without forgetting what is owed to the server."""
        return (
            len(self.pending) >= PENDING_COMMANDS_LIMIT
            or len(self.pending) + sum(not one.acknowledged for one in self.finished)
            >= UNACKNOWLEDGED_OUTCOMES_LIMIT
        )

    def knows(self, command_id: str) -> bool:
        """Whether this id was taken before."""
        return self.find_pending(command_id) is not None or self.find_finished(command_id) is not None

    def find_pending(self, command_id: str) -> Pending | None:
        """The open entry of this id."""
        return next((one for one in self.pending if one.command.id == command_id), None)

    def find_finished(self, command_id: str) -> Finished | None:
        """The outcome of this id."""
        return next((one for one in self.finished if one.command_id == command_id), None)

    def of_kind(self, kind: CommandKind) -> tuple[Pending, ...]:
        """The open entries of one kind."""
        return tuple(one for one in self.pending if one.command.kind is kind)

    def with_pending(self, entry: Pending) -> Ledger:
        """The ledger with one more open entry."""
        return replace(self, pending=(*self.pending, entry))

    def with_finished(self, outcome: Finished) -> Ledger:
        """The ledger with this command ended; beyond the limit the oldest acknowledged ones are forgotten."""
        finished = (*self.finished, outcome)
        excess = len(finished) - REMEMBERED_OUTCOMES_LIMIT
        if excess > 0:
            forgettable = [one for one in finished if one.acknowledged][:excess]
            finished = tuple(one for one in finished if one not in forgettable)
        return Ledger(tuple(one for one in self.pending if one.command.id != outcome.command_id), finished)

    def with_acknowledged(self, command_id: str) -> Ledger:
        """The ledger with this outcome delivered."""
        return replace(
            self,
            finished=tuple(
                replace(one, acknowledged=True) if one.command_id == command_id else one
                for one in self.finished
            ),
        )

    def without_old_delivered(self, limit: int) -> Ledger:
        """The ledger with only the latest so many of the outcomes that are acknowledged."""
        acknowledged = [one for one in self.finished if one.acknowledged]
        forgotten = {one.command_id for one in acknowledged[: max(len(acknowledged) - limit, 0)]}
        return replace(self, finished=tuple(one for one in self.finished if one.command_id not in forgotten))
