"""One step in a process of its own, with a deadline: what hangs there is left there.

A read of a victim's memory map or a write to a dead disk can put its caller into D state, where no timer and
no signal reaches it. So the collector forks such a step, takes what the step has written so far, and goes on.
An overdue step is killed; one that does not die of it is given back by pid and start time, for others to count.

The child ends with its parent (PR_SET_PDEATHSIG), unless it hangs. Not for the nanny's own process: ``join``
waits. fork(2), pidfd_open(2), poll(2).
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nanny import fork_gate
from nanny.errors import HostError
from nanny.linux import pidfd as pidfds
from nanny.linux import procfs
from nanny.linux.subreaper import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Tell = Callable[[bytes], None]

OUTPUT_LIMIT_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 65_536
_DEATH_WAIT_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Stuck:
    """A process that outlived its SIGKILL, named so that a later bearer of its pid is not taken for it."""

    pid: int
    start_time_ticks: int
    on_disk: bool = False
    """It was writing a bundle."""


@dataclass(frozen=True, slots=True)
class ApartResult:
    """What became of the step."""

    content: bytes
    """What it told, which is not all where there is a problem."""
    problem: str
    """Empty when it came to its end."""
    stuck: Stuck | None = None


class Apart:
    """A step under way."""

    def __init__(self, work: Callable[[Tell], None], keep_descriptors: Collection[int] = ()) -> None:
        """Begin; ``work`` gets a function that sends bytes to `join`.

        Raises:
            HostError, OSError: no process or no descriptor to be had.
        """
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        try:
            os.set_blocking(self._read_fd, False)
            self._child = fork_gate.fork_helper(
                lambda: _run(work, write_fd, parent), (write_fd, *keep_descriptors)
            )
        except BaseException:
            os.close(self._read_fd)
            raise
        finally:
            os.close(write_fd)

    def join(self, deadline_at: float) -> ApartResult:
        """Take what the step tells until its end or the deadline (CLOCK_MONOTONIC); to be called once."""
        content, ended = self._take(deadline_at)
        os.close(self._read_fd)
        stuck = None if self._reaped(_DEATH_WAIT_S if ended else 0.0) else self._kill()
        os.close(self._child.pidfd)
        # The last NUL separates what was told from how it went; a step that was killed wrote none.
        told, mark, problem = content.rpartition(b"\0")
        if mark:
            return ApartResult(told, problem.decode("utf-8", "replace"), stuck)
        if not ended:
            return ApartResult(content, "not done in time", stuck)
        return ApartResult(content, "the step died or told too much", stuck)

    def _take(self, deadline_at: float) -> tuple[bytes, bool]:
        chunks: list[bytes] = []
        size = 0
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        while size <= OUTPUT_LIMIT_BYTES:
            wait_s = max(deadline_at - time.monotonic(), 0.0)
            if not poll.poll(wait_s * 1000):
                return b"".join(chunks), False
            chunk = os.read(self._read_fd, _CHUNK_BYTES)
            if not chunk:
                return b"".join(chunks), True
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)[:OUTPUT_LIMIT_BYTES], True

    def _kill(self) -> Stuck | None:
        pidfds.send_signal(self._child.pidfd, signal.SIGKILL)
        if self._reaped(_DEATH_WAIT_S):
            return None
        with suppress(ProcessLookupError, HostError):
            return Stuck(self._child.pid, procfs.read_stat(self._child.pid).start_time_ticks)
        return None

    def _reaped(self, wait_s: float) -> bool:
        poll = select.poll()
        poll.register(self._child.pidfd, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            return False
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._child.pidfd, os.WEXITED)
        return True


def _run(work: Callable[[Tell], None], write_fd: int, parent: int) -> None:
    set_parent_death_signal(signal.SIGKILL, parent)

    def tell(content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(write_fd, view) :]

    try:
        work(tell)
        tell(b"\0")
    except BrokenPipeError:
        return
    except BaseException as error:
        with suppress(OSError):
            tell(b"\0" + (str(error) or repr(error)).encode("utf-8", "replace").replace(b"\0", b"?"))
