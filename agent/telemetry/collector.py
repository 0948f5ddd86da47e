"""One telemetry sample: host, disks and GPUs gathered independently, within one deadline.

A part that is not done by the deadline stays at work in the background; the sample carries what it gave last,
marked with its age, or says that it is pending. So a first driver call may take its 45 s while the host's
figures go out every interval, and one part's trouble never costs another's.

Doesn't judge (`agent.core.readings`), render (`agent.core.metrics_text`) or send.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.telemetry.gpu import GpuSampler
from agent.telemetry.host import HostSampler
from agent.telemetry.probe_pool import ProbePool


@dataclass(frozen=True, slots=True)
class CollectorConfig:
    """What to collect, and how patiently.

    Attributes:
        interval_s: between samples.
        deadline_s: of one sample as a whole.
        probe_deadline_s: of one warm probe.
        gpu_first_deadline_s: of GPU probes until the driver has answered once.
        inventory_interval_s: between enumerations of the GPUs.
        mounts: paths whose file systems are measured.
        expected_gpu_uuids: devices known from an earlier life.
        proc_root: where proc(5) is mounted.
    """

    interval_s: float = 10.0
    deadline_s: float = 8.0
    probe_deadline_s: float = 5.0
    gpu_first_deadline_s: float = 45.0
    inventory_interval_s: float = 60.0
    mounts: Sequence[str] = ("/",)
    expected_gpu_uuids: Sequence[str] = ()
    proc_root: str = "/proc"


class Collector:
    """Takes samples; owns the background work of parts that overran a sample.

    Args:
        config: what to collect.
        pool: where calls that can hang are made; stays the caller's.
        clock: monotonic seconds.
        wall_clock: seconds since the epoch, for people only.
    """

    def __init__(
        self,
        config: CollectorConfig,
        pool: ProbePool,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._pool = pool
        self._clock = clock
        self._wall_clock = wall_clock
        host = HostSampler(
            pool,
            mounts=config.mounts,
            proc_root=config.proc_root,
            deadline_s=config.probe_deadline_s,
            clock=clock,
        )
        gpu = GpuSampler(
            pool,
            deadline_s=config.probe_deadline_s,
            first_deadline_s=config.gpu_first_deadline_s,
            inventory_interval_s=config.inventory_interval_s,
            expected_uuids=config.expected_gpu_uuids,
            clock=clock,
        )
        self._host = _Part(host.sample, clock, {})
        self._disks = _Part(host.disks, clock, {})
        self._gpu = _Part(gpu.sample, clock, {"devices": [], "overran": []})
        self._samples_total = 0

    async def sample(self) -> dict[str, Any]:
        """Gives one sample: bounded nested maps of scalars, fit for msgpack and for a `WorkerReport`.

        Keys: `schema taken_wall_at duration_s samples_total host disks gpu probes`, and `stale` with the
        age in seconds of each part that is older than this sample. `gpu` is absent on a node without GPUs.
        """
        began_at = self._clock()
        deadline_at = began_at + self._config.deadline_s
        host, disks, gpu = await asyncio.gather(
            self._host.latest(deadline_at), self._disks.latest(deadline_at), self._gpu.latest(deadline_at)
        )
        self._samples_total += 1
        now = self._clock()
        parts = {"host": host, "disks": disks, "gpu": gpu}
        sample: dict[str, Any] = {
            "schema": 1,
            "taken_wall_at": round(self._wall_clock(), 3),
            "duration_s": round(now - began_at, 4),
            "samples_total": self._samples_total,
            "probes": self._probes(),
        }
        if stale := {name: round(now - p.at, 1) for name, p in parts.items() if p.at < began_at}:
            sample["stale"] = stale
        sample |= {name: part.value for name, part in parts.items() if part.value is not None}
        return sample

    async def run(self, deliver: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Samples at each interval until cancelled; a round that took longer skips the missed ones."""
        due_at = self._clock()
        try:
            while True:
                await deliver(await self.sample())
                due_at = max(due_at + self._config.interval_s, self._clock())
                await asyncio.sleep(due_at - self._clock())
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends background work; children of the pool end with the pool."""
        for part in (self._host, self._disks, self._gpu):
            await part.close()

    def _probes(self) -> dict[str, Any]:
        census = self._pool.census()
        return {
            "running": census.running,
            "overrun": dict(census.overrun),
            "stuck": dict(census.stuck),
            "started_total": census.started_total,
            "overran_total": census.overran_total,
            "late_total": census.late_total,
            "server_starts_total": census.server_starts_total,
            "is_server_up": census.is_server_up,
        }


@dataclass(frozen=True, slots=True)
class _Found:
    value: Any
    at: float


class _Part:
    """One part's reading: at most one at work, the last one kept."""

    def __init__(
        self, read: Callable[[], Awaitable[Any]], clock: Callable[[], float], absent: Mapping[str, Any]
    ) -> None:
        self._read = read
        self._clock = clock
        self._absent = dict(absent)
        self._task: asyncio.Task[_Found] | None = None
        self._last: _Found | None = None

    async def latest(self, deadline_at: float) -> _Found:
        """Gives a new reading if it is there by the deadline, else the last one, else a pending mark."""
        if self._task is None:
            self._task = asyncio.create_task(self._once())
        await asyncio.wait({self._task}, timeout=max(0.0, deadline_at - self._clock()))
        if self._task.done():
            task, self._task = self._task, None
            self._last = task.result()
        if self._last is None:
            return _Found(self._absent | {"status": "pending"}, self._clock())
        return self._last

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _once(self) -> _Found:
        try:
            value = await self._read()
        except Exception as error:  # a bug in one part must not cost the others
            reason = f"{type(error).__name__}: {error}"[:200]
            value = self._absent | {"status": "unknown", "reason": reason}
        return _Found(value, self._clock())
