"""``step``: the nanny's one decision function, and the total table of phases and events behind it.

``step(state, event, now, config) -> Step(state, records, actions)`` and ``next_deadline(state, config)``.
No clock, no I/O, no timers, no random source: the same state, event, instant and configuration give the
same step. Every (phase, event) has a decision or an explicit "ignored, because"; the table in
ARCHITECTURE.md is generated from this one. Events of lives that are over are dropped in one place, the head
of ``step``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, get_args

from nanny.core import commands, link_life, liveness, node_events, recovery_ladder, worker_life
from nanny.core import events as e
from nanny.core.actions import Signal, SignalLink
from nanny.core.child import Stage
from nanny.core.draft import Draft, Step
from nanny.core.state import NannyState, Phase, Rung

if TYPE_CHECKING:
    from nanny.core.config import PolicyConfig

Decision = Callable[[Draft, Any], None]
Cell = Decision | str
"""A decision, or the reason why the event is ignored."""

_NO_WORKER = frozenset({Phase.DOWN, Phase.BACKOFF, Phase.FAILED})
_READY = frozenset({Phase.RUNNING, Phase.DEGRADED})
_LIVE = _READY | {Phase.STARTING, Phase.STOPPING}


_DEADLINES_A_STEP: Final = 64
"""More than can be due at once; each act moves or removes its own deadline."""


def _row(*cells: tuple[frozenset[Phase] | set[Phase], Cell]) -> dict[Phase, Cell]:
    row: dict[Phase, Cell] = {}
    for phases, cell in cells:
        for phase in phases:
            assert phase not in row, f"{phase} is decided twice"
            row[phase] = cell
    missing = set(Phase) - set(row)
    assert not missing, f"{missing} is not decided"
    return row


def _always(cell: Cell) -> dict[Phase, Cell]:
    return _row((set(Phase), cell))


def time_passed(draft: Draft, event: e.TimePassed) -> None:  # noqa: ARG001
    """Each deadline that was reached is acted on, earliest first."""
    for _ in range(_DEADLINES_A_STEP):
        due = min(_deadlines(draft.state, draft.config), key=lambda one: one[0], default=None)
        if due is None or due[0] > draft.now:
            return
        due[1](draft)


def evidence_while_stopping(draft: Draft, event: e.EvidenceCollected) -> None:
    """As elsewhere; and the evidence rung is over: the next one."""
    commands.evidence_collected(draft, event)
    stopping = draft.state.stopping
    if (
        stopping is not None
        and stopping.rung is Rung.EVIDENCE
        and not event.command_id
        and event.incarnation == draft.state.incarnation
    ):
        recovery_ladder.advance(draft)


def exec_failed(draft: Draft, event: e.SpawnFailed) -> None:
    """No child: a failure; a child that could not execute the program: its exit follows and says so."""
    if draft.state.worker.stage is Stage.SPAWNING:
        worker_life.spawn_failed(draft, event)


TABLE: Final[dict[type[e.Event], dict[Phase, Cell]]] = {
    e.NannyStarted: _always(node_events.started),
    e.TimePassed: _always(time_passed),
    e.ShutdownRequested: _always(node_events.shutdown_requested),
    e.WorkerParked: _row(
        ({Phase.STARTING}, worker_life.parked),
        (_NO_WORKER, worker_life.abandon),
        (_READY | {Phase.STOPPING}, "it is born already"),
    ),
    e.SpawnFailed: _row(
        ({Phase.STARTING}, exec_failed),
        (set(Phase) - {Phase.STARTING}, "the worker is being ended, or its exit told more already"),
    ),
    e.WorkerExited: _row(
        (_READY | {Phase.STARTING}, worker_life.exited),
        ({Phase.STOPPING}, worker_life.stopped),
        (_NO_WORKER, "its end is known already"),
    ),
    e.HeartbeatReceived: _row(
        ({Phase.STARTING}, liveness.beat_while_starting),
        (_READY, liveness.beat_while_ready),
        ({Phase.STOPPING}, liveness.beat_while_stopping),
        (_NO_WORKER, "a beat that was on its way when its worker ended"),
    ),
    e.WorkerExamined: _row(
        (_READY, liveness.examined),
        (set(Phase) - _READY, "nothing is suspected any more"),
    ),
    e.MemoryMeasured: _row(
        (_READY, liveness.memory_measured),
        (set(Phase) - _READY, "only a worker that is ready is held to its limit"),
    ),
    e.EvidenceCollected: _row(
        ({Phase.STOPPING}, evidence_while_stopping),
        (set(Phase) - {Phase.STOPPING}, commands.evidence_collected),
    ),
    e.ResidueObserved: _always(node_events.residue_observed),
    e.CommandReceived: _always(commands.received),
    e.OutcomeAcknowledged: _always(commands.acknowledged),
    e.ConfigReloaded: _always(commands.reloaded),
    e.ConfigRejected: _always(commands.reload_refused),
    e.NumbersConfirmed: _always(node_events.numbers_confirmed),
    e.JournalDegraded: _always(node_events.journal_degraded),
    e.JournalRecovered: _always(node_events.journal_recovered),
    e.NannyWasLate: _always(node_events.was_late),
    e.NodeResumed: _always(node_events.resumed),
    e.HealthSocketLost: _always(node_events.health_socket_lost),
    e.HealthSocketRestored: _always(node_events.health_socket_restored),
    e.LinkSpawned: _always(link_life.spawned),
    e.LinkSpawnFailed: _always(link_life.spawn_failed),
    e.LinkBeat: _always(link_life.beat),
    e.LinkExited: _always(link_life.exited),
}
"""Event type -> phase -> decision, or why it is ignored. Total over both."""


_OF_ONE_LIFE: Final = frozenset(get_args(e.WorkerEvent) + get_args(e.LinkEvent))


def step(state: NannyState, event: e.Event, now: float, config: PolicyConfig) -> Step:
    """Decide what an event means: the new state, what must be durable first, and what to do then.

    Args:
        state: as the step before left it.
        event: one fact.
        now: monotonic seconds; never less than in the step before.
        config: the numbers in force.
    """
    draft = Draft(state, now, config)
    if type(event) in _OF_ONE_LIFE and _is_stale(draft, event):
        return draft.finish()
    cell = TABLE[type(event)][state.phase]
    if not isinstance(cell, str):
        cell(draft, event)
    return draft.finish()


def _is_stale(draft: Draft, event: e.Event) -> bool:
    """The one place where lives that are over are told from the one that is."""
    state = draft.state
    if isinstance(event, e.LinkEvent):
        if event.number == state.link_number and state.link.is_live:
            return False
        if isinstance(event, e.LinkSpawned):
            draft.act(SignalLink(event.number, Signal.KILL))
        return True
    assert isinstance(event, e.WorkerEvent)
    if isinstance(event, e.WorkerExited) and event.incarnation in state.fenced:
        worker_life.fenced_exited(draft, event)
        return True
    if event.incarnation == state.incarnation:
        return False
    if isinstance(event, e.WorkerParked):
        worker_life.abandon(draft, event)
    return True


def next_deadline(state: NannyState, config: PolicyConfig) -> float | None:
    """The monotonic instant at which ``TimePassed`` is due, or None when nothing is awaited."""
    return min((due for due, _ in _deadlines(state, config)), default=None)


def _deadlines(state: NannyState, config: PolicyConfig) -> list[tuple[float, Callable[[Draft], None]]]:
    """What is awaited until when, and what is done when it has not come."""
    found: list[tuple[float, Callable[[Draft], None]]] = []
    worker, link = state.worker, state.link
    if state.stopping is not None:
        found.append((state.stopping.deadline, recovery_ladder.advance))
    elif worker.deadline is not None:
        found.append((worker.deadline, _WORKER_OVERDUE[worker.stage]))
    suspicion = state.vitals.suspicion
    if state.stopping is None and suspicion is not None:
        found.append((suspicion.deadline, liveness.suspicion_due))
    if worker.stage is Stage.READY and worker.failures and state.stopping is None:
        found.append((worker.since + config.worker.stable_after_s, worker_life.forget_failures))
    if link.deadline is not None:
        found.append((link.deadline, link_life.overdue))
    if link.stage is Stage.READY and link.failures and config.link is not None and state.link_signal is None:
        found.append((link.since + config.link.stable_after_s, link_life.stable))
    if state.hold is not None:
        found.append((state.hold.until, _hold_expired))
    found.extend((one.deadline, _answer_overdue) for one in state.ledger.pending if one.deadline is not None)
    return found


def _worker_unborn(draft: Draft) -> None:
    incarnation = draft.state.incarnation
    assert incarnation is not None
    worker_life.spawn_failed(draft, e.SpawnFailed(incarnation, "it was not born in time"))


_WORKER_OVERDUE: Final[dict[Stage, Callable[[Draft], None]]] = {
    Stage.SPAWNING: _worker_unborn,
    Stage.STARTING: liveness.start_overdue,
    Stage.READY: liveness.ready_overdue,
    Stage.BACKOFF: worker_life.retry,
}


def _hold_expired(draft: Draft) -> None:
    hold = draft.state.hold
    assert hold is not None
    commands.end_hold(draft, hold.actor, "its time is over")


def _answer_overdue(draft: Draft) -> None:
    for entry in draft.state.ledger.pending:
        if entry.deadline is not None and entry.deadline <= draft.now:
            commands.answer_overdue(draft, entry)
