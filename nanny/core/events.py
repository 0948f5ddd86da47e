"""What happened, in the past tense: the only way in which anything reaches the decisions.

Each class is one fact that a shell observed. None carries a clock reading of its own: ``step`` is given
*now*. Events that concern one life of the worker name its incarnation; stale ones are dropped at the head
of ``step``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation


class CommandKind(StrEnum):
    """What may be ordered, by the server through link or by a local operator."""

    RESTART = "restart"
    STOP = "stop"
    START = "start"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    HOLD = "hold"
    RELEASE = "release"
    CLEAR = "clear"
    COLLECT_EVIDENCE = "collect-evidence"
    RELOAD = "reload"


class Source(StrEnum):
    """Through which door a command came; the server's are under a budget and an allow-list."""

    SERVER = "server"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Command:
    """An order with an identity."""

    id: str
    kind: CommandKind
    time_to_live_s: float
    """Left when it reached the nanny; link has subtracted its own holding time."""
    reason: str
    actor: str
    source: Source
    target: Incarnation | None = None
    """For restart: the life it is aimed at; None aims at whatever lives now."""
    for_s: float | None = None
    """For hold: how long."""


@dataclass(frozen=True, slots=True)
class NannyStarted:
    """The shell is ready to act; the state is the one that ``startup.recover`` made."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may have been reached; every ready socket and pidfd was drained before."""


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The nanny itself is to end (SIGTERM). The desired state stays what it is."""


@dataclass(frozen=True, slots=True)
class WorkerParked:
    """A child was born and waits at the gate; nothing of the program has run."""

    incarnation: Incarnation
    pid: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No child could be made, or the released child could not execute the program."""

    incarnation: Incarnation
    message: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The pidfd of the worker's main process became readable."""

    incarnation: Incarnation
    status: str
    """For people: "exit code 1", "SIGKILL", "unknown"."""


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """A notify datagram from the worker, already parsed and attributed to its sender."""

    incarnation: Incarnation
    watchdog: bool = True
    """Whether it is a proof of life (WATCHDOG=1) and not only a STATUS= or the like."""
    ready: bool = False
    stopping: bool = False
    trigger: bool = False
    loop_lag_s: float | None = None
    overdue: tuple[str, ...] = ()
    """Critical progress points past their deadline."""
    expected_s: float = 0.0
    """Announced known-long work: seconds left of it."""
    stalled_at: str = ""
    extend_s: float = 0.0
    stuck_probes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerExamined:
    """What the kernel says about a worker under suspicion; the answer to ``ExamineWorker``."""

    incarnation: Incarnation
    process_state: str
    """The letter of proc_pid_stat(5); "?" when it could not be read."""
    traced: bool = False
    runqueue_wait_s: float = 0.0
    """How long its vitals thread waited for a processor during the silence."""
    throttled_s: float = 0.0
    """How long its cgroup was throttled or stalled on memory during the silence."""


@dataclass(frozen=True, slots=True)
class MemoryMeasured:
    """Resident memory of the worker's main process."""

    incarnation: Incarnation
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class EvidenceCollected:
    """The evidence helper ended, with a bundle or with the reason why there is none."""

    incarnation: Incarnation
    bundle: str
    """Name of the bundle; empty when none could be made."""
    message: str = ""
    command_id: str = ""
    """The command that asked for it, if one did."""


@dataclass(frozen=True, slots=True)
class ResidueObserved:
    """Processes of dead workers that cannot be reaped (D state), counted over all incarnations."""

    count: int


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A command reached the nanny's control socket."""

    command: Command


@dataclass(frozen=True, slots=True)
class OutcomeAcknowledged:
    """The server has the outcome of a command; the ledger may forget it in time."""

    command_id: str


@dataclass(frozen=True, slots=True)
class ConfigReloaded:
    """New settings were read and are in force as far as they can be."""

    applied: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """New settings were read and refused; the old ones stay."""

    message: str
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class NumbersConfirmed:
    """A reservation of incarnation numbers is durable."""

    epoch: str
    until: int


@dataclass(frozen=True, slots=True)
class JournalDegraded:
    """Records are no longer made durable; supervision goes on."""

    message: str


@dataclass(frozen=True, slots=True)
class JournalRecovered:
    """Records are durable again, those of the meantime included."""

    spare_epoch: str
    """Freshly minted, for the next time that numbers run out."""


@dataclass(frozen=True, slots=True)
class NannyWasLate:
    """The nanny's own timer fired late: the node was starved, silence proves nothing."""

    late_s: float


@dataclass(frozen=True, slots=True)
class NodeResumed:
    """CLOCK_BOOTTIME ran ahead of CLOCK_MONOTONIC: the node was suspended."""

    away_s: float


@dataclass(frozen=True, slots=True)
class HealthSocketLost:
    """The nanny holds no listening socket for /healthz."""

    message: str


@dataclass(frozen=True, slots=True)
class HealthSocketRestored:
    """The listening socket is there again."""


@dataclass(frozen=True, slots=True)
class LinkSpawned:
    """The link process was born."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class LinkSpawnFailed:
    """The link process could not be made."""

    number: int
    message: str


@dataclass(frozen=True, slots=True)
class LinkBeat:
    """A notify datagram from link."""

    number: int
    ready: bool = False


@dataclass(frozen=True, slots=True)
class LinkExited:
    """Link's pidfd became readable."""

    number: int
    status: str


WorkerEvent = WorkerParked | SpawnFailed | WorkerExited | HeartbeatReceived | WorkerExamined | MemoryMeasured
LinkEvent = LinkSpawned | LinkSpawnFailed | LinkBeat | LinkExited
Event = (
    NannyStarted
    | TimePassed
    | ShutdownRequested
    | WorkerEvent
    | EvidenceCollected
    | ResidueObserved
    | CommandReceived
    | OutcomeAcknowledged
    | ConfigReloaded
    | ConfigRejected
    | NumbersConfirmed
    | JournalDegraded
    | JournalRecovered
    | NannyWasLate
    | NodeResumed
    | HealthSocketLost
    | HealthSocketRestored
    | LinkEvent
)
