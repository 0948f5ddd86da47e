"""Processes held by descriptor: a pidfd names one process for ever, a pid may be somebody else's tomorrow.

*Dead* means everywhere in the nanny: the main process's pidfd is readable, which it is from the moment of its
exit on, reaped or not. Nothing here reaps or waits.

pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2) (Linux 5.6).
"""

import os
import select
import signal

from nanny.linux import libc

# The same number on every architecture since the common table of 5.1; Alpha is not supported.
_SYS_PIDFD_GETFD = 438


def open_pidfd(pid: int) -> int:
    """Give a new close-on-exec descriptor for the process, which may be a zombie.

    A stranger's pid can be reused before this call: compare the start time afterwards (procfs.read_stat).

    Raises:
        ProcessLookupError: there is no such process.
        OSError: no descriptor left, or not a process's main thread.
    """
    try:
        return os.pidfd_open(pid)
    except OverflowError:
        raise ProcessLookupError(f"{pid} is no process id") from None


def send_signal(pidfd: int, signum: int) -> bool:
    """Send a signal; False if the process is gone (reaped).

    A zombie still takes signals, without effect: True says that the kernel took it, `has_exited` tells more.

    Raises:
        PermissionError: it belongs to someone else.
    """
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    return True


def has_exited(pidfd: int) -> bool:
    """Tell whether the process has ended, reaped or not; never waits."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def get_fd(pidfd: int, fd: int) -> int:
    """Give a close-on-exec duplicate of another process's descriptor.

    Raises:
        ProcessLookupError: the process has ended.
        PermissionError: we may not trace it (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS).
        OSError: it has no such descriptor (EBADF), or the kernel is older than 5.6 (ENOSYS).
    """
    return libc.call("syscall", _SYS_PIDFD_GETFD, pidfd, fd, 0)
