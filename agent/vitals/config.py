"""Settings of the vitals thread, and what of the environment is meant for it.

`claim_environ` reads what a supervisor passed (sd_notify's, sd_listen_fds' and the nanny's variables) and takes
it out of the environment: children of the program must neither hold the listening socket nor beat in our name.
sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

LISTENER_NAME = "healthz"
INTERVAL_LIMIT_S = 2.0
_FIRST_FD = 3
STALL_WARN_S = 5.0
STALL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class VitalsConfig:
    """How the vitals thread is to behave."""

    listen: tuple[str, int] | None = None
    """Bound where no socket was inherited; port 0 takes a free one. None: then nothing is served."""
    listener_fd: int | None = None
    """An inherited listening socket."""
    notify_socket: str | None = None
    """Where beats go; None sends none."""
    interval_s: float = INTERVAL_LIMIT_S
    """Between two beats."""
    triggers_watchdog: bool = False
    """A stall is told as ``WATCHDOG=trigger``: for systemd, which cannot judge the loop's lag as the nanny does."""
    incarnation: str | None = None
    stall_warn_s: float = STALL_WARN_S
    """Loop lag from which its stack is captured and sent."""
    stall_timeout_s: float = STALL_TIMEOUT_S
    """Loop lag from which /healthz and /livez are 503."""
    expect_total_s: float = 600.0
    """Announced long work of one life, in all."""
    token: str | None = None
    """Bearers of it may see reasons and stacks."""
    trusts_loopback: bool = True
    """Loopback peers may, too, unless a proxy speaks for others through them."""
    client_limit: int = 256
    client_deadline_s: float = 5.0
    """For one request to arrive and its answer to be taken."""
    keepalive_s: float = 75.0
    """Between requests; longer than probers' intervals."""
    switch_interval_s: float = 0.001
    """Python's, for the whole process: bounds how long a spinning thread holds up an answer."""


def claim_environ(
    environ: MutableMapping[str, str], listen: tuple[str, int] | None = None, pid: int | None = None
) -> VitalsConfig:
    """Settings from what the supervisor passed, which is taken out of `environ`.

    Call it once, before threads and children are made. Malformed variables count as absent: a program that is
    started by hand, in a strange shell, must start.

    Args:
        environ: usually os.environ.
        listen: where to bind if no listening socket was passed.
        pid: ours; what was meant for another process is not taken as passed.
    """
    pid = os.getpid() if pid is None else pid
    notify_socket = environ.pop("NOTIFY_SOCKET", "")
    watchdog_us = _number(environ.pop("WATCHDOG_USEC", ""))
    if environ.pop("WATCHDOG_PID", str(pid)) != str(pid):
        watchdog_us = None
    incarnation = environ.get("NANNY_INCARNATION")
    interval_s = INTERVAL_LIMIT_S
    if watchdog_us:
        interval_s = min(interval_s, watchdog_us / 3e6)
    ordered_s = _seconds(environ.pop("NANNY_HEARTBEAT_INTERVAL_S", ""))
    if ordered_s is not None:
        interval_s = ordered_s
    return VitalsConfig(
        listen=listen,
        listener_fd=_listener_fd(environ, pid),
        notify_socket=notify_socket if notify_socket.startswith(("/", "@")) else None,
        interval_s=max(interval_s, 0.01),
        triggers_watchdog=bool(watchdog_us) and incarnation is None,
        incarnation=incarnation,
        stall_warn_s=_seconds(environ.pop("NANNY_STALL_WARN_S", "")) or STALL_WARN_S,
        stall_timeout_s=_seconds(environ.pop("NANNY_STALL_TIMEOUT_S", "")) or STALL_TIMEOUT_S,
    )


def _listener_fd(environ: MutableMapping[str, str], pid: int) -> int | None:
    meant_for = environ.pop("LISTEN_PID", "")
    count = _number(environ.pop("LISTEN_FDS", ""))
    names = environ.pop("LISTEN_FDNAMES", LISTENER_NAME).split(":")
    if meant_for != str(pid) or not count or LISTENER_NAME not in names[:count]:
        return None
    return _FIRST_FD + names.index(LISTENER_NAME)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < 3600 else None
