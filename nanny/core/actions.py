"""What to do, in the imperative: the only way in which a decision has an effect.

The shell runs a step's actions after the step's records are durable (or after ``journal_timeout_s``, with
the journal marked degraded), in order, and each action's result comes back as an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanny.core.events import CommandKind
    from nanny.protocol.incarnation import Incarnation


class Outcome(StrEnum):
    """A command's one end."""

    DONE = "done"
    ALREADY_SATISFIED = "already-satisfied"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    FAILED = "failed"


class Signal(StrEnum):
    """The signals that the ladder knows."""

    TERMINATE = "SIGTERM"
    ABORT = "SIGABRT"
    KILL = "SIGKILL"


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    """Make a child that waits at the gate. Answer: WorkerParked or SpawnFailed."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class ReleaseWorker:
    """Let the parked child execute the program."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class AbandonWorker:
    """Let a parked child end without running the program."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class SignalWorker:
    """Signal the worker's main process by pidfd; for SIGKILL, its cgroup as well."""

    incarnation: Incarnation
    signal: Signal


@dataclass(frozen=True, slots=True)
class ExamineWorker:
    """Read what the kernel knows of the worker. Answer: WorkerExamined, at once."""

    incarnation: Incarnation
    silent_since: float | None
    """Monotonic instant at which the silence or stall began."""


@dataclass(frozen=True, slots=True)
class CollectEvidence:
    """Save what can be known of the worker, by a helper. Answer: EvidenceCollected."""

    incarnation: Incarnation
    reason: str
    post_mortem: bool
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class FenceWorker:
    """Refuse the incarnation everywhere from now on; it would not die."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class SpawnLink:
    """Start the link process. Answer: LinkSpawned or LinkSpawnFailed."""

    number: int


@dataclass(frozen=True, slots=True)
class SignalLink:
    """Signal the link process by pidfd."""

    number: int
    signal: Signal


@dataclass(frozen=True, slots=True)
class ConfirmNumbers:
    """Answer with NumbersConfirmed if, and only if, the step's records are durable."""

    epoch: str
    until: int


@dataclass(frozen=True, slots=True)
class ReportAccepted:
    """Tell the sender that the command is in the ledger."""

    command_id: str


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """Tell the sender how the command ended."""

    command_id: str
    kind: CommandKind
    outcome: Outcome
    detail: str
    incarnation: Incarnation | None


@dataclass(frozen=True, slots=True)
class DeferCommand:
    """The ledger is full, or not read yet: the command was not taken; its sender may try again."""

    command_id: str


@dataclass(frozen=True, slots=True)
class ReloadConfig:
    """Read the settings again, in a helper. Answer: ConfigReloaded or ConfigRejected."""

    command_id: str = ""


@dataclass(frozen=True, slots=True)
class ExitNanny:
    """Everything is in order: end the process with code 0."""


Action = (
    SpawnWorker
    | ReleaseWorker
    | AbandonWorker
    | SignalWorker
    | ExamineWorker
    | CollectEvidence
    | FenceWorker
    | SpawnLink
    | SignalLink
    | ConfirmNumbers
    | ReportAccepted
    | ReportOutcome
    | DeferCommand
    | ReloadConfig
    | ExitNanny
)
