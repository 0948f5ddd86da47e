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
class Baseline:
    """Scheduling figures of the vitals thread (or main thread) and the cgroup at the last beat, in seconds."""

    run_s: float | None
    wait_s: float | None
    throttled_s: float


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
    with suppress(ProcessLookupError, NannyError, OSError):
        figures = procfs.read_schedstat(pid, vitals_tid or pid)
        return Baseline(figures.run_s, figures.wait_s, _held_back_s(cgroup))
    return UNKNOWN_BASELINE


def examine(pid: int, vitals_tid: int, since: Baseline, cgroup: SubCgroup | None, silence_s: float) -> Facts:
    """Compare with the baseline; what can't be read counts as nothing."""
    state, traced, wait_s = "?", False, 0.0
    with suppress(ProcessLookupError, NannyError, OSError):
        state = procfs.read_stat(pid).state
        traced = procfs.read_status(pid).tracer_pid != 0
        wait_s = _waited_s(pid, vitals_tid or pid, since, silence_s)
    throttled_s = 0.0
    with suppress(NannyError, OSError):
        throttled_s = max(_held_back_s(cgroup) - since.throttled_s, 0.0)
    return Facts(state, traced, wait_s, min(throttled_s, silence_s))


def _waited_s(pid: int, tid: int, since: Baseline, silence_s: float) -> float:
    if since.run_s is None or since.wait_s is None:
        return 0.0
    figures = procfs.read_schedstat(pid, tid)
    waited_s = figures.wait_s - since.wait_s
    ran_s = figures.run_s - since.run_s
    if _thread_state(pid, tid) == "R":
        waited_s = max(waited_s, silence_s - ran_s)
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
