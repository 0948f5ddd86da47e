"""What may happen next, seen from twelve sides; each side is explored exhaustively, their product is not.

births        spawned, parked, ready, silent, gone, fenced, in backoff up to the crash loop; stale and late births too.
busy          one life: beats of every kind, stalls, announced long work, STOPPING=1, extensions, evidence.
starving      one life: every answer of the kernel to silence and stall, late timers of the nanny, evidence.
held          one life: involuntary kills of every kind, held, released, called off; memory, trigger.
orders        restart at the past, the present, the future, too late; stop, start, shutdown; two at a time.
patience      restart, stop, start, clear against backoff and crash loop.
repeats       the same ids again, in flight, done, acknowledged: the ledger remembers.
questions     orders that wait for an answer (evidence) beside restart, stop, shutdown.
small orders  drain, hold, release, reload with its answers, clear; journal degraded or not; suspend.
journal       numbers and epochs: degraded, recovered, confirmed late or never; births, fences, restart, shutdown.
              Blocks of two numbers instead of 64.
link          link's life beside a worker without beats; stale link events, late timers, shutdown.
facts         health socket, residue, late timers, suspend: told at any time, even before the first decision.

In ``orders`` to ``questions`` and ``journal`` the worker only says READY=1. Times are whole seconds and jitter is off,
so that relative times are finite. Time stands still, goes to one second before the next deadline, or to it; whatever
comes at that instant comes before ``TimePassed``, as in the shell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nanny.core import events as e
from nanny.core.child import Stage
from nanny.core.command_ledger import Ledger
from nanny.core.config import ChildTiming, HeartbeatMode, PolicyConfig
from nanny.core.events import Command, CommandKind, Source
from nanny.core.policy import next_deadline
from nanny.core.state import NannyState, Spending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nanny.protocol.incarnation import Incarnation
    from tests.exploration.explorer import Prune, Stimuli, Stimulus

TIMING = ChildTiming(
    spawn_timeout_s=1,
    start_timeout_s=2,
    extend_limit_s=1,
    heartbeat_interval_s=1,
    heartbeat_timeout_s=2,
    stop_grace_s=1,
    unkillable_timeout_s=1,
    backoff_initial_s=1,
    backoff_factor=2,
    backoff_ceiling_s=2,
    stable_after_s=3,
    crash_loop_after=3,
)
CONFIG = PolicyConfig(
    worker=TIMING,
    stall_warn_s=1,
    stall_timeout_s=2,
    expect_limit_s=1,
    evidence_timeout_s=1,
    abort_grace_s=1,
    examine_timeout_s=1,
    starvation_limit_s=1,
    memory_limit_bytes=1000,
    reload_timeout_s=1,
    evidence_command_timeout_s=1,
    server_restarts_per_hour=1_000_000,
    server_commands_per_hour=1_000_000,
)
WITH_LINK = replace(
    CONFIG, link=replace(TIMING, crash_loop_after=2), worker=replace(TIMING, mode=HeartbeatMode.NONE)
)


@dataclass(frozen=True, slots=True)
class Projection:
    """One side from which to look."""

    stimuli: Stimuli
    config: PolicyConfig = CONFIG
    prune: Prune = lambda state: state
    numbers: bool = False


def quick(config: PolicyConfig) -> PolicyConfig:
    """For sides on which beats do not matter: fewer failures to tell apart, and none forgotten late."""
    timing = replace(config.worker, mode=HeartbeatMode.READY, stable_after_s=1, crash_loop_after=2)
    return replace(config, worker=timing)


def command(kind: CommandKind, target: Incarnation | None = None, name: str = "") -> Command:
    """A command of the server; the same name is the same id."""
    for_s = 1.0 if kind is CommandKind.HOLD else None
    return Command(name or str(kind), kind, 60.0, "because", "server", Source.SERVER, target, for_s)


def forget_finished(state: NannyState) -> NannyState:
    """As if acknowledged long ago and pushed out, so that ids are new again; the budget has no end here."""
    return replace(state, ledger=Ledger(state.ledger.pending, ()), spending=Spending())


def keep_finished(state: NannyState) -> NannyState:
    """The ledger remembers: the second time, an id is a repeat."""
    return replace(state, spending=Spending())


def stay_young(state: NannyState) -> NannyState:
    """Failures do not add up."""
    return replace(state, worker=replace(state.worker, failures=0), is_crash_looping=False)


def _in_time(events: Callable[[NannyState, float], Iterator[e.Event]]) -> Stimuli:
    def stimuli(state: NannyState, now: float, config: PolicyConfig) -> Iterator[Stimulus]:
        deadline = next_deadline(state, config)
        if deadline is not None and deadline > now:
            yield None, deadline
            if deadline - 1 > now:
                yield None, deadline - 1
        yield e.TimePassed(), now
        for event in events(state, now):
            yield event, now

    return stimuli


def _births(state: NannyState, now: float) -> Iterator[e.Event]:
    current = state.incarnation
    if current is None:
        yield e.NannyStarted()
        return
    if state.worker.stage in {Stage.SPAWNING, Stage.BACKOFF}:
        yield e.WorkerParked(current, 7, 7)
        yield e.SpawnFailed(current, "no memory")
        yield e.WorkerExited(current, "exit code 0")
    elif state.worker.stage is not Stage.ABSENT:
        yield e.WorkerExited(current, "exit code 0")
        yield e.SpawnFailed(current, "no such file")
    before = replace(current, number=current.number - 1)
    yield e.WorkerParked(before, 6, 6)
    for fenced in state.fenced[-1:]:
        yield e.WorkerExited(fenced, "SIGKILL")


def _starving(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    current = state.incarnation
    if current is None:
        return
    beat = e.HeartbeatReceived(current)
    yield beat
    yield replace(beat, ready=True)
    yield replace(beat, loop_lag_s=1.5)
    yield replace(beat, loop_lag_s=3.0)
    yield from _answers(state, now)
    yield e.EvidenceCollected(current, "bundle")
    yield e.EvidenceCollected(replace(current, number=0), "bundle")
    yield e.NannyWasLate(2.0)


def _busy(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    current = state.incarnation
    if current is None:
        return
    beat = e.HeartbeatReceived(current)
    yield beat
    yield replace(beat, ready=True)
    yield replace(beat, watchdog=False)
    yield replace(beat, stopping=True)
    yield replace(beat, watchdog=False, stopping=True)
    yield replace(beat, extend_s=5.0)
    yield replace(beat, loop_lag_s=3.0)
    yield replace(beat, loop_lag_s=3.0, expected_s=60.0)
    yield replace(beat, incarnation=replace(current, number=current.number - 1), stopping=True)
    yield e.WorkerExamined(current, "S")
    yield e.EvidenceCollected(current, "bundle")


def _answers(state: NannyState, now: float) -> Iterator[e.Event]:
    current, suspicion = state.incarnation, state.vitals.suspicion
    assert current is not None
    yield e.WorkerExamined(current, "S")
    if suspicion is not None:
        yield e.WorkerExamined(current, "t", traced=True)
        yield e.WorkerExamined(current, "R", runqueue_wait_s=now - suspicion.since)
        yield e.WorkerExamined(current, "D")


def _held(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    current = state.incarnation
    if current is None:
        return
    beat = e.HeartbeatReceived(current)
    yield beat
    yield replace(beat, ready=True)
    yield replace(beat, stopping=True)
    yield replace(beat, trigger=True)
    yield replace(beat, overdue=("reconcile",))
    yield e.WorkerExamined(current, "S")
    yield e.MemoryMeasured(current, 2000)
    yield e.EvidenceCollected(current, "bundle")
    yield e.CommandReceived(command(CommandKind.HOLD))
    yield e.CommandReceived(command(CommandKind.RELEASE))


def _births_and_silences(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    if state.incarnation is not None:
        yield e.HeartbeatReceived(state.incarnation)
        yield e.HeartbeatReceived(state.incarnation, ready=True)


def _simple_worker(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    current = state.incarnation
    if current is None:
        return
    yield e.HeartbeatReceived(current, ready=True)
    yield e.HeartbeatReceived(current, overdue=("reconcile",))
    yield e.EvidenceCollected(current, "bundle")


def _orders(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _simple_worker(state, now)
    yield e.ShutdownRequested()
    current = state.incarnation
    if current is None:
        return
    past, future = (replace(current, number=current.number + by) for by in (-1, 1))
    yield e.CommandReceived(command(CommandKind.RESTART, current))
    yield e.CommandReceived(command(CommandKind.RESTART, name="restart whatever lives"))
    yield e.CommandReceived(command(CommandKind.RESTART, past, "restart the past"))
    yield e.CommandReceived(command(CommandKind.RESTART, future, "restart the future"))
    yield e.CommandReceived(replace(command(CommandKind.RESTART, current, "too late"), time_to_live_s=-1.0))
    for kind in (CommandKind.STOP, CommandKind.START):
        yield e.CommandReceived(command(kind))


def _patience(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _simple_worker(state, now)
    if state.incarnation is None:
        return
    for kind in (CommandKind.RESTART, CommandKind.STOP, CommandKind.START, CommandKind.CLEAR):
        yield e.CommandReceived(command(kind))


def _questions(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _simple_worker(state, now)
    current = state.incarnation
    if current is None:
        return
    yield e.ShutdownRequested()
    for kind in (CommandKind.RESTART, CommandKind.STOP, CommandKind.COLLECT_EVIDENCE):
        yield e.CommandReceived(command(kind))
    yield e.EvidenceCollected(current, "bundle", command_id="collect-evidence")
    yield e.EvidenceCollected(current, "", "disk full", command_id="collect-evidence")


def _repeats(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    current = state.incarnation
    if current is None:
        return
    yield e.HeartbeatReceived(current, ready=True)
    for kind in (CommandKind.RESTART, CommandKind.STOP, CommandKind.START):
        yield e.CommandReceived(command(kind))
    yield e.OutcomeAcknowledged("stop")


def _small_orders(state: NannyState, now: float) -> Iterator[e.Event]:
    current = state.incarnation
    if current is None:
        yield e.NannyStarted()
        return
    for kind in (
        CommandKind.DRAIN,
        CommandKind.UNDRAIN,
        CommandKind.HOLD,
        CommandKind.RELEASE,
        CommandKind.RELOAD,
        CommandKind.CLEAR,
    ):
        yield e.CommandReceived(command(kind))
    yield e.ConfigReloaded(("stall_warn_s",), ("state_dir",), "reload")
    yield e.ConfigReloaded()
    yield e.ConfigRejected("no such key", "reload")
    yield e.JournalDegraded("no answer")
    yield e.JournalRecovered(f"{state.spare_epoch}+")
    if state.hold is not None and state.hold.until > now:
        yield e.NodeResumed(1.0)


def _facts(state: NannyState, now: float) -> Iterator[e.Event]:
    yield e.NannyStarted()
    yield e.HealthSocketLost("shut down")
    yield e.HealthSocketRestored()
    yield e.ResidueObserved(2)
    yield e.ResidueObserved(0)
    yield e.NannyWasLate(2.0)
    yield e.NodeResumed(1.0)


def _journal(state: NannyState, now: float) -> Iterator[e.Event]:
    yield from _births(state, now)
    yield e.JournalDegraded("no answer")
    if state.journal_degraded:
        yield e.JournalRecovered(f"{state.spare_epoch}+")
    yield e.NumbersConfirmed(state.epoch, state.reserving_until)
    yield e.NumbersConfirmed("0", state.reserving_until + 2)
    current = state.incarnation
    if current is None:
        return
    yield e.HeartbeatReceived(current, ready=True)
    yield e.CommandReceived(command(CommandKind.RESTART, current))
    yield e.ShutdownRequested()


def _link(state: NannyState, now: float) -> Iterator[e.Event]:
    current, number = state.incarnation, state.link_number
    if current is None:
        yield e.NannyStarted()
        return
    yield e.WorkerParked(current, 7, 7)
    if state.stopping is not None:
        yield e.WorkerExited(current, "exit code 0")
    yield e.LinkSpawned(number, 8)
    yield e.LinkSpawned(number - 1, 8)
    yield e.LinkSpawnFailed(number, "no memory")
    yield e.LinkBeat(number, ready=True)
    yield e.LinkExited(number, "exit code 0")
    yield e.LinkExited(number - 1, "exit code 0")
    yield e.NannyWasLate(2.0)
    yield e.ShutdownRequested()


def one_of_each(state: NannyState) -> Iterator[e.Event]:
    """An event of every type but the first decision, aimed at the present life."""
    current, number = state.incarnation, state.link_number
    assert current is not None
    yield from (e.TimePassed(), e.ShutdownRequested(), e.NannyWasLate(2.0), e.NodeResumed(1.0))
    yield from (
        e.WorkerParked(current, 7, 7),
        e.SpawnFailed(current, "no"),
        e.WorkerExited(current, "SIGSEGV"),
    )
    yield from (e.HeartbeatReceived(current), e.WorkerExamined(current, "S"), e.MemoryMeasured(current, 2000))
    yield from (e.EvidenceCollected(current, "bundle"), e.ResidueObserved(1))
    yield from (e.CommandReceived(command(kind)) for kind in CommandKind)
    yield from (e.OutcomeAcknowledged("stop"), e.ConfigReloaded(), e.ConfigRejected("no"))
    yield from (e.JournalDegraded("no answer"), e.JournalRecovered(f"{state.spare_epoch}+"))
    yield e.NumbersConfirmed(state.epoch, state.reserving_until)
    yield from (e.HealthSocketLost("gone"), e.HealthSocketRestored())
    yield from (e.LinkSpawned(number, 8), e.LinkSpawnFailed(number, "no"), e.LinkBeat(number))
    yield e.LinkExited(number, "SIGSEGV")


def _forget_all(state: NannyState) -> NannyState:
    return forget_finished(stay_young(state))


PROJECTIONS: Final = {
    "births": Projection(_in_time(_births_and_silences)),
    "busy": Projection(_in_time(_busy), prune=_forget_all),
    "starving": Projection(_in_time(_starving), prune=_forget_all),
    "held": Projection(_in_time(_held), prune=_forget_all),
    "orders": Projection(_in_time(_orders), quick(CONFIG), _forget_all),
    "patience": Projection(_in_time(_patience), quick(CONFIG), forget_finished),
    "repeats": Projection(_in_time(_repeats), quick(CONFIG), stay_young),
    "questions": Projection(_in_time(_questions), quick(CONFIG), _forget_all),
    "small orders": Projection(_in_time(_small_orders), prune=forget_finished),
    "journal": Projection(_in_time(_journal), quick(CONFIG), _forget_all, numbers=True),
    "link": Projection(_in_time(_link), WITH_LINK),
    "facts": Projection(_in_time(_facts)),
}
