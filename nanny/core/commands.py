"""What each command does: taken once, recorded before it acts, ended with exactly one outcome.

Order of the checks: known id, age, journal, allow-list, budget, aim. The server's commands pass the nanny's
own allow-list and budget whatever the server says; a local operator's pass neither. What an earlier nanny may have
done is put off until the journal can be read: no outcome is better than a second one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nanny.core import liveness, recovery_ladder, worker_life
from nanny.core.actions import (
    CollectEvidence,
    DeferCommand,
    Outcome,
    ReloadConfig,
    ReportAccepted,
    ReportOutcome,
)
from nanny.core.child import Child, Stage
from nanny.core.command_ledger import Pending
from nanny.core.config import BUDGET_WINDOW_S
from nanny.core.events import Command, CommandKind, Source
from nanny.core.records import (
    CommandAccepted,
    Desired,
    DesiredSet,
    DrainSet,
    EvidenceSaved,
    HoldSet,
    OutcomeDelivered,
)
from nanny.core.settlement import settle, settle_down, supersede
from nanny.core.state import ConditionType, Hold, Intent, Reason, Spending

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import (
        CommandReceived,
        ConfigRejected,
        ConfigReloaded,
        EvidenceCollected,
        OutcomeAcknowledged,
    )
    from nanny.core.state import NannyState

_WANTS: Final = {CommandKind.STOP: Desired.DOWN, CommandKind.START: Desired.UP}
_CHANGES_INTENT = frozenset(
    {CommandKind.STOP, CommandKind.START, CommandKind.DRAIN, CommandKind.UNDRAIN, CommandKind.HOLD}
)


def received(draft: Draft, event: CommandReceived) -> None:
    """Ledger first: repeated, refused, expired or accepted; then its effect."""
    command, ledger = event.command, draft.state.ledger
    if ledger.find_pending(command.id) is not None:
        draft.act(ReportAccepted(command.id))
        return
    known = ledger.find_finished(command.id)
    if known is not None:
        draft.act(ReportOutcome(known.command_id, known.kind, known.outcome, known.detail, known.incarnation))
        return
    if ledger.is_full or draft.state.is_shutting_down or _may_have_been_taken(draft.state, command):
        draft.act(DeferCommand(command.id))
        return
    refusal = _refusal(draft, command)
    if refusal is not None:
        outcome, detail = refusal
        settle(draft, command, outcome, detail)
        return
    if command.kind is CommandKind.RESTART and command.target is None:
        command = replace(command, target=draft.state.incarnation)
    draft.record(CommandAccepted(command))
    draft.change(ledger=ledger.with_pending(Pending(command)))
    draft.act(ReportAccepted(command.id))
    take_effect(draft, command)


def _may_have_been_taken(state: NannyState, command: Command) -> bool:
    """Whether a nanny of an earlier boot may have done it; what is aimed at a life of this boot is new."""
    if not state.is_forgetful or command.source is not Source.SERVER:
        return False
    target, current = command.target, state.incarnation
    is_of_now = target is not None and current is not None and target.epoch == current.epoch
    return command.kind is not CommandKind.RESTART or not is_of_now


def _refusal(draft: Draft, command: Command) -> tuple[Outcome, str] | None:
    state, config = draft.state, draft.config
    if command.time_to_live_s <= 0:
        return Outcome.EXPIRED, f"its time to live was over {-command.time_to_live_s:.1f} s before it arrived"
    if state.journal_degraded and command.kind in _CHANGES_INTENT:
        return (
            Outcome.REJECTED,
            "the journal is degraded, so what is wanted can't be kept; see nannyctl explain",
        )
    if command.source is Source.SERVER:
        if command.kind not in config.allowed_from_server:
            return Outcome.REJECTED, f"{command.kind} is not among the kinds allowed from the server"
        over = _spend(draft, command)
        if over:
            return Outcome.REJECTED, over
    if command.kind is CommandKind.RESTART:
        return _restart_refusal(draft, command)
    return None


def _restart_refusal(draft: Draft, command: Command) -> tuple[Outcome, str] | None:
    state = draft.state
    if state.intent.desired is Desired.DOWN:
        return Outcome.REJECTED, f"the node is stopped by {state.intent.actor}; order start instead"
    current, target = state.incarnation, command.target
    if target is None or current is None or target == current:
        return None
    # Another epoch is never the present one; which came first is not asked, clocks at boot may be wrong.
    if target.epoch != current.epoch or target.number < current.number:
        return Outcome.ALREADY_SATISFIED, f"aimed at {target}; {current} has taken its place"
    return Outcome.REJECTED, f"aimed at {target}, which never was; the current one is {current}"


def _spend(draft: Draft, command: Command) -> str | None:
    horizon = draft.now - BUDGET_WINDOW_S
    restarts = tuple(at for at in draft.state.spending.restarts if at > horizon)
    commands = tuple(at for at in draft.state.spending.commands if at > horizon)
    if len(commands) >= draft.config.server_commands_per_hour:
        return (
            f"over the nanny's own budget of {draft.config.server_commands_per_hour} server commands an hour"
        )
    if command.kind is CommandKind.RESTART:
        if len(restarts) >= draft.config.server_restarts_per_hour:
            limit = draft.config.server_restarts_per_hour
            return f"over the nanny's own budget of {limit} server restarts an hour"
        restarts = (*restarts, draft.now)
    draft.change(spending=Spending(restarts, (*commands, draft.now)))
    return None


def take_effect(draft: Draft, command: Command) -> None:
    """Do what an accepted command asks; also used for those found open in the journal at a start."""
    match command.kind:
        case CommandKind.RESTART:
            _restart(draft, command)
        case CommandKind.STOP:
            _stop(draft, command)
        case CommandKind.START:
            _start(draft, command)
        case CommandKind.DRAIN | CommandKind.UNDRAIN:
            _drain(draft, command, draining=command.kind is CommandKind.DRAIN)
        case CommandKind.HOLD:
            _hold(draft, command)
        case CommandKind.RELEASE:
            _release(draft, command)
        case CommandKind.CLEAR:
            _clear(draft, command)
        case CommandKind.COLLECT_EVIDENCE:
            _collect_evidence(draft, command)
        case CommandKind.RELOAD:
            _expect_answer(draft, command, draft.config.reload_timeout_s)
            draft.act(ReloadConfig(command.id))


def resume_intent(draft: Draft) -> None:
    """Of the stops and starts that an earlier nanny did not finish the latest holds, whatever was cut off."""
    found = [one.command for one in draft.state.ledger.pending if one.command.kind in _WANTS]
    if not found:
        return
    latest = found[-1]
    supersede(draft, tuple(kind for kind in _WANTS if kind is not latest.kind), latest)
    if draft.state.intent.desired is not _WANTS[latest.kind]:
        take_effect(draft, latest)


def resume(draft: Draft, entry: Pending) -> None:
    """Take up a command that an earlier nanny accepted and did not finish: one effect in all."""
    command, state = entry.command, draft.state
    if state.ledger.find_pending(command.id) is None:
        return
    is_ready = state.worker.stage is Stage.READY and state.stopping is None
    match command.kind:
        case CommandKind.STOP:
            if not state.worker.is_live:
                settle(draft, command, Outcome.DONE, "no worker lives")
        case CommandKind.START:
            if is_ready:
                settle(draft, command, Outcome.DONE, f"{state.incarnation} is ready")
        case CommandKind.RESTART if state.intent.desired is Desired.DOWN:
            settle(draft, command, Outcome.SUPERSEDED, f"the node is stopped by {state.intent.actor}")
        case CommandKind.RESTART if command.target != state.incarnation:
            if is_ready:
                settle(draft, command, Outcome.DONE, f"{state.incarnation} is ready")
        case _:
            take_effect(draft, command)


def _restart(draft: Draft, command: Command) -> None:
    state = draft.state
    match state.worker.stage:
        case Stage.STARTING | Stage.READY if state.stopping is None:
            recovery_ladder.begin(draft, Reason.RESTART_ORDERED, f"{command.actor}: {command.reason}")
        case Stage.BACKOFF | Stage.ABSENT:
            worker_life.retry(draft)
        case _:
            pass  # It is being ended or born already; its successor is what was ordered.


def _stop(draft: Draft, command: Command) -> None:
    state = draft.state
    if state.intent.desired is Desired.DOWN and not state.worker.is_live:
        settle(draft, command, Outcome.ALREADY_SATISFIED, f"stopped by {state.intent.actor}")
        return
    if state.intent.desired is Desired.UP:
        draft.change(intent=Intent(Desired.DOWN, command.actor, command.reason, draft.now))
        draft.record(DesiredSet(Desired.DOWN, command.actor, command.reason))
    supersede(draft, (CommandKind.START, CommandKind.RESTART), command)
    match state.worker.stage:
        case Stage.STARTING | Stage.READY if state.stopping is None:
            recovery_ladder.begin(draft, Reason.STOP_ORDERED, f"{command.actor}: {command.reason}")
        case Stage.BACKOFF | Stage.ABSENT:
            draft.change(worker=Child(since=draft.now), is_crash_looping=False)
            draft.clear_condition(ConditionType.CRASH_LOOPING, "Stopped")
            settle_down(draft, Outcome.DONE, "no worker lives")
        case _:
            pass


def _start(draft: Draft, command: Command) -> None:
    state = draft.state
    if state.intent.desired is Desired.UP:
        settle(
            draft, command, Outcome.ALREADY_SATISFIED, "the node is wanted up; to skip a backoff, order clear"
        )
        return
    draft.change(intent=Intent(Desired.UP, command.actor, command.reason, draft.now))
    draft.record(DesiredSet(Desired.UP, command.actor, command.reason))
    supersede(draft, (CommandKind.STOP,), command)
    if state.worker.stage is Stage.ABSENT:
        worker_life.retry(draft)


def _drain(draft: Draft, command: Command, *, draining: bool) -> None:
    if draft.state.draining is draining:
        settle(draft, command, Outcome.ALREADY_SATISFIED, "draining" if draining else "not draining")
        return
    draft.change(draining=draining)
    draft.record(DrainSet(draining, command.actor, command.reason))
    settle(draft, command, Outcome.DONE, "no new work is wanted here" if draining else "new work is welcome")


def _hold(draft: Draft, command: Command) -> None:
    for_s = command.for_s
    if for_s is None or not 0 < for_s <= draft.config.hold_limit_s:
        limit_s = draft.config.hold_limit_s
        settle(
            draft,
            command,
            Outcome.REJECTED,
            f"hold for {for_s} s: give more than 0 and at most {limit_s:g} s",
        )
        return
    until = draft.now + for_s
    draft.change(hold=Hold(until, command.actor, command.reason))
    draft.record(HoldSet(until, command.actor, command.reason))
    liveness.hold_began(draft)
    settle(draft, command, Outcome.DONE, f"involuntary kills are held for {for_s:g} s")


def _release(draft: Draft, command: Command) -> None:
    if draft.state.hold is None:
        settle(draft, command, Outcome.ALREADY_SATISFIED, "nothing is held")
        return
    settle(draft, command, Outcome.DONE, "involuntary kills are possible again")
    end_hold(draft, command.actor, command.reason)


def end_hold(draft: Draft, actor: str, reason: str) -> None:
    """Kills are no longer suspended, by order or because the time is over."""
    draft.change(hold=None)
    draft.record(HoldSet(None, actor, reason))
    liveness.hold_ended(draft)


def _clear(draft: Draft, command: Command) -> None:
    failures = draft.state.worker.failures
    worker_life.forget_failures(draft)
    if draft.state.worker.stage is Stage.BACKOFF:
        worker_life.retry(draft)
    settle(draft, command, Outcome.DONE, f"{failures} failure(s) forgotten")


def _collect_evidence(draft: Draft, command: Command) -> None:
    incarnation = draft.state.incarnation
    if incarnation is None or draft.state.worker.stage not in {Stage.STARTING, Stage.READY}:
        settle(draft, command, Outcome.REJECTED, "no worker lives to collect evidence of")
        return
    _expect_answer(draft, command, draft.config.evidence_command_timeout_s)
    draft.act(
        CollectEvidence(incarnation, f"ordered by {command.actor}", post_mortem=False, command_id=command.id)
    )


def _expect_answer(draft: Draft, command: Command, timeout_s: float) -> None:
    ledger = draft.state.ledger
    pending = tuple(
        replace(one, deadline=draft.now + timeout_s) if one.command.id == command.id else one
        for one in ledger.pending
    )
    draft.change(ledger=replace(ledger, pending=pending))


def answer_overdue(draft: Draft, entry: Pending) -> None:
    """What a command waited for did not come."""
    settle(
        draft, entry.command, Outcome.FAILED, "no answer in time; the helper may hang on a dead file system"
    )


def evidence_collected(draft: Draft, event: EvidenceCollected) -> None:
    """Recorded; the rung that waited for it is over, the command that asked for it is done."""
    draft.record(EvidenceSaved(event.incarnation, event.bundle, event.message))
    entry = draft.state.ledger.find_pending(event.command_id) if event.command_id else None
    if entry is not None and event.bundle:
        settle(draft, entry.command, Outcome.DONE, event.bundle)
    elif entry is not None:
        settle(draft, entry.command, Outcome.FAILED, event.message)


def acknowledged(draft: Draft, event: OutcomeAcknowledged) -> None:
    """The server has the outcome."""
    known = draft.state.ledger.find_finished(event.command_id)
    if known is not None and not known.acknowledged:
        draft.record(OutcomeDelivered(event.command_id))
        draft.change(ledger=draft.state.ledger.with_acknowledged(event.command_id))


def reloaded(draft: Draft, event: ConfigReloaded) -> None:
    """What could be applied is in force; what needs a restart is named in a condition."""
    stale = ", ".join(event.needs_restart)
    if stale:
        draft.set_condition(
            ConditionType.SETTINGS_STALE, "NeedRestart", f"not applied before a restart: {stale}"
        )
    else:
        draft.clear_condition(ConditionType.SETTINGS_STALE, "Applied")
    entry = draft.state.ledger.find_pending(event.command_id) if event.command_id else None
    if entry is not None:
        applied = ", ".join(event.applied) or "nothing"
        detail = f"applied: {applied}" + (f"; needs a restart: {stale}" if stale else "")
        settle(draft, entry.command, Outcome.DONE, detail)


def reload_refused(draft: Draft, event: ConfigRejected) -> None:
    """The old settings stay; the reason is a condition and, if ordered, the outcome."""
    draft.set_condition(ConditionType.SETTINGS_STALE, "Refused", event.message)
    entry = draft.state.ledger.find_pending(event.command_id) if event.command_id else None
    if entry is not None:
        settle(draft, entry.command, Outcome.FAILED, event.message)
