"""Telemetry of the host: counters from /proc as ratios and totals, disk sizes through disposable probes.

/proc is read in the event loop, because the kernel answers these files from memory in about two milliseconds;
on a host whose /proc files are served by a FUSE daemon (lxcfs) they can hang, so there the same reading goes
through a probe. File system sizes always do: statvfs on a dead mount blocks for ever.

Knows neither GPUs nor what the readings mean for the node. See proc(5), proc_pid_mountinfo(5).
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.telemetry.host_counters import read_host_counters
from agent.telemetry.probe_pool import ProbePool
from agent.telemetry.probe_result import ProbeUnknown

_MOUNT_LIMIT = 16


class HostSampler:
    """Reads host telemetry; keeps the last CPU times, to give ratios over the interval.

    Args:
        pool: where calls that can hang are made.
        mounts: paths whose file systems are measured, at most 16.
        proc_root: where proc(5) is mounted.
        deadline_s: of one probe.
        pid: root of the agent's own process tree.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pool: ProbePool,
        *,
        mounts: Sequence[str] = ("/",),
        proc_root: str = "/proc",
        deadline_s: float = 5.0,
        pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._mounts = tuple(mounts)[:_MOUNT_LIMIT]
        self._proc_root = proc_root
        self._deadline_s = deadline_s
        self._pid = os.getpid() if pid is None else pid
        self._clock = clock
        self._is_proc_foreign = is_proc_served_by_fuse(proc_root)
        self._cpu_before: dict[str, Any] | None = None
        self._facts = {"kernel": os.uname().release, "boot_id": _boot_id(proc_root)}

    async def sample(self) -> dict[str, Any]:
        """Gives the host's part of the sample: `kernel`, `boot_id` and the sections that could be read.

        `cpu` holds ratios over the time since the last call, from the second call on. See
        `read_host_counters`.
        """
        if self._is_proc_foreign:
            args = {"proc_root": self._proc_root, "pid": self._pid}
            result = await self._pool.run("host-counters", args, self._deadline_s)
            if isinstance(result, ProbeUnknown):
                return self._facts | {"unknown": result.reason.value}
            counters: dict[str, Any] = result.value
        else:
            counters = read_host_counters(self._proc_root, self._pid)
        cpu = counters.pop("cpu", None)
        before, self._cpu_before = self._cpu_before, cpu
        if cpu is not None:
            counters["cpu"] = cpu_ratios(before, cpu)
        return self._facts | counters

    async def disks(self) -> dict[str, dict[str, Any]]:
        """Gives `mounts`: sizes by path; one that doesn't answer has `unknown` with the reason, alone."""
        results = await asyncio.gather(
            *(
                self._pool.run("disk-usage", {"path": mount}, self._deadline_s, key=f"disk:{mount}")
                for mount in self._mounts
            )
        )
        sizes = {
            mount: {"unknown": r.reason.value, "detail": r.detail} if isinstance(r, ProbeUnknown) else r.value
            for mount, r in zip(self._mounts, results, strict=True)
        }
        return {"mounts": sizes}


def cpu_ratios(before: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, float | int]:
    """Shares of all cores' time between two readings; only the core count without a first one.

    Gives `busy_ratio`, `iowait_ratio`, `steal_ratio`, and the busiest and idlest core's busy ratio.
    """
    ratios: dict[str, float | int] = {"cores": len(after["cores_s"])}
    if before is None or len(before["cores_s"]) != len(after["cores_s"]):
        return ratios
    spent = {mode: max(0.0, total - before["modes_s"][mode]) for mode, total in after["modes_s"].items()}
    total_s = sum(spent.values())
    if total_s <= 0:
        return ratios
    busy = []
    for (busy_before, total_before), (busy_after, total_after) in zip(
        before["cores_s"], after["cores_s"], strict=True
    ):
        lasted_s = total_after - total_before
        busy.append(0.0 if lasted_s <= 0 else min(1.0, max(0.0, (busy_after - busy_before) / lasted_s)))
    ratios["busy_ratio"] = round(1 - (spent["idle"] + spent["iowait"]) / total_s, 4)
    ratios["iowait_ratio"] = round(spent["iowait"] / total_s, 4)
    ratios["steal_ratio"] = round(spent["steal"] / total_s, 4)
    ratios["busiest_core_ratio"] = round(max(busy), 4)
    ratios["idlest_core_ratio"] = round(min(busy), 4)
    return ratios


def is_proc_served_by_fuse(proc_root: str) -> bool:
    """Whether something under `proc_root` is a FUSE mount, so that reading it may hang."""
    with suppress(OSError, ValueError):
        for line in Path(proc_root, "self/mountinfo").read_text("utf-8", "replace").splitlines():
            fields, _, rest = line.partition(" - ")
            mount_point = fields.split()[4]
            if mount_point.startswith(f"{proc_root.rstrip('/')}/") and rest.startswith("fuse"):
                return True
    return False


def _boot_id(proc_root: str) -> str | None:
    with suppress(OSError):
        return Path(proc_root, "sys/kernel/random/boot_id").read_text("ascii").strip()
    return None
