"""The life of a command at the server, and which changes of its state are legal.

    queued ─► sent ─► accepted ─► done | already-satisfied | rejected | expired | superseded | failed
       └────────────────────────► expired, or superseded by its withdrawal: it has no effect on any node

`sent` is stored before the first byte leaves, so a command that could have reached its node is never
`queued`, and only what is queued can be withdrawn. From then on only the node's nanny ends it: the server
doesn't call a command expired that might have been carried out. Knows no clock and no storage.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

from nanny.protocol.messages import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping


@unique
class CommandState(StrEnum):
    """Where a command stands; the last six are its outcomes (`nanny.protocol.messages.Outcome`)."""

    QUEUED = "queued"
    SENT = "sent"
    ACCEPTED = "accepted"
    DONE = "done"
    ALREADY_SATISFIED = "already-satisfied"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    FAILED = "failed"


class IllegalTransition(Exception):  # noqa: N818 (named as the rule that it breaks)
    """A command cannot go from the one state to the other; nothing was changed."""

    def __init__(self, before: CommandState, after: CommandState) -> None:
        super().__init__(f"a command that is {before} cannot become {after}")
        self.before = before
        self.after = after


OUTCOMES: Final = frozenset(CommandState(outcome.value) for outcome in Outcome)

LEGAL: Final[Mapping[CommandState, frozenset[CommandState]]] = {
    CommandState.QUEUED: frozenset({CommandState.SENT, CommandState.EXPIRED, CommandState.SUPERSEDED}),
    CommandState.SENT: frozenset({CommandState.ACCEPTED}) | OUTCOMES,
    CommandState.ACCEPTED: OUTCOMES,
    **dict.fromkeys(OUTCOMES, frozenset[CommandState]()),
}
"""From each state, the states that may follow. A command sent again stays `sent`."""


def is_finished(state: CommandState) -> bool:
    """Tell whether the state is an outcome."""
    return state in OUTCOMES


def advance(before: CommandState, after: CommandState) -> CommandState:
    """Give the new state.

    Raises:
        IllegalTransition: the table doesn't have this change.
    """
    if after not in LEGAL[before]:
        raise IllegalTransition(before, after)
    return after


def absorbs(before: CommandState, after: CommandState) -> bool:
    """Tell whether news of `after` is old: said already, or overtaken by a later state of the same course.

    Messages come at least once, so an acceptance may follow its outcome; a *second, other* outcome is no
    old news.
    """
    if before is after:
        return True
    return after in {CommandState.SENT, CommandState.ACCEPTED} and before not in {
        CommandState.QUEUED,
        CommandState.SENT,
    }


def may_expire_unsent(state: CommandState, remaining_s: float) -> bool:
    """Tell whether the server itself may end the command as expired."""
    return state is CommandState.QUEUED and remaining_s <= 0.0


def may_be_withdrawn(state: CommandState) -> bool:
    """Tell whether the command can still be taken back: nobody was told of it."""
    return state is CommandState.QUEUED
