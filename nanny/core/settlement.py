"""How commands end: the one place that moves an entry from pending to finished.

Called by whatever brought the end about (a successor that is ready, a worker that is down, a bundle, a
reload).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.core.actions import Outcome, ReportOutcome
from nanny.core.command_ledger import Finished
from nanny.core.events import CommandKind, Source
from nanny.core.records import CommandFinished

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import Command

_DETAIL_LIMIT: Final = 500
"""Characters of an outcome's detail, on one line: the ledger is kept and copied as a whole."""


def settle(draft: Draft, command: Command, outcome: Outcome, detail: str) -> None:
    """The command ends here, with one outcome."""
    local = command.source is Source.LOCAL
    detail = " ".join(detail.split())[:_DETAIL_LIMIT]
    incarnation = draft.state.incarnation
    entry = Finished(command.id, command.kind, outcome, detail, incarnation, acknowledged=local)
    draft.change(ledger=draft.state.ledger.with_finished(entry))
    draft.record(CommandFinished(command.id, command.kind, outcome, detail, incarnation, local=local))
    draft.act(ReportOutcome(command.id, command.kind, outcome, detail, incarnation))


def settle_ready(draft: Draft) -> None:
    """A worker is ready: every restart aimed at an earlier life, and every start, is done."""
    incarnation = draft.state.incarnation
    for entry in draft.state.ledger.of_kind(CommandKind.RESTART):
        if entry.command.target != incarnation:
            settle(draft, entry.command, Outcome.DONE, f"{incarnation} is ready")
    for entry in draft.state.ledger.of_kind(CommandKind.START):
        settle(draft, entry.command, Outcome.DONE, f"{incarnation} is ready")


def settle_failed_start(draft: Draft, why: str) -> None:
    """A worker ended before it was ready: what waited for it has failed; the nanny goes on trying."""
    ended = draft.state.incarnation
    detail = f"{ended} did not become ready ({why}); the nanny goes on trying"
    for kind in (CommandKind.RESTART, CommandKind.START):
        for entry in draft.state.ledger.of_kind(kind):
            if entry.command.target != ended or kind is CommandKind.START:
                settle(draft, entry.command, Outcome.FAILED, detail)


def settle_down(draft: Draft, outcome: Outcome, detail: str) -> None:
    """No worker lives and none is wanted: stops end."""
    for entry in draft.state.ledger.of_kind(CommandKind.STOP):
        settle(draft, entry.command, outcome, detail)


def supersede(draft: Draft, kinds: tuple[CommandKind, ...], by: Command) -> None:
    """A later command took the place of these."""
    for kind in kinds:
        for entry in draft.state.ledger.of_kind(kind):
            if entry.command.id != by.id:
                settle(draft, entry.command, Outcome.SUPERSEDED, f"superseded by {by.kind} {by.id}")
