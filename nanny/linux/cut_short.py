"""A system call that must not wait, on a descriptor whose O_NONBLOCK is not ours to set: it is cut short by an alarm.

O_NONBLOCK belongs to the open file description, which a listener's every holder shares. Setting it would break
another's blocking accept; relying on it holds us when another clears it. The alarm ends the call with EINTR, and its
handler raises. Main thread only; SIGALRM is nobody else's in the nanny. setitimer(2), signal(7), accept(2).
"""

import errno
import signal
from types import FrameType, TracebackType
from typing import Self


class CutShort:
    """A block in which any waiting ends with BlockingIOError after `limit_s`. Usable again and again."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._is_inside = False
        self._is_installed = False

    def __enter__(self) -> Self:
        if not self._is_installed:
            signal.signal(signal.SIGALRM, self._cut)
            self._is_installed = True
        self._is_inside = True
        # Again and again: the first one may come before the call has begun to wait.
        signal.setitimer(signal.ITIMER_REAL, self._limit_s, self._limit_s)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._is_inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _cut(self, _signum: int, _frame: FrameType | None) -> None:
        if self._is_inside:
            raise BlockingIOError(errno.EAGAIN, "it would have waited")
