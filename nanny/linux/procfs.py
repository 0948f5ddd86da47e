"""Small reads of /proc that cannot hang: stat, status, schedstat, wchan, the thread list, the boot id.

Never cmdline, environ, maps, fd or exe: they take the victim's memory locks, and a process stuck in a page
fault would hold its reader as well. Those belong to a forked helper with a deadline.

Every reader raises ProcessLookupError when the process (or thread) is gone, HostError otherwise. Whether a
pid still names the process that was meant is the caller's question: compare `start_time_ticks` and `boot_id`.

proc_pid_stat(5), proc_pid_status(5), proc_pid_wchan(5), Documentation/scheduler/sched-stats.rst.
"""

import os
from dataclasses import dataclass

from nanny.errors import HostError

_CHUNK_BYTES = 16_384
# `status` lists up to 65,536 supplementary groups before the fields that we need.
_LIMIT_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One line of /proc/pid/stat; times in clock ticks (os.sysconf('SC_CLK_TCK') a second)."""

    pid: int
    comm: str
    state: str
    ppid: int
    start_time_ticks: int
    utime_ticks: int
    stime_ticks: int
    threads: int


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What /proc/pid/status says of a process.

    Signal sets are bit masks, bit n-1 for signal n (see `has_signal`).

    Attributes:
        uid: the effective user id, the one that SO_PEERCRED shows.
        vm_rss_bytes: 0 for a zombie and a kernel thread.
        tracer_pid: 0 if nobody traces it.
        signals_caught: those with a handler installed.
        signals_pending: pending for the main thread alone.
        shared_pending: pending for the process.
    """

    uid: int
    vm_rss_bytes: int
    tracer_pid: int
    signals_caught: int
    signals_pending: int
    shared_pending: int
    threads: int


@dataclass(frozen=True, slots=True)
class SchedStat:
    """Time that a thread ran, and time that it was runnable but had no core, since its birth."""

    run_s: float
    wait_s: float


def has_signal(mask: int, signum: int) -> bool:
    """Tell whether a signal is in a mask of `ProcessStatus`."""
    return bool(mask >> (signum - 1) & 1)


def read_stat(pid: int, proc: str = "/proc") -> ProcessStat:
    """Give name, state, parent, start time and CPU times of a process.

    `comm` may contain spaces, parentheses and bytes that are no UTF-8 (shown as backslash escapes).
    """
    path = f"{proc}/{pid}/stat"
    content = _read(path, f"{proc}/{pid}")
    head, closing, tail = content.rpartition(b")")
    number, opening, comm = head.partition(b"(")
    fields = tail.split()
    if not (closing and opening and len(fields) >= 20):
        raise _malformed(path, content)
    try:
        return ProcessStat(
            pid=int(number),
            comm=comm.decode("utf-8", "backslashreplace"),
            state=fields[0].decode(),
            ppid=int(fields[1]),
            utime_ticks=int(fields[11]),
            stime_ticks=int(fields[12]),
            threads=int(fields[17]),
            start_time_ticks=int(fields[19]),
        )
    except ValueError as error:
        raise _malformed(path, content) from error


def read_status(pid: int, proc: str = "/proc") -> ProcessStatus:
    """Give user, memory, tracer and signal sets of a process."""
    path = f"{proc}/{pid}/status"
    content = _read(path, f"{proc}/{pid}")
    fields = {}
    for line in content.splitlines():
        key, _, rest = line.partition(b":")
        fields[key] = rest.split()
    try:
        return ProcessStatus(
            uid=int(fields[b"Uid"][1]),
            vm_rss_bytes=int(fields[b"VmRSS"][0]) * 1024 if b"VmRSS" in fields else 0,
            tracer_pid=int(fields[b"TracerPid"][0]),
            signals_caught=int(fields[b"SigCgt"][0], 16),
            signals_pending=int(fields[b"SigPnd"][0], 16),
            shared_pending=int(fields[b"ShdPnd"][0], 16),
            threads=int(fields[b"Threads"][0]),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise _malformed(path, content) from error


def read_schedstat(pid: int, tid: int, proc: str = "/proc") -> SchedStat:
    """Give how long a thread ran and how long it waited for a core, in seconds.

    Raises:
        HostError: the kernel keeps no such account (built without CONFIG_SCHED_INFO), among others.
    """
    task = f"{proc}/{pid}/task/{tid}"
    path = f"{task}/schedstat"
    content = _read(path, task)
    try:
        run_ns, wait_ns, _timeslices = content.split()
        return SchedStat(run_s=int(run_ns) / 1e9, wait_s=int(wait_ns) / 1e9)
    except (ValueError, OverflowError) as error:
        raise _malformed(path, content) from error


def read_wchan(pid: int, tid: int | None = None, proc: str = "/proc") -> str:
    """Give the kernel function in which a thread sleeps; '' if it runs or we may not know.

    Args:
        pid: the process.
        tid: one of its threads; the main thread if None.
        proc: where procfs is mounted.
    """
    task = f"{proc}/{pid}" if tid is None else f"{proc}/{pid}/task/{tid}"
    symbol = _read(f"{task}/wchan", task).decode("ascii", "backslashreplace").strip()
    return "" if symbol == "0" else symbol


def list_threads(pid: int, proc: str = "/proc") -> tuple[int, ...]:
    """Give the thread ids of a process in ascending order."""
    path = f"{proc}/{pid}/task"
    try:
        names = os.listdir(path)
    except OSError as error:
        raise _reason(error, path, f"{proc}/{pid}") from error
    if not names:
        raise ProcessLookupError(f"{path} is empty: the process ends right now")
    return tuple(sorted(int(name) for name in names))


def boot_id(proc: str = "/proc") -> str:
    """Give the id of this boot: pid and start time mean nothing in another one."""
    return _read(f"{proc}/sys/kernel/random/boot_id", f"{proc}/sys").decode("ascii").strip()


def _read(path: str, owner: str) -> bytes:
    """Give the content of a file of the directory `owner`, whose absence means that the process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = chunk = os.read(fd, _CHUNK_BYTES)
            while len(chunk) and len(content) < _LIMIT_BYTES:
                chunk = os.read(fd, _CHUNK_BYTES)
                content += chunk
        finally:
            os.close(fd)
    except OSError as error:
        raise _reason(error, path, owner) from error
    return content


def _reason(error: OSError, path: str, owner: str) -> Exception:
    # ENOENT has two meanings: the process is gone, or this kernel has no such file.
    if isinstance(error, ProcessLookupError) or (
        isinstance(error, FileNotFoundError) and not os.path.exists(owner)
    ):
        return ProcessLookupError(f"no process any more behind {path}")
    return HostError.from_os_error("read a process's state", error, path, "verdicts go without it")


def _malformed(path: str, content: bytes) -> HostError:
    return HostError(f"understand {content[:80]!r}", 0, path, "verdicts go without it")
