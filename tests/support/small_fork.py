"""A fork of the test process that keeps only the descriptors it is told: stands in for the nanny's fork gate.

For tests of what runs in forked processes, without leaning on the fork gate itself. fork(2), pidfd_open(2).
"""

import os
import select
import signal
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_MAX_DESCRIPTOR = 20_000


@dataclass(frozen=True, slots=True)
class SmallForked:
    """A forked child."""

    pid: int
    pidfd: int

    def send_signal(self, signum: int) -> None:
        """Send a signal by pidfd; nothing happens if the child was reaped already."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signum)


class SmallForks:
    """Forks children, and ends and reaps them all at the end of its `with` block."""

    def __init__(self) -> None:
        self.children: list[SmallForked] = []
        self._statuses: dict[int, int] = {}

    def __call__(self, function: Callable[[], None], keep_descriptors: Collection[int]) -> SmallForked:
        """Run `function` in a child that keeps stdio and `keep_descriptors`."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                low = 3
                for kept in sorted(keep_descriptors):
                    os.closerange(low, kept)
                    low = kept + 1
                os.closerange(low, _MAX_DESCRIPTOR)
                function()
                status = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        child = SmallForked(pid, os.pidfd_open(pid))
        self.children.append(child)
        return child

    def wait_for_exit(self, child: SmallForked, timeout_s: float = 10.0) -> int:
        """Reap the child and give its return code as subprocess does (negative: the signal)."""
        if child.pid not in self._statuses:
            if not select.select([child.pidfd], [], [], timeout_s)[0]:
                raise AssertionError(f"child {child.pid} still runs after {timeout_s} s")
            _, status = os.waitpid(child.pid, 0)
            self._statuses[child.pid] = os.waitstatus_to_exitcode(status)
        return self._statuses[child.pid]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for child in self.children:
            if child.pid not in self._statuses:
                child.send_signal(signal.SIGKILL)
                self.wait_for_exit(child)
            os.close(child.pidfd)
