"""The numbers that the decisions use: data, no defaults hidden in code.

Knows nothing of files, flags or the environment: ``nanny.config`` reads those and builds this value.
Everything here may change at a reload, because ``step`` takes the configuration as an argument each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from nanny.core.events import CommandKind

NUMBERS_PER_BLOCK: Final = 64
"""Incarnation numbers are reserved ahead in blocks of this size."""
RESERVE_AHEAD: Final = NUMBERS_PER_BLOCK // 2
PENDING_COMMANDS_LIMIT: Final = 64
UNACKNOWLEDGED_OUTCOMES_LIMIT: Final = 256
REMEMBERED_OUTCOMES_LIMIT: Final = 256
BUDGET_WINDOW_S: Final = 3600.0


class HeartbeatMode(StrEnum):
    """What the supervised program sends (``nanny run --heartbeat``)."""

    WATCHDOG = "watchdog"
    READY = "ready"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildTiming:
    """The times of one supervised child, in seconds."""

    mode: HeartbeatMode = HeartbeatMode.WATCHDOG
    spawn_timeout_s: float = 10.0
    start_timeout_s: float = 60.0
    extend_limit_s: float = 600.0
    """The most that EXTEND_TIMEOUT_USEC may add to one start or stop."""
    heartbeat_interval_s: float = 2.0
    heartbeat_timeout_s: float = 6.0
    stop_grace_s: float = 30.0
    unkillable_timeout_s: float = 60.0
    backoff_initial_s: float = 1.0
    backoff_factor: float = 2.0
    backoff_ceiling_s: float = 300.0
    stable_after_s: float = 300.0
    crash_loop_after: int = 6
    """From this many failures in a row on, retries come at the slowest rate, and the nanny shouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """All that ``step`` needs to know besides state, event and now."""

    node_id: str = "node"
    worker: ChildTiming = field(default_factory=ChildTiming)
    link: ChildTiming | None = None
    """None: no link is ours to start."""
    stall_warn_s: float = 5.0
    stall_timeout_s: float = 30.0
    expect_limit_s: float = 600.0
    """The most announced known-long work that is honoured in one incarnation."""
    evidence_timeout_s: float = 1.5
    abort_grace_s: float = 1.0
    examine_timeout_s: float = 1.0
    starvation_limit_s: float = 60.0
    """The most that one silence or stall is extended for starvation."""
    memory_limit_bytes: int | None = None
    hold_limit_s: float = 86400.0
    reload_timeout_s: float = 30.0
    evidence_command_timeout_s: float = 30.0
    allowed_from_server: frozenset[CommandKind] = frozenset(CommandKind)
    server_restarts_per_hour: int = 12
    server_commands_per_hour: int = 240
