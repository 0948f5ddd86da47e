"""What the shell holds of one incarnation: its process, its descriptors, its latest beats.

Plain records, filled in by ``nanny.worker_process`` and read by whoever collects evidence or hands over. Decides
nothing. pidfd_getfd(2), fcntl(2) "File sealing".
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nanny import examination
from nanny.linux import pidfd
from nanny.reaper import UNKNOWN, ExitStatus
from nanny.worker_spec import STACKS_FD

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.heartbeats import NotifySocket
    from nanny.linux.cgroup import SubCgroup
    from nanny.protocol.incarnation import Incarnation
    from nanny.protocol.notify_format import Beat

_BEATS_KEPT: Final = 30


@dataclass(frozen=True, slots=True)
class Arrival:
    """A beat, when it came, and what the scheduler had counted by then."""

    at: float
    beat: Beat
    baseline: examination.Baseline


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a child waits to become a worker: at the fork gate, or parked as a standby. One of the two, once."""

    release: Callable[[], None]
    abandon: Callable[[], None]


@dataclass(slots=True)
class Life:
    """What the shell holds of one incarnation."""

    incarnation: Incarnation
    pid: int
    pidfd: int
    start_time_ticks: int
    cgroup: SubCgroup | None
    stacks_fd: int | None
    notify: NotifySocket | None = None
    parked: Gate | None = None
    """Until it is released or abandoned."""
    exec_error_fd: int = -1
    exec_error: str = ""
    """Why the program never ran."""
    status: ExitStatus = UNKNOWN
    last_beat: Beat | None = None
    vitals_tid: int = 0
    beats: deque[Arrival] = field(default_factory=lambda: deque(maxlen=_BEATS_KEPT))
    """The latest few, for evidence and for comparison."""
    is_ready: bool = False

    def baseline_at(self, instant: float | None) -> examination.Baseline:
        """The scheduling figures of the last beat before an instant, as far back as is known."""
        known = [one for one in self.beats if instant is not None and one.at <= instant] or list(self.beats)[
            :1
        ]
        return known[-1].baseline if known else examination.UNKNOWN_BASELINE


def stacks_of(worker_pidfd: int) -> int | None:
    """Our duplicate of an adopted worker's memfd for stacks, if that is what it has there."""
    try:
        fd = pidfd.get_fd(worker_pidfd, STACKS_FD)
    except OSError:
        return None
    try:
        # Sealed files are memfds, and nobody else has reason to seal this one against growth.
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_GROW:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
