"""From settings to the numbers that the decisions use.

The supervising process never loads ``nanny.config`` (declarations and their help cost memory): it holds the resolved
values under the same names, and this is where their names meet the core's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanny.core.config import ChildTiming, HeartbeatMode, PolicyConfig
from nanny.core.events import CommandKind

if TYPE_CHECKING:
    from nanny.config import NannyConfig


def policy(config: NannyConfig, node_id: str) -> PolicyConfig:
    """The numbers of ``core`` for these settings."""
    return PolicyConfig(
        node_id=node_id,
        worker=_timing(config, HeartbeatMode(config.heartbeat)),
        link=_timing(config, HeartbeatMode.WATCHDOG) if config.link == "child" else None,
        stall_warn_s=config.stall_warn_s,
        stall_timeout_s=config.stall_timeout_s,
        expect_limit_s=config.expect_limit_s,
        evidence_timeout_s=config.evidence_timeout_s,
        abort_grace_s=config.abort_grace_s,
        starvation_limit_s=config.starvation_limit_s,
        memory_limit_bytes=config.memory_limit_bytes,
        allowed_from_server=frozenset(CommandKind(kind) for kind in config.allowed_from_server),
        server_restarts_per_hour=config.server_restarts_per_hour,
        server_commands_per_hour=config.server_commands_per_hour,
    )


def _timing(config: NannyConfig, mode: HeartbeatMode) -> ChildTiming:
    return ChildTiming(
        mode=mode,
        start_timeout_s=config.start_timeout_s,
        heartbeat_interval_s=config.heartbeat_interval_s,
        heartbeat_timeout_s=config.heartbeat_timeout_s,
        stop_grace_s=config.stop_grace_s,
        unkillable_timeout_s=config.unkillable_timeout_s,
        backoff_initial_s=config.backoff_initial_s,
        backoff_factor=config.backoff_factor,
        backoff_ceiling_s=config.backoff_ceiling_s,
        stable_after_s=config.stable_after_s,
        crash_loop_after=config.crash_loop_after,
    )
