"""One nanny a state directory: a POSIX record lock on a file.

Not flock(2): its lock belongs to the open file and lives on in every forked child that inherited it, so that
a helper stuck in D state would bar the next nanny for ever. A record lock belongs to the process: it ends
with it, forked children never have it, F_GETLK names the holder, and it survives execve in place. The price:
closing *any* descriptor of the file drops it, so nothing else may open the file in this process.

fcntl(2), "Advisory record locking". 64-bit Linux only: the layout of struct flock.
"""

import errno
import fcntl
import os
import struct

from nanny.errors import HostError, NannyError

# struct flock: l_type, l_whence, l_start, l_len (0: to the end), l_pid.
_FLOCK = struct.Struct("@hhqqi4x")
_TRIES = 10
_DEGRADED = "two nannies at once cannot be ruled out"

# (device, inode) of held locks -> the process that holds: for the kernel a second acquire by the same process
# succeeds, and giving that one up would drop the first.
_held: dict[tuple[int, int], int] = {}


class AlreadyLocked(NannyError):  # noqa: N818  # reads as the outcome that it is
    """Another process holds the lock.

    Attributes:
        pid: its process id, 0 if it lives in a foreign pid namespace.
    """

    def __init__(self, path: str, pid: int) -> None:
        self.path = path
        self.pid = pid
        super().__init__(f"{path} is locked by process {pid}: another nanny runs here")


class FileLock:
    """A held lock; ends with `release` or with the process."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._identity = _identity(os.fstat(fd))
        _held[self._identity] = os.getpid()

    def fileno(self) -> int:
        """Give the descriptor: inheritable over an execve in place, it carries the lock along (`resume`)."""
        return self._fd

    def release(self) -> None:
        """Give the lock up; the file stays (removing it would let two hold "the" lock)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _held.pop(self._identity, None)


def acquire(path: str) -> FileLock:
    """Take the lock, making the file (0600) if it is missing; never waits for another holder.

    Raises:
        AlreadyLocked: somebody holds it, perhaps this process.
        HostError: the file cannot be opened or locked.
    """
    try:
        for _ in range(_TRIES):
            _refuse_own(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            taken = False
            try:
                holder = _lock(fd)
                # A file removed or replaced in between is not the one that the next nanny will look at.
                taken = holder is None and _is_still_at(path, fd)
            finally:
                if not taken:
                    os.close(fd)
            if taken:
                return FileLock(path, fd)
            if holder is not None:
                raise AlreadyLocked(path, holder)
    except OSError as error:
        raise HostError.from_os_error("lock", error, path, _DEGRADED) from error
    raise HostError("lock a file that keeps being replaced", errno.EAGAIN, path, _DEGRADED)


def resume(path: str, fd: int) -> FileLock:
    """Take over a lock that came along over execve(2) in the descriptor `fd`, without a gap.

    Raises:
        AlreadyLocked: it did not come along, and somebody else has it.
        HostError: not a descriptor of that file.
    """
    try:
        os.set_inheritable(fd, False)
        if not _is_still_at(path, fd):
            raise HostError("resume a lock on another file", errno.EBADF, path, _DEGRADED)
        holder = _lock(fd)
    except OSError as error:
        raise HostError.from_os_error("resume a lock", error, path, _DEGRADED) from error
    if holder is not None:
        raise AlreadyLocked(path, holder)
    return FileLock(path, fd)


def _lock(fd: int) -> int | None:
    """Lock without waiting; give the holder's pid if there is one, else None."""
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    holder = 0
    for _ in range(_TRIES):
        try:
            fcntl.fcntl(fd, fcntl.F_SETLK, wanted)
            return None
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
        kind, _whence, _start, _length, holder = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, wanted))
        if kind != fcntl.F_UNLCK:
            break
        # Released between the two calls: try again.
    return max(0, holder)


def _refuse_own(path: str) -> None:
    try:
        identity = _identity(os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return
    if _held.get(identity) == os.getpid():
        raise AlreadyLocked(path, os.getpid())


def _is_still_at(path: str, fd: int) -> bool:
    try:
        return _identity(os.stat(path, follow_symlinks=False)) == _identity(os.fstat(fd))
    except FileNotFoundError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
