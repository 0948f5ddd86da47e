"""How the worker is started: program, environment, descriptors, user. Pure but for one look at the user table.

The environment is systemd's (NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS) plus NANNY_INCARNATION, NANNY_NODE_NAME,
NANNY_STACKS_FD and NANNY_CONTROL_SOCKET, so the worker needs to know nothing of the nanny. systemd.exec(5),
sd_listen_fds(3).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nanny.errors import HostError
from nanny.fork_gate import ChildSpec

if TYPE_CHECKING:
    from nanny.config import NannyConfig

LISTENER_FD: Final = 3
STACKS_FD: Final = 4
LISTENER_NAME: Final = "healthz"
_OURS: Final = ("NANNY_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "LINK_", "FDSTORE")


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Ours, to be placed in the child; -1 for none."""

    output_fd: int
    listener_fd: int
    stacks_fd: int


def worker_spec(
    config: NannyConfig, incarnation: str, notify_path: str, descriptors: Descriptors, cgroup: str | None
) -> ChildSpec:
    """The child that runs the configured command.

    Raises:
        HostError: the configured user does not exist.
    """
    environ = base_environment()
    environ |= config.environment
    environ["NANNY_INCARNATION"] = incarnation
    environ["NANNY_STACKS_FD"] = str(STACKS_FD)
    environ["NANNY_NODE_NAME"] = config.node_name
    # So that the worker warns, and answers 503, at the lags at which the nanny will act.
    environ["NANNY_STALL_WARN_S"] = repr(config.stall_warn_s)
    environ["NANNY_STALL_TIMEOUT_S"] = repr(config.stall_timeout_s)
    environ["NANNY_CONTROL_SOCKET"] = os.path.join(config.runtime_dir, "control.sock")
    if config.heartbeat != "none":
        environ["NOTIFY_SOCKET"] = notify_path
    if config.heartbeat == "watchdog":
        environ["WATCHDOG_USEC"] = str(int(config.heartbeat_timeout_s * 1e6))
        environ["NANNY_HEARTBEAT_INTERVAL_S"] = repr(config.heartbeat_interval_s)
    placed = [(descriptors.stacks_fd, STACKS_FD)]
    if descriptors.output_fd >= 0:
        placed += [(descriptors.output_fd, 1), (descriptors.output_fd, 2)]
    if descriptors.listener_fd >= 0:
        placed.append((descriptors.listener_fd, LISTENER_FD))
        environ["LISTEN_FDS"] = "1"
        environ["LISTEN_FDNAMES"] = LISTENER_NAME
    return ChildSpec(
        argv=config.command,
        environ=environ,
        cwd=config.working_directory,
        user=user_ids(config.worker_user),
        descriptors=tuple(placed),
        pass_listen_pid=descriptors.listener_fd >= 0,
        pass_watchdog_pid=config.heartbeat == "watchdog",
        oom_score_adj=config.worker_oom_score_adj,
        cgroup=cgroup,
    )


def base_environment() -> dict[str, str]:
    """Our environment without what was meant for us alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def user_ids(name: str | None) -> tuple[int, int, tuple[int, ...]] | None:
    """Uid, gid and groups of a user; None keeps ours.

    Raises:
        HostError: there is no such user.
    """
    if name is None:
        return None
    import pwd  # noqa: PLC0415  # only where a user is configured

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise HostError(
            f"user {name!r}", 0, "/etc/passwd", "the child cannot be started as that user"
        ) from None
    return entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid))
