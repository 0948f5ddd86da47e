"""How the worker is started: program, environment, descriptors, user. Pure but for one look at the user table.

The environment is systemd's (NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS) plus NANNY_INCARNATION, NANNY_NODE_NAME,
NANNY_STACKS_FD and NANNY_CONTROL_SOCKET, so the worker needs to know nothing of the nanny. systemd.exec(5),
sd_listen_fds(3).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nanny.fork_gate import ChildSpec
from nanny.protocol.standby_words import CHANNEL_FD, STANDBY_FD_VARIABLE

if TYPE_CHECKING:
    from nanny.config import NannyConfig

LISTENER_FD: Final = 3
STACKS_FD: Final = 4
LISTENER_NAME: Final = "healthz"
_AGENT: Final = "node-agent"
_FIRST_TO_GO: Final = 1000
"""OOM score adjustment of a standby: of all processes, the kernel is to kill it first."""
_OURS: Final = ("NANNY_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "LINK_", "FDSTORE")


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Ours, to be placed in the child; -1 for none."""

    output_fd: int
    listener_fd: int
    stacks_fd: int


def worker_environ(
    config: NannyConfig, incarnation: str, notify_path: str, *, has_listener: bool
) -> dict[str, str]:
    """The worker's whole environment, but for the two variables that hold its pid."""
    environ = _life_long_environ(config)
    environ["NANNY_INCARNATION"] = incarnation
    # So that the worker warns, and answers 503, at the lags at which the nanny will act.
    environ["NANNY_STALL_WARN_S"] = repr(config.stall_warn_s)
    environ["NANNY_STALL_TIMEOUT_S"] = repr(config.stall_timeout_s)
    if config.heartbeat != "none":
        environ["NOTIFY_SOCKET"] = notify_path
    if config.heartbeat == "watchdog":
        environ["WATCHDOG_USEC"] = str(int(config.heartbeat_timeout_s * 1e6))
        environ["NANNY_HEARTBEAT_INTERVAL_S"] = repr(config.heartbeat_interval_s)
    if has_listener:
        environ["LISTEN_FDS"] = "1"
        environ["LISTEN_FDNAMES"] = LISTENER_NAME
    return environ


def worker_spec(
    config: NannyConfig, incarnation: str, notify_path: str, descriptors: Descriptors, cgroup: str | None
) -> ChildSpec:
    """The child that runs the configured command."""
    has_listener = descriptors.listener_fd >= 0
    placed = [(descriptors.stacks_fd, STACKS_FD)]
    if descriptors.output_fd >= 0:
        placed += [(descriptors.output_fd, 1), (descriptors.output_fd, 2)]
    if has_listener:
        placed.append((descriptors.listener_fd, LISTENER_FD))
    return ChildSpec(
        argv=config.command,
        environ=worker_environ(config, incarnation, notify_path, has_listener=has_listener),
        cwd=config.working_directory,
        user=config.worker_user,
        descriptors=tuple(placed),
        pass_listen_pid=has_listener,
        pass_watchdog_pid=config.heartbeat == "watchdog",
        oom_score_adj=config.worker_oom_score_adj,
        cgroup=cgroup,
    )


def standby_spec(
    config: NannyConfig, channel_fd: int, descriptors: Descriptors, cgroup: str | None
) -> ChildSpec:
    """The child that runs the configured command up to its park: a worker without identity, voice and listener."""
    spec = worker_spec(config, "", "", replace(descriptors, listener_fd=-1), cgroup)
    return replace(
        spec,
        environ=_life_long_environ(config) | {STANDBY_FD_VARIABLE: str(CHANNEL_FD)},
        descriptors=(*spec.descriptors, (channel_fd, CHANNEL_FD)),
        pass_watchdog_pid=False,
        oom_score_adj=_FIRST_TO_GO,
    )


def wants_standby(config: NannyConfig) -> bool:
    """Whether the settings ask for standbys; ``auto`` knows one program that can be one, our own."""
    if config.standby == "auto":
        return os.path.basename(config.command[0]) == _AGENT or "agent.cli" in config.command[1:3]
    return config.standby == "on"


def woken_environ(
    config: NannyConfig, incarnation: str, notify_path: str, pid: int, listener_fd: int
) -> dict[str, str]:
    """The environment with which a standby goes on as the worker `incarnation`."""
    environ = worker_environ(config, incarnation, notify_path, has_listener=listener_fd >= 0)
    if listener_fd >= 0:
        environ["LISTEN_PID"] = str(pid)
    if config.heartbeat == "watchdog":
        environ["WATCHDOG_PID"] = str(pid)
    return environ


def _life_long_environ(config: NannyConfig) -> dict[str, str]:
    environ = base_environment() | config.environment
    environ["NANNY_STACKS_FD"] = str(STACKS_FD)
    environ["NANNY_NODE_NAME"] = config.node_name
    environ["NANNY_CONTROL_SOCKET"] = os.path.join(config.runtime_dir, "control.sock")
    return environ


def base_environment() -> dict[str, str]:
    """Our environment without what was meant for us alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
