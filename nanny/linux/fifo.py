"""A named pipe for the worker's stdout and stderr, which outlives the nanny.

An ordinary pipe kills its writer by SIGPIPE when the nanny is gone. A FIFO that the worker itself holds open
for reading and writing keeps the backlog until the next nanny opens it. When it is full, a writer that blocks
does block: the price of losing nothing.

Two open file descriptions, since O_NONBLOCK belongs to the description: ours must never wait, and a program
that finds its stdout non-blocking breaks. fifo(7), pipe(7), fcntl(2) F_SETPIPE_SZ.
"""

import errno
import fcntl
import os
import stat
from dataclasses import dataclass

from nanny.errors import HostError

_DEGRADED = "the worker's output cannot be captured"
_PAGE_BYTES = 4096
# fcntl silently takes a greater number modulo 2**32, and would shrink the pipe to a page.
_GREATEST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Fifo:
    """An open FIFO; both descriptors are close-on-exec.

    Attributes:
        path: where the next nanny finds it.
        read_fd: ours, non-blocking.
        write_fd: the child's, blocking; its gate puts it at 1 and 2.
        capacity_bytes: what the kernel granted.
    """

    path: str
    read_fd: int
    write_fd: int
    capacity_bytes: int

    def close(self) -> None:
        """Close both descriptors; the file stays for the next nanny."""
        os.close(self.read_fd)
        os.close(self.write_fd)


def open_output_fifo(path: str, capacity_bytes: int) -> Fifo:
    """Open the FIFO, making it (0600) if it is missing; never waits for a peer, keeps a backlog.

    Args:
        path: its place; the directory must exist.
        capacity_bytes: wanted; unprivileged users get at most /proc/sys/fs/pipe-max-size.

    Raises:
        HostError: there is something else at `path`, or it cannot be made or opened.
    """
    read_fd = -1
    try:
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            # Looked at before it is opened: opening a device can have effects.
            _refuse_other(path, os.stat(path, follow_symlinks=False))
        read_fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        _refuse_other(path, os.fstat(read_fd))
        # By the descriptor, so that both are the same FIFO whatever happens at `path`.
        write_fd = os.open(f"/proc/self/fd/{read_fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if read_fd >= 0:
            os.close(read_fd)
        raise HostError.from_os_error("open the output FIFO", error, path, _DEGRADED) from error
    return Fifo(path, read_fd, write_fd, _grow(read_fd, capacity_bytes))


def _refuse_other(path: str, status: os.stat_result) -> None:
    if not stat.S_ISFIFO(status.st_mode):
        raise OSError(errno.EEXIST, "not a FIFO", path)


def _grow(fd: int, wanted_bytes: int) -> int:
    """Enlarge the pipe as far as the kernel lets us; give its capacity."""
    granted = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    wanted_bytes = min(wanted_bytes, _GREATEST_BYTES)
    while wanted_bytes > max(granted, _PAGE_BYTES):
        try:
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, wanted_bytes)
        except OSError:
            wanted_bytes //= 2
    return granted
