"""What disposable probes cost: time of a `gpu-sample` and of an empty probe, memory of the probe server.

Usage: python -m benchmarks.probe_cost [folder with a libnvidia-ml.so.1]. Without one, the library is found as
usual, and a node without GPUs shows the cost of learning that there are none.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

from agent.telemetry.host_counters import read_host_counters
from agent.telemetry.probe_launch import launch_probe_server
from agent.telemetry.probe_pool import ProbePool
from agent.telemetry.probe_result import ProbeUnknown

ROUNDS = 300


async def measure(library_folder: str | None) -> dict[str, object]:
    environment = {} if library_folder is None else {"LD_LIBRARY_PATH": library_folder}
    server = launch_probe_server(extra_environment=environment)
    pool = ProbePool(first=server)
    began_at = time.perf_counter()
    await pool.start()
    inventory = await pool.run("gpu-inventory", {"skip": []}, 45)
    figures: dict[str, object] = {"first_answer_ms": _ms(time.perf_counter() - began_at)}
    uuids = [part["uuid"] for part in inventory.parts if "uuid" in part]
    figures["devices"] = len(uuids)
    cpu_before = _cpu_s(server.process.pid)
    figures["gpu_sample_ms"] = await _time(pool, "gpu-sample", {"uuids": uuids})
    figures["disk_usage_ms"] = await _time(pool, "disk-usage", {"path": "/"})
    figures["server_cpu_ms_per_probe"] = _ms((_cpu_s(server.process.pid) - cpu_before) / (2 * ROUNDS))
    figures |= _memory_mib(server.process.pid)
    await pool.close()
    read_host_counters()
    took = []
    for _ in range(ROUNDS):
        began_at = time.perf_counter()
        read_host_counters()
        took.append(time.perf_counter() - began_at)
    figures["host_counters_in_loop_ms"] = _percentiles(took)
    return figures


async def _time(pool: ProbePool, probe: str, args: dict[str, object]) -> dict[str, float]:
    took = []
    for _ in range(ROUNDS):
        began_at = time.perf_counter()
        result = await pool.run(probe, args, 45)
        took.append(time.perf_counter() - began_at)
        if isinstance(result, ProbeUnknown) and result.reason.value not in {"library-absent", "no-device"}:
            raise RuntimeError(f"{probe}: {result}")
        await asyncio.sleep(0.005)
    return _percentiles(took)


def _memory_mib(pid: int) -> dict[str, float]:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in rollup[1:]}
    return {"server_rss_mib": round(sizes["Rss:"], 1), "server_pss_mib": round(sizes["Pss:"], 1)}


def _percentiles(took: list[float]) -> dict[str, float]:
    took = sorted(took)
    return {"p50": _ms(took[len(took) // 2]), "p99": _ms(took[int(len(took) * 0.99)])}


def _cpu_s(pid: int) -> float:
    """CPU time of the server and of its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / 100


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1] if len(sys.argv) > 1 else None)), indent=2))
