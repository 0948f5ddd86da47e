"""What a process tells the kernel about itself: adopt orphans, its name, its end with its parent.

A subreaper inherits the orphans below it, which otherwise go to init where nobody counts them; from then on
it must reap what it did not start, too (one reaper, by waitid; never a bare waitpid(-1)).

prctl(2): PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG; proc_pid_comm(5).
"""

import os

from nanny.errors import HostError
from nanny.linux import libc

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_NAME_LIMIT_BYTES = 15


def become_subreaper() -> None:
    """Adopt the orphans of our descendants from now on; not inherited by fork, kept over execve.

    Raises:
        HostError: the kernel refused.
    """
    try:
        libc.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except OSError as error:
        raise HostError.from_os_error(
            "become the subreaper", error, degraded="orphans of the worker go to init and are not counted"
        ) from error


def set_process_name(name: str) -> None:
    """Set the calling thread's name as ps and top show it, cut to 15 bytes; execve sets it anew.

    By /proc and not by prctl, which would need ctypes: half a mebibyte of it.

    Raises:
        HostError: the kernel refused.
    """
    encoded = name.encode("utf-8", "replace")[:_NAME_LIMIT_BYTES]
    try:
        fd = os.open("/proc/thread-self/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, encoded)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError.from_os_error(
            "set the process name", error, degraded="ps shows the interpreter's name"
        ) from error


def set_parent_death_signal(signum: int, parent_pid: int | None = None) -> None:
    """Have the kernel send us a signal when the *thread* that forked us ends. For helpers, after their fork.

    Not inherited by fork; lost by the exec of a set-user-id program.

    Args:
        signum: the signal, 0 for none any more.
        parent_pid: who must still be our parent; a parent that died before this call sends no signal.

    Raises:
        ProcessLookupError: the parent is gone already.
        HostError: the kernel refused.
    """
    try:
        libc.call("prctl", _PR_SET_PDEATHSIG, signum, 0, 0, 0)
    except OSError as error:
        raise HostError.from_os_error(
            "set the parent death signal", error, degraded="this helper may outlive its parent"
        ) from error
    if parent_pid is not None and os.getppid() != parent_pid:
        raise ProcessLookupError(f"parent {parent_pid} has ended, {os.getppid()} took over")
