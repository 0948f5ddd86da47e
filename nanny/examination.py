"""What the kernel says about a suspected worker: could it have run, is it traced, does it sleep uninterruptibly.

Only ``stat``, ``status``, ``schedstat`` of /proc and ``cpu.stat``, ``memory.pressure`` of the cgroup are read:
none takes a lock of the examined process. A thread that waits in the run queue shows it in schedstat only once
it runs again, so a runnable thread whose run time stands still counts as waiting all the while. proc(5).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nanny.errors import NannyError
from nanny.linux import procfs

if TYPE_CHECKING:
    from nanny.linux.cgroup import SubCgroup


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """What the scheduler counted for one thread, in seconds since its birth."""

    run_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """The figures when a beat came; None for what could not be read."""

    vitals: ThreadTimes | None
    main: ThreadTimes | None
    held_back_s: float
    """Throttled, or stalled on memory as a whole."""


UNKNOWN_BASELINE: Final = Baseline(None, None, 0.0)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found; shapes as in ``core.events.WorkerExamined``."""

    process_state: str = "?"
    traced: bool = False
    runqueue_wait_s: float = 0.0
    throttled_s: float = 0.0


def baseline(pid: int, vitals_tid: int, cgroup: SubCgroup | None) -> Baseline:
    """The figures as they are now."""
    held_back_s = 0.0
    with suppress(NannyError, OSError):
        held_back_s = _held_back_s(cgroup)
    main = _times(pid, pid)
    return Baseline(main if vitals_tid in {0, pid} else _times(pid, vitals_tid), main, held_back_s)


def examine(
    pid: int,
    vitals_tid: int,
    since: Baseline,
    cgroup: SubCgroup | None,
    silence_s: float,
    *,
    beats_come: bool,
) -> Facts:
    """Compare with the figures of the beat at which the silence or stall began.

    Where beats are missing, the thread that sends them could have been kept from running; where they come and the
    loop stalls, it is the loop's thread. What can't be read counts as nothing.
    """
    state, traced, wait_s = "?", False, 0.0
    tid, before = (pid, since.main) if beats_come else (vitals_tid or pid, since.vitals)
    with suppress(ProcessLookupError, NannyError, OSError):
        state = procfs.read_stat(pid).state
        traced = procfs.read_status(pid).tracer_pid != 0
        wait_s = _waited_s(pid, tid, before, silence_s)
    held_back_s = 0.0
    with suppress(NannyError, OSError):
        held_back_s = max(_held_back_s(cgroup) - since.held_back_s, 0.0)
    return Facts(state, traced, wait_s, min(held_back_s, silence_s))


def _times(pid: int, tid: int) -> ThreadTimes | None:
    with suppress(ProcessLookupError, NannyError, OSError):
        figures = procfs.read_schedstat(pid, tid)
        return ThreadTimes(figures.run_s, figures.wait_s)
    return None


def _waited_s(pid: int, tid: int, before: ThreadTimes | None, silence_s: float) -> float:
    if before is None:
        return 0.0
    figures = procfs.read_schedstat(pid, tid)
    waited_s = figures.wait_s - before.wait_s
    if _thread_state(pid, tid) == "R":
        waited_s = max(waited_s, silence_s - (figures.run_s - before.run_s))
    return min(max(waited_s, 0.0), silence_s)


def _thread_state(pid: int, tid: int) -> str:
    if tid == pid:
        return procfs.read_stat(pid).state
    return procfs.read_stat(tid, f"/proc/{pid}/task").state


def _held_back_s(cgroup: SubCgroup | None) -> float:
    if cgroup is None:
        return 0.0
    cpu = cgroup.cpu_stat()
    throttled_s = 0.0 if cpu is None or cpu.throttled_s is None else cpu.throttled_s
    memory = cgroup.pressure("memory")
    return throttled_s + (0.0 if memory is None else memory.full_total_s)
