"""Host telemetry from the real /proc and from a written one."""

import json
import os
from pathlib import Path

import pytest

from agent.telemetry.host import HostSampler, cpu_ratios, is_proc_served_by_fuse
from agent.telemetry.host_counters import read_host_counters
from agent.telemetry.probe_pool import ProbePool
from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.processes import spawn_python


def test_the_real_host_gives_all_sections_of_bounded_size() -> None:
    found = read_host_counters("/proc", os.getpid())
    assert {"cpu", "memory", "load", "uptime_s", "disk_io", "network", "agent"} <= set(found)
    assert found["memory"]["total_bytes"] > found["memory"]["available_bytes"] > 0
    assert found["agent"]["rss_bytes"] > 1 << 20
    assert found["agent"]["open_fds"] >= 3
    assert len(json.dumps(found)) < 200_000


def test_the_process_tree_holds_children() -> None:
    alone = read_host_counters("/proc", os.getpid())["agent"]["processes"]
    with spawn_python("import time; print('ready', flush=True); time.sleep(60)") as child:
        child.read_line()
        assert read_host_counters("/proc", os.getpid())["agent"]["processes"] == alone + 1


def test_an_empty_proc_gives_no_sections_and_no_error(tmp_path: Path) -> None:
    assert read_host_counters(str(tmp_path), 1) == {}


def test_pressure_comes_as_ratios_and_seconds(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    line = "some avg10=12.50 avg60=3.00 avg300=0.00 total=2500000\n"
    (tmp_path / "pressure" / "io").write_text(line)
    assert read_host_counters(str(tmp_path))["pressure"] == {
        "io": {"some_avg10_ratio": 0.125, "some_avg60_ratio": 0.03, "some_stall_s_total": 2.5}
    }


def test_cpu_ratios_are_shares_between_two_readings() -> None:
    modes = {
        "user": 0.0,
        "nice": 0.0,
        "system": 0.0,
        "idle": 0.0,
        "iowait": 0.0,
        "irq": 0.0,
        "softirq": 0.0,
        "steal": 0.0,
    }
    before = {"modes_s": modes, "cores_s": [(0.0, 0.0), (0.0, 0.0)]}
    after = {
        "modes_s": modes | {"user": 10.0, "idle": 8.0, "iowait": 1.0, "steal": 1.0},
        "cores_s": [(10.0, 10.0), (1.0, 10.0)],
    }
    assert cpu_ratios(before, after) == {
        "cores": 2,
        "busy_ratio": 0.55,
        "iowait_ratio": 0.05,
        "steal_ratio": 0.05,
        "busiest_core_ratio": 1.0,
        "idlest_core_ratio": 0.1,
    }


def test_a_core_that_came_or_went_makes_no_false_ratio() -> None:
    assert cpu_ratios({"modes_s": {}, "cores_s": [(0.0, 0.0)]}, {"modes_s": {}, "cores_s": []}) == {
        "cores": 0
    }


def test_lxcfs_over_proc_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    mountinfo = tmp_path / "self" / "mountinfo"
    mountinfo.write_text(f"36 35 98:0 / {tmp_path}/meminfo rw - fuse.lxcfs lxcfs rw\n")
    assert is_proc_served_by_fuse(str(tmp_path))
    mountinfo.write_text(
        f"36 35 98:0 / {tmp_path} rw - proc proc rw\n40 35 0:9 / /srv rw - fuse.sshfs x rw\n"
    )
    assert not is_proc_served_by_fuse(str(tmp_path))


@pytest.mark.usefixtures("leaves_nothing_behind")
async def test_a_foreign_proc_is_read_by_a_probe_with_the_same_result() -> None:
    pool = ProbePool()
    await pool.start()
    try:
        sampler = HostSampler(pool, deadline_s=30)
        sampler._is_proc_foreign = True
        found = await sampler.sample()
        direct = await HostSampler(pool).sample()
        assert set(found) == set(direct)
        assert pool.census().started_total == 1
    finally:
        await pool.close()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.usefixtures("leaves_nothing_behind")
async def test_a_dead_mount_is_unknown_alone(tmp_path: Path) -> None:
    reason = why_no_dead_mount()
    if reason is not None:
        pytest.skip(reason)
    pool = ProbePool()
    await pool.start()
    try:
        with dead_mount(tmp_path / "dead") as dead:
            sampler = HostSampler(pool, mounts=["/", str(dead), "/nonesuch"], deadline_s=3)
            mounts = (await sampler.disks())["mounts"]
        assert mounts["/"]["total_bytes"] > 0
        assert mounts[str(dead)]["unknown"] == "timeout"
        assert mounts["/nonesuch"]["unknown"] == "error"
    finally:
        await pool.close()
