"""Whether the files behind the loaded program are still the ones that were loaded.

A stamp is device, inode, size and modification time of every module's file, of the settings' file and of the
certificates. Comparing is some hundred stat(2) calls, which hang as long as the file system does: so `Comparison`
makes them in a forked child, whose end tells the result. The child of a dead mount is left alone; there is never a
second one.

Only for a process without threads: fork(2) would leave their locks locked.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ANSWER_LIMIT_BYTES = 512
Mark = tuple[int, int, int, int]


def code_stamp(more: Iterable[str] = ()) -> dict[str, Mark | None]:
    """The files behind everything that is imported now, and `more` of them, with a mark of each (None: no file)."""
    loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    return {path: _mark(path) for path in sorted({*loaded, *more} - {""})}


def first_change(stamp: dict[str, Mark | None]) -> str:
    """The first file that is another one now, or an empty text."""
    return next((path for path, mark in stamp.items() if _mark(path) != mark), "")


class Comparison:
    """One comparison at a time, in a child.

    Attributes:
        fd: readable when the child has answered or ended; -1 while there is none.
    """

    def __init__(self, stamp: dict[str, Mark | None]) -> None:
        self._stamp = stamp
        self._pid = 0
        self.fd = -1

    def begin(self, not_for_the_child: int) -> bool:
        """Start the child, without the descriptor given; False while the last one has not come back.

        Raises:
            OSError: no process or descriptor left.
        """
        if self.fd >= 0:
            return False
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:
            os.close(read_fd)
            os.close(write_fd)
            raise
        if pid == 0:
            self._compare(write_fd, not_for_the_child)
        os.close(write_fd)
        self._pid, self.fd = pid, read_fd
        return True

    def finish(self) -> str:
        """What has changed, by a child that has answered or ended; an empty text: nothing that it told."""
        answer = os.read(self.fd, _ANSWER_LIMIT_BYTES)
        os.close(self.fd)
        self.fd = -1
        with suppress(ChildProcessError):
            # It has written or is dead: between that and its end stands nothing that waits.
            os.waitpid(self._pid, 0)
        self._pid = 0
        return answer.decode("utf-8", "replace")

    def leave(self) -> None:
        """Go on without an answer; whoever goes on asks `is_over` until it is, or the child stays a zombie."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def is_over(self) -> bool:
        """Whether no child is left to be waited for. Never waits: on a dead mount that may take for ever."""
        if self._pid:
            with suppress(ChildProcessError):
                if os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                    return False
            self._pid = 0
        return True

    def _compare(self, write_fd: int, not_for_the_child: int) -> None:
        try:
            os.close(not_for_the_child)
            os.write(write_fd, first_change(self._stamp).encode("utf-8", "replace")[:_ANSWER_LIMIT_BYTES])
        finally:
            os._exit(0)


def _mark(path: str) -> Mark | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # pathlib would cost an object for each of them
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
