"""The rules that hold in every reachable state and step, as predicates.

Checked by exhaustive exploration and property tests after each step; ``cheap`` also in production, where a
violation is recorded and shouted, and never ends the supervisor. Rule numbers are those of ARCHITECTURE.md:
1 no dark node, 2 nobody's goodbye is believed, 3 one owner, 4 one outcome, 5 the hundredth as the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanny.core import events as e
from nanny.core.actions import ReleaseWorker, ReportOutcome, SpawnWorker
from nanny.core.child import Stage
from nanny.core.config import HeartbeatMode
from nanny.core.policy import next_deadline
from nanny.core.records import CommandAccepted, CommandFinished, Desired, DesiredSet, IncarnationStarted
from nanny.core.recovery_ladder import RUNGS
from nanny.core.state import Then
from nanny.core.worker_life import ORDERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Step
    from nanny.core.state import NannyState
    from nanny.protocol.incarnation import Incarnation


def cheap(state: NannyState, config: PolicyConfig) -> list[str]:
    """Violations that show in a state alone; a few comparisons."""
    return [*_state_rules(state, config), *_ledger_rules(state)]


def violations(before: NannyState, event: e.Event, step: Step, now: float, config: PolicyConfig) -> list[str]:
    """Violations of every rule by one step."""
    return [
        *_state_rules(step.state, config),
        *_ledger_rules(step.state),
        *_intent_rules(before, event, step),
        *_identity_rules(before, event, step),
        *_command_rules(before, event, step),
        *_failure_rules(before, step, now, config),
        *_deadline_rules(event, step, now, config),
    ]


def _state_rules(state: NannyState, config: PolicyConfig) -> Iterator[str]:
    worker, stopping = state.worker, state.stopping
    wanted = state.then is Then.RESTART
    if wanted and worker.stage is Stage.ABSENT and state.incarnation is not None:
        yield "rule 1: up is wanted, no worker lives, and nothing is pending"
    if worker.stage is Stage.BACKOFF and not wanted:
        yield "rule 1: a retry is pending although no worker is wanted"
    if stopping is None and worker.deadline is None:
        if worker.stage not in {Stage.ABSENT, Stage.READY}:
            yield f"rule 1: {worker.stage} without a deadline of its own"
        watched = config.worker.mode is HeartbeatMode.WATCHDOG or state.vitals.leaving
        if worker.stage is Stage.READY and watched and state.vitals.suspicion is None:
            yield "rule 1: nobody would notice that the worker falls silent"
    if stopping is not None and worker.stage not in {Stage.STARTING, Stage.READY}:
        yield f"rule 3: stopping a worker that is {worker.stage}"
    if worker.is_live:
        if state.incarnation is None:
            yield "rule 3: a worker without an incarnation"
        elif state.incarnation in state.fenced:
            yield "rule 3: a fenced worker owns the node"


def _ledger_rules(state: NannyState) -> Iterator[str]:
    ledger = state.ledger
    if not ledger.pending and not ledger.finished:
        return
    pending = {entry.command.id for entry in ledger.pending}
    finished = {entry.command_id for entry in ledger.finished}
    if pending & finished or len(finished) != len(ledger.finished) or len(pending) != len(ledger.pending):
        yield "rule 4: a command is in the ledger twice"
    up, ready = state.intent.desired is Desired.UP, state.worker.stage is Stage.READY and not state.stopping
    for entry in ledger.pending:
        command = entry.command
        match command.kind:
            case e.CommandKind.STOP:
                stuck = up or not (state.worker.is_live or state.is_shutting_down)
            case e.CommandKind.START:
                stuck = not up or ready
            case e.CommandKind.RESTART:
                stuck = not up or (ready and command.target != state.incarnation)
            case _:
                stuck = entry.deadline is None
        if stuck:
            yield f"rule 4: nothing will ever end the pending {command.kind}"


def _intent_rules(before: NannyState, event: e.Event, step: Step) -> Iterator[str]:
    if before.intent.desired is step.state.intent.desired:
        return
    match event:
        case e.CommandReceived(command):
            ordered = command.kind in {e.CommandKind.STOP, e.CommandKind.START}
        case e.NannyStarted():
            ordered = bool(before.ledger.pending)
        case _:
            ordered = False
    if not ordered:
        yield f"rule 2: {type(event).__name__} changed the desired state"
    if not any(isinstance(record, DesiredSet) for record in step.records):
        yield "rule 2: the desired state changed without a record"


def _identity_rules(before: NannyState, event: e.Event, step: Step) -> Iterator[str]:
    spawned = [action.incarnation for action in step.actions if isinstance(action, SpawnWorker)]
    released = [action.incarnation for action in step.actions if isinstance(action, ReleaseWorker)]
    if released:
        begun = [record.incarnation for record in step.records if isinstance(record, IncarnationStarted)]
        if released != [step.state.incarnation] or begun != released:
            yield "rule 3: a worker was released that is not on record as the owner of the node"
    if any(one not in step.state.fenced for one in before.fenced) and not isinstance(event, e.WorkerExited):
        yield "rule 3: a fenced worker was let in again while it lives"
    if not spawned:
        return
    if len(spawned) > 1:
        yield "rule 3: two workers spawned in one step"
    yield from _number_rules(before, spawned[0], step.state)
    owner_lived = before.worker.stage in {Stage.STARTING, Stage.READY}
    owner_ended = isinstance(event, e.WorkerExited) and event.incarnation == before.incarnation
    if owner_lived and not owner_ended and before.incarnation not in step.state.fenced:
        yield "rule 3: a successor was spawned while the owner lives and is not fenced"


def _number_rules(before: NannyState, spawned: Incarnation, state: NannyState) -> Iterator[str]:
    if spawned.epoch == before.epoch:
        if spawned.number < before.next_number:
            yield "rule 3: an incarnation was used twice"
        if spawned.epoch != before.spare_epoch and spawned.number > state.reserving_until:
            yield "rule 3: an incarnation was used that nobody reserved"
        unsure = before.journal_degraded and spawned.number > before.reserved_until
        if unsure and spawned.epoch != before.spare_epoch:
            yield "rule 3: an incarnation was used that another nanny could use again"
    elif spawned.epoch != before.spare_epoch:
        yield "rule 3: an incarnation of a strange epoch"


def _command_rules(before: NannyState, event: e.Event, step: Step) -> Iterator[str]:
    if isinstance(event, e.CommandReceived):
        command_id = event.command.id
        if before.ledger.knows(command_id):
            if step.state is not before or step.records or len(step.actions) != 1:
                yield "rule 4: a repeated command had an effect"
        elif not step.state.ledger.knows(command_id) and not step.actions:
            yield "rule 4: a command was dropped without an answer"
    if step.state.ledger is before.ledger:
        return
    known = {entry.command_id: entry for entry in before.ledger.finished}
    for entry in step.state.ledger.finished:
        earlier = known.get(entry.command_id)
        if earlier is not None and (earlier.outcome, earlier.detail) != (entry.outcome, entry.detail):
            yield "rule 4: an outcome changed"
    kept = {entry.command_id for entry in step.state.ledger.finished}
    if any(not entry.acknowledged and entry.command_id not in kept for entry in before.ledger.finished):
        yield "rule 4: an outcome was forgotten that nobody has acknowledged"
    newly = kept - set(known)
    recorded = [record.command_id for record in step.records if isinstance(record, CommandFinished)]
    if sorted(recorded) != sorted(newly):
        yield "rule 4: outcomes and their records differ"
    reported = [action.command_id for action in step.actions if isinstance(action, ReportOutcome)]
    if sorted(reported) != sorted(newly):
        yield "rule 4: outcomes and what is reported of them differ"
    was_pending = {entry.command.id for entry in before.ledger.pending}
    is_pending = {entry.command.id for entry in step.state.ledger.pending}
    if was_pending - is_pending - newly:
        yield "rule 4: a pending command vanished"
    accepted = {record.command.id for record in step.records if isinstance(record, CommandAccepted)}
    if is_pending - was_pending - accepted:
        yield "rule 4: a command was accepted without a record"


def _failure_rules(before: NannyState, step: Step, now: float, config: PolicyConfig) -> Iterator[str]:
    """Rule 5: the second, third and hundredth failure are handled like the first."""
    begun, after = step.state.stopping, step.state.worker
    was_born = before.stopping is None and before.worker.stage is not Stage.SPAWNING
    if begun is not None and was_born and (begun.rung, *begun.remaining) != RUNGS[begun.reason]:
        yield f"rule 5: failure {after.failures + 1} goes down another ladder"
    if not before.worker.is_live or after.stage in {Stage.STARTING, Stage.READY}:
        return
    if step.state.then is not Then.RESTART or step.state is before:
        return
    latest = now + max(config.worker.backoff_ceiling_s, config.worker.spawn_timeout_s)
    if after.deadline is None or after.deadline > latest:
        yield f"rule 5: after failure {after.failures} the next try is later than the ceiling, or never"
    ordered = before.stopping is not None and before.stopping.reason in ORDERED
    if ordered and after.stage is Stage.BACKOFF:
        yield "rule 5: an ordered restart waits out a backoff"


def _deadline_rules(event: e.Event, step: Step, now: float, config: PolicyConfig) -> Iterator[str]:
    if not isinstance(event, e.TimePassed):
        return
    deadline = next_deadline(step.state, config)
    if deadline is not None and deadline <= now:
        yield f"a deadline {now - deadline} s in the past was not acted on: the shell would spin"
