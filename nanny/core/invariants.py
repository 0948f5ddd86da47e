"""The rules that hold in every reachable state and step, as predicates.

Checked by exhaustive exploration and property tests after each step; ``cheap`` also in production, where a
violation is recorded and shouted, and never ends the supervisor. Rule numbers are those of ARCHITECTURE.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanny.core import events as e
from nanny.core.actions import ReleaseWorker, ReportOutcome, SpawnWorker
from nanny.core.child import Stage
from nanny.core.policy import next_deadline
from nanny.core.records import CommandFinished, Desired
from nanny.core.state import Phase
from nanny.core.worker_life import ORDERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Step
    from nanny.core.state import NannyState


def cheap(state: NannyState, config: PolicyConfig) -> list[str]:
    """Violations that show in a state alone; a few comparisons."""
    return list(_state_rules(state, config))


def violations(before: NannyState, event: e.Event, step: Step, now: float, config: PolicyConfig) -> list[str]:
    """Violations of every rule by one step."""
    return [
        *_state_rules(step.state, config),
        *_intent_rules(before, event, step),
        *_identity_rules(before, event, step),
        *_command_rules(before, event, step),
        *_failure_rules(before, event, step, now, config),
        *_deadline_rules(event, step, now, config),
    ]


def _state_rules(state: NannyState, config: PolicyConfig) -> Iterator[str]:
    wanted = state.intent.desired is Desired.UP and not state.is_shutting_down
    if wanted and state.worker.stage is Stage.ABSENT and state.incarnation is not None:
        yield "rule 1: up is wanted, no worker lives, and nothing is pending"
    if state.worker.stage is Stage.BACKOFF and not wanted:
        yield "rule 1: a retry is pending although no worker is wanted"
    if state.worker.stage in {Stage.SPAWNING, Stage.STARTING, Stage.BACKOFF} and state.stopping is None:
        deadline = next_deadline(state, config)
        if state.worker.deadline is None or deadline is None or deadline > state.worker.deadline:
            yield f"rule 1: {state.worker.stage} without a deadline of its own"
    if state.stopping is not None and state.worker.stage not in {Stage.STARTING, Stage.READY}:
        yield f"rule 3: stopping a worker that is {state.worker.stage}"
    if state.phase in {Phase.RUNNING, Phase.DEGRADED} and state.incarnation is None:
        yield "rule 3: a running worker without an incarnation"
    if state.incarnation in state.fenced and state.worker.is_live:
        yield "rule 3: a fenced worker owns the node"
    pending = {entry.command.id for entry in state.ledger.pending}
    finished = [entry.command_id for entry in state.ledger.finished]
    if pending & set(finished) or len(finished) != len(set(finished)):
        yield "rule 4: a command is in the ledger twice"


def _intent_rules(before: NannyState, event: e.Event, step: Step) -> Iterator[str]:
    if before.intent.desired is step.state.intent.desired:
        return
    kinds = {e.CommandKind.STOP, e.CommandKind.START}
    if not isinstance(event, e.CommandReceived) or event.command.kind not in kinds:
        yield f"rule 2: {type(event).__name__} changed the desired state"


def _identity_rules(before: NannyState, event: e.Event, step: Step) -> Iterator[str]:
    spawns = [action for action in step.actions if isinstance(action, SpawnWorker)]
    if len(spawns) > 1:
        yield "rule 3: two workers spawned in one step"
    released = [action for action in step.actions if isinstance(action, ReleaseWorker)]
    if any(action.incarnation != step.state.incarnation for action in released):
        yield "rule 3: a worker was released that does not own the node"
    if not spawns:
        return
    if spawns[0].incarnation == before.incarnation:
        yield "rule 3: an incarnation was used twice"
    owner_lived = before.worker.stage in {Stage.STARTING, Stage.READY}
    owner_ended = isinstance(event, e.WorkerExited) and event.incarnation == before.incarnation
    if owner_lived and not owner_ended and before.incarnation not in step.state.fenced:
        yield "rule 3: a successor was spawned while the owner lives and is not fenced"


def _command_rules(before: NannyState, event: e.Event, step: Step) -> Iterator[str]:
    known = {entry.command_id: entry for entry in before.ledger.finished}
    for entry in step.state.ledger.finished:
        earlier = known.get(entry.command_id)
        if earlier is not None and (earlier.outcome, earlier.detail) != (entry.outcome, entry.detail):
            yield "rule 4: an outcome changed"
    newly = {entry.command_id for entry in step.state.ledger.finished} - set(known)
    recorded = [record.command_id for record in step.records if isinstance(record, CommandFinished)]
    if sorted(recorded) != sorted(newly):
        yield "rule 4: outcomes and their records differ"
    reported = {action.command_id for action in step.actions if isinstance(action, ReportOutcome)}
    if not newly <= reported:
        yield "rule 4: an outcome was not reported"
    was_pending = {entry.command.id for entry in before.ledger.pending}
    now_known = {entry.command.id for entry in step.state.ledger.pending} | newly | set(known)
    if was_pending - now_known:
        yield "rule 4: a pending command vanished"
    if isinstance(event, e.CommandReceived):
        taken = event.command.id in now_known
        if not taken and not step.actions:
            yield "rule 4: a command was dropped without an answer"


def _failure_rules(
    before: NannyState, event: e.Event, step: Step, now: float, config: PolicyConfig
) -> Iterator[str]:
    """Rule 5: the second, third and hundredth failure are handled like the first."""
    if not isinstance(event, e.WorkerExited) or event.incarnation != before.incarnation:
        return
    if not before.worker.is_live or before.is_shutting_down or before.intent.desired is Desired.DOWN:
        return
    after = step.state.worker
    if after.stage not in {Stage.SPAWNING, Stage.BACKOFF} or after.deadline is None:
        yield f"rule 5: after failure {after.failures} the worker is {after.stage}"
        return
    latest = now + max(config.worker.backoff_ceiling_s, config.worker.spawn_timeout_s)
    if after.deadline > latest:
        yield f"rule 5: after failure {after.failures} the next try is later than the ceiling"
    ordered = before.stopping is not None and before.stopping.reason in ORDERED
    if ordered and after.stage is Stage.BACKOFF:
        yield "rule 5: an ordered restart waits out a backoff"


def _deadline_rules(event: e.Event, step: Step, now: float, config: PolicyConfig) -> Iterator[str]:
    deadline = next_deadline(step.state, config)
    if isinstance(event, e.TimePassed) and deadline is not None and deadline <= now:
        yield f"a deadline {now - deadline} s in the past was not acted on: the shell would spin"
