"""The nanny's whole mind as one immutable value, and the phase that is read off it.

Desired and observed are different fields with different writers. The phase is not stored: it follows from
the rest, so it cannot contradict it. Holds no clock; instants are monotonic seconds given by the shell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from nanny.core.child import Child, Stage
from nanny.core.command_ledger import Ledger
from nanny.core.records import Desired

if TYPE_CHECKING:
    from nanny.core.actions import Signal
    from nanny.protocol.incarnation import Incarnation


class Phase(StrEnum):
    """The named positions of the machine."""

    DOWN = "down"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a worker was, or is being, ended."""

    STALLED = "stalled"
    LOST = "lost"
    TRIGGERED = "watchdog-trigger"
    START_TIMEOUT = "start-timeout"
    EXIT_OVERDUE = "exit-overdue"
    EXITED = "exited"
    SPAWN_FAILED = "spawn-failed"
    MEMORY_LIMIT = "memory-limit"
    RESTART_ORDERED = "restart-ordered"
    STOP_ORDERED = "stop-ordered"
    SHUTDOWN = "nanny-shutdown"


class Then(StrEnum):
    """What follows a stop."""

    RESTART = "restart"
    DOWN = "down"
    EXIT = "exit"


class Rung(StrEnum):
    """One step of the ladder down which a worker is ended."""

    EVIDENCE = "evidence"
    TERMINATE = "terminate"
    ABORT = "abort"
    KILL = "kill"


class SuspicionKind(StrEnum):
    """What a worker is suspected of while the kernel is asked."""

    LOST = "lost"
    STALLED = "stalled"


class ConditionType(StrEnum):
    """Lasting facts that the nanny knows of itself, its worker and its node."""

    CRASH_LOOPING = "CrashLooping"
    GPU_DRIVER_UNRESPONSIVE = "GpuDriverUnresponsive"
    HEALTH_SOCKET_LOST = "HealthSocketLost"
    JOURNAL_DEGRADED = "JournalDegraded"
    KILLS_HELD = "KillsHeld"
    LINK_FAILING = "LinkFailing"
    NODE_STARVED = "NodeStarved"
    PROBE_RESIDUE = "ProbeResidue"
    SETTINGS_STALE = "SettingsStale"
    WORKER_UNKILLABLE = "WorkerUnkillable"


@dataclass(frozen=True, slots=True)
class Condition:
    """A lasting fact that holds now; absent means that it does not."""

    type: ConditionType
    reason: str
    message: str
    since: float


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted of the worker, and who said so."""

    desired: Desired = Desired.UP
    actor: str = "default"
    reason: str = "never set"
    since: float | None = None
    """None: set before this boot."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Involuntary kills are suspended."""

    until: float
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The kernel is being asked, or more time was given, before a verdict."""

    kind: SuspicionKind
    since: float
    """When the silence or the stall began."""
    deadline: float
    """When to judge (again)."""
    asked: bool
    """Whether an answer of the kernel is awaited; else it is asked at the deadline."""
    extended_s: float = 0.0
    """Given for starvation in this episode."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is known of the living worker's inside."""

    loop_lag_s: float = 0.0
    overdue: tuple[str, ...] = ()
    stalled_at: str = ""
    warned: bool = False
    """The stack was captured for the lag that now is."""
    expect_used_s: float = 0.0
    suspicion: Suspicion | None = None
    triggered: bool = False
    """It said WATCHDOG=trigger while kills were held."""
    leaving: bool = False
    """It said STOPPING=1: its deadline is now the one for its exit."""
    granted_s: float = 0.0
    """Given since the last beat because the nanny or the node was away."""

    @property
    def troubled(self) -> bool:
        """Whether something is wrong, though nothing is decided yet."""
        return self.warned or self.triggered or self.leaving or self.suspicion is not None


@dataclass(frozen=True, slots=True)
class Stopping:
    """The worker is on its way down the ladder."""

    reason: Reason
    detail: str
    since: float
    rung: Rung
    remaining: tuple[Rung, ...]
    deadline: float


@dataclass(frozen=True, slots=True)
class LastRestart:
    """The latest end of a worker that was followed by another."""

    reason: Reason
    detail: str
    at: float
    before: Incarnation


@dataclass(frozen=True, slots=True)
class Spending:
    """What the server has used of the nanny's own budget; monotonic instants, oldest first."""

    restarts: tuple[float, ...] = ()
    commands: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class NannyState:
    """All that decisions depend on."""

    epoch: str
    spare_epoch: str
    """Used when numbers run out while the journal is degraded; never journaled before it has recovered."""
    intent: Intent = field(default_factory=Intent)
    draining: bool = False
    hold: Hold | None = None
    next_number: int = 1
    reserved_until: int = 0
    """Numbers up to this one are durable as possibly used."""
    reserving_until: int = 0
    """A reservation up to this one is on its way to the journal. Invariant: >= reserved_until."""
    incarnation: Incarnation | None = None
    """The life that owns the node's identity; kept after its death until the next one."""
    worker: Child = field(default_factory=Child)
    vitals: Vitals = field(default_factory=Vitals)
    stopping: Stopping | None = None
    fenced: tuple[Incarnation, ...] = ()
    """Lives that would not die and still might."""
    last_restart: LastRestart | None = None
    is_crash_looping: bool = False
    is_shutting_down: bool = False
    journal_degraded: bool = False
    is_forgetful: bool = False
    """Begun without a journal in a boot of which /run knows nothing: which orders were taken before, is not known."""
    ledger: Ledger = field(default_factory=Ledger)
    spending: Spending = field(default_factory=Spending)
    conditions: tuple[Condition, ...] = ()
    """Sorted by type; one of each at most."""
    link: Child = field(default_factory=Child)
    link_number: int = 0
    link_signal: Signal | None = None
    """The last signal sent to end link."""

    @property
    def phase(self) -> Phase:
        """Where the machine is."""
        if self.stopping is not None:
            return Phase.STOPPING
        match self.worker.stage:
            case Stage.ABSENT:
                return Phase.DOWN
            case Stage.SPAWNING | Stage.STARTING:
                return Phase.STARTING
            case Stage.BACKOFF:
                return Phase.FAILED if self.is_crash_looping else Phase.BACKOFF
            case Stage.READY:
                return Phase.DEGRADED if self.vitals.troubled else Phase.RUNNING

    @property
    def then(self) -> Then:
        """What follows the end of a worker: only the nanny's own intent decides, never how it ended."""
        if self.is_shutting_down:
            return Then.EXIT
        return Then.DOWN if self.intent.desired is Desired.DOWN else Then.RESTART

    def condition(self, type_: ConditionType) -> Condition | None:
        """The condition of this type, if it holds."""
        return next((one for one in self.conditions if one.type is type_), None)

    def changed(self, fields: dict[str, Any]) -> NannyState:
        """This state with some fields replaced; as ``dataclasses.replace``, in half its time."""
        return NannyState(**{**dict(zip(_NAMES, _values_of(self), strict=True)), **fields})


_NAMES: Final = tuple(field.name for field in fields(NannyState))
_values_of: Final = attrgetter(*_NAMES)
