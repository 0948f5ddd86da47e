"""What disposable probes cost: time of a `gpu-sample` and of `disk-usage`, CPU of the probe server.

The GPU library is found as usual (LD_LIBRARY_PATH); a node without GPUs shows what it costs to learn so.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import uvloop

from agent.telemetry.host_counters import read_host_counters
from agent.telemetry.probe_launch import launch_probe_server
from agent.telemetry.probe_pool import ProbePool
from agent.telemetry.probe_result import ProbeUnknown
from benchmarks.figures import Effort, Figure, measured

if TYPE_CHECKING:
    from collections.abc import Iterator


def measure(effort: Effort) -> Iterator[Figure]:
    """All of it in one loop, as in the agent."""
    yield from uvloop.run(_measured(effort.count(300, 60)))


async def _measured(rounds: int) -> list[Figure]:
    pool = ProbePool(first=launch_probe_server())
    await pool.start()
    try:
        inventory = await pool.run("gpu-inventory", {"skip": []}, 45)
        uuids = [part["uuid"] for part in inventory.parts if "uuid" in part]
        gpus = await _times(pool, "gpu-sample", {"uuids": uuids}, rounds)
        disk = await _times(pool, "disk-usage", {"path": "/"}, rounds)
    finally:
        await pool.close()
    counters = []
    for _ in range(rounds):
        began_at = time.perf_counter()
        read_host_counters()
        counters.append(time.perf_counter() - began_at)
    return [
        measured("a disposable probe: GPU sample", "ms", gpus, 1e3, words=f"{len(uuids)} GPUs"),
        measured("a disposable probe: disk usage", "ms", disk, 1e3),
        measured("host counters, in the loop", "ms", counters, 1e3),
    ]


async def _times(pool: ProbePool, probe: str, args: dict[str, object], rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        began_at = time.perf_counter()
        result = await pool.run(probe, args, 45)
        took.append(time.perf_counter() - began_at)
        if isinstance(result, ProbeUnknown) and result.reason.value not in {"library-absent", "no-device"}:
            raise RuntimeError(f"{probe}: {result}")
        await asyncio.sleep(0.005)
    return took
