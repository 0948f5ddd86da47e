"""Whole samples: bounded, fit for the wire, and never late for one part's sake."""

import asyncio
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop

from agent.core.conditions import ConditionType
from agent.core.metrics_text import render_metrics
from agent.core.readings import readings_of
from agent.telemetry.collector import Collector, CollectorConfig
from agent.telemetry.probe_pool import ProbePool
from nanny.protocol.messages import WorkerReport, from_wire, to_wire
from tests.support.dead_mount import dead_mount, why_no_dead_mount

uvloop.run(asyncio.sleep(0))  # its first loop makes a pipe that it keeps for the process

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


async def sample_twice(config: CollectorConfig) -> dict[str, Any]:
    pool = ProbePool()
    await pool.start()
    collector = Collector(config, pool)
    try:
        await collector.sample()
        await asyncio.sleep(0.05)
        return await collector.sample()
    finally:
        await collector.close()
        await pool.close()


def test_a_sample_fits_the_wire_and_a_worker_report() -> None:
    sample = uvloop.run(sample_twice(CollectorConfig(deadline_s=30, probe_deadline_s=20)))
    assert msgpack.unpackb(msgpack.packb(sample)) == _without_tuples(sample)
    report = WorkerReport(seq=1, loop_lag_s=0.0, telemetry=sample, conditions=())
    assert isinstance(from_wire(to_wire(report)), WorkerReport)
    assert sample["samples_total"] == 2
    assert sample["disks"]["mounts"]["/"]["total_bytes"] > 0
    assert 0 <= sample["host"]["cpu"]["busy_ratio"] <= 1
    assert "stale" not in sample


def test_a_sample_gives_metrics_and_readings() -> None:
    sample = uvloop.run(sample_twice(CollectorConfig(deadline_s=30, probe_deadline_s=20)))
    text = render_metrics(sample)
    assert 'nodenanny_filesystem_answers{mount="/"} 1\n' in text
    assert "nodenanny_probe_server_up 1\n" in text
    types = {reading.type for reading in readings_of(sample)}
    assert (
        {ConditionType.PROBE_RESIDUE}
        <= types
        <= {ConditionType.PROBE_RESIDUE, ConditionType.DISK_PRESSURE, *_gpu()}
    )


@pytest.mark.root
@pytest.mark.slow
async def test_a_late_part_is_stale_and_costs_the_others_nothing(tmp_path: Path) -> None:
    reason = why_no_dead_mount()
    if reason is not None:
        pytest.skip(reason)
    pool = ProbePool()
    await pool.start()
    collector = Collector(
        CollectorConfig(mounts=[str(tmp_path / "dead")], deadline_s=1.0, probe_deadline_s=5), pool
    )
    try:
        with dead_mount(tmp_path / "dead"):
            first = await collector.sample()
            assert first["host"]["memory"]["total_bytes"] > 0
            assert first["disks"] == {"status": "pending"}
            assert first["duration_s"] < 4
            later = first
            while "mounts" not in later["disks"]:
                later = await collector.sample()
            assert later["disks"]["mounts"][str(tmp_path / "dead")]["unknown"] == "timeout"
    finally:
        await collector.close()
        await pool.close()


async def test_a_bug_in_one_part_is_that_parts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_args: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr("agent.telemetry.host.read_host_counters", break_down)
    sample = await sample_twice(CollectorConfig(deadline_s=30, probe_deadline_s=20))
    assert sample["host"] == {"status": "unknown", "reason": "ZeroDivisionError: bug"}
    assert "mounts" in sample["disks"]
    render_metrics(sample)


async def test_run_delivers_at_each_interval_until_cancelled() -> None:
    pool = ProbePool()
    await pool.start()
    collector = Collector(CollectorConfig(interval_s=0.05), pool)
    samples: list[dict[str, Any]] = []
    enough = asyncio.Event()

    async def deliver(sample: dict[str, Any]) -> None:
        samples.append(sample)
        if len(samples) == 3:
            enough.set()

    running = asyncio.create_task(collector.run(deliver))
    await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await pool.close()
    assert [sample["samples_total"] for sample in samples[:3]] == [1, 2, 3]


def _gpu() -> set[ConditionType]:
    return {ConditionType.GPU_DRIVER_UNRESPONSIVE, ConditionType.GPU_LOST}


def _without_tuples(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_tuples(value) for key, value in tree.items()}
    return [_without_tuples(value) for value in tree] if isinstance(tree, (list, tuple)) else tree
