"""The link process as the kernel has it: started, signalled, its end told. Decides nothing.

Link runs unprivileged, as a user of its own where one is configured, and reaches the nanny through the control
socket like any client. It holds no state, so a left-over of an earlier nanny is ended, not adopted.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nanny import fork_gate, worker_spec
from nanny.core import events as e
from nanny.errors import HostError
from nanny.heartbeats import NotifySocket
from nanny.linux import pidfd, procfs

if TYPE_CHECKING:
    from nanny.common.log_lines import LogLines
    from nanny.config import NannyConfig
    from nanny.core.actions import SignalLink, SpawnLink
    from nanny.event_loop import EventLoop
    from nanny.reaper import ExitStatus, Reaper
    from nanny.supervisor import Supervisor


class LinkProcess:
    """At most one link process.

    Attributes:
        pid, start_time_ticks: of the present one; 0 without.
    """

    def __init__(
        self, config: NannyConfig, supervisor: Supervisor, loop: EventLoop, log: LogLines, reaper: Reaper
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._loop = loop
        self._log = log
        self._reaper = reaper
        self._notify: NotifySocket | None = None
        self._pidfd = -1
        self._number = 0
        self.output_fd = -1
        self.pid = 0
        self.start_time_ticks = 0

    def spawn(self, action: SpawnLink) -> None:
        """Start a link; it is released at once, because it holds nothing that could be doubled."""
        self._number = action.number
        try:
            parked = fork_gate.park(self._spec())
            fork_gate.release(parked)
        except (HostError, OSError) as error:
            self._supervisor.tell(e.LinkSpawnFailed(action.number, str(error)))
            return
        os.close(parked.exec_error_fd)
        self.pid, self._pidfd, self.start_time_ticks = parked.pid, parked.pidfd, parked.start_time_ticks
        number = action.number
        self._reaper.register(parked.pid, lambda _pid, status: self._ended(number, status))
        self._supervisor.tell(e.LinkSpawned(action.number, parked.pid))

    def signal(self, action: SignalLink) -> None:
        """Signal the present one."""
        if action.number == self._number and self._pidfd >= 0:
            pidfd.send_signal(self._pidfd, signal.Signals[action.signal])

    def _ended(self, number: int, status: ExitStatus) -> None:
        if number == self._number and self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd, self.pid, self.start_time_ticks = -1, 0, 0
        self._supervisor.tell(e.LinkExited(number, str(status)))

    def _spec(self) -> fork_gate.ChildSpec:
        config = self._config
        if self._notify is None:
            path = os.path.join(config.runtime_dir, "notify-link.sock")
            self._notify = NotifySocket(
                path,
                self._loop,
                self._log,
                lambda sender: sender.pid == self.pid,
                lambda beat, _: self._supervisor.tell(e.LinkBeat(self._number, ready=beat.ready)),
            )
        environ = worker_spec.base_environment()
        environ |= config.link_environment
        environ["NOTIFY_SOCKET"] = self._notify.path
        environ["WATCHDOG_USEC"] = str(int(config.heartbeat_timeout_s * 1e6))
        environ["LINK_CONTROL_SOCKET"] = os.path.join(config.runtime_dir, "control.sock")
        placed = [(self.output_fd, 1), (self.output_fd, 2)] if self.output_fd >= 0 else []
        return fork_gate.ChildSpec(
            argv=config.link_command,
            environ=environ,
            user=config.link_user,
            descriptors=tuple(placed),
            pass_watchdog_pid=True,
        )

    def end_left_over(self, left: Any) -> None:
        """End the link of an earlier nanny, if it is still that process; ``left`` is what ``remembered`` gave."""
        match left:
            case [int(pid), int(start_time_ticks)] if pid > 0:
                pass
            case _:
                return
        with suppress(ProcessLookupError, HostError, OSError):
            fd = pidfd.open_pidfd(pid)
            try:
                if procfs.read_stat(pid).start_time_ticks == start_time_ticks:
                    pidfd.send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)

    @property
    def remembered(self) -> list[int] | None:
        """What the next nanny needs to end this link."""
        return [self.pid, self.start_time_ticks] if self.pid else None

    def close(self) -> None:
        """Remove the notify socket; the process stays."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None
