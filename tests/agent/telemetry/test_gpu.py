"""GPU readings through the real NVML bindings on a stand-in library that fails in every way a driver does."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.telemetry.gpu import GpuSampler
from agent.telemetry.probe_launch import launch_probe_server
from agent.telemetry.probe_pool import ProbePool
from tests.support.fake_nvml import CONTROL, build_fake_nvml, set_mode, why_no_fake_nvml

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stand-in libnvidia-ml.so.1; FAKE_NVML_LIBRARY may name another library's."""
    if "FAKE_NVML_LIBRARY" in os.environ:
        return Path(os.environ["FAKE_NVML_LIBRARY"])
    if (why_not := why_no_fake_nvml()) is not None:
        pytest.skip(why_not)
    folder = tmp_path_factory.mktemp("nvml")
    build_fake_nvml(folder)
    return folder


class Gpus:
    """A sampler on the stand-in library, with the library's mode at hand."""

    def __init__(self, pool: ProbePool, control: Path, **options: Any) -> None:
        self.pool = pool
        self._control = control
        self.sampler = GpuSampler(pool, deadline_s=1.0, first_deadline_s=20.0, **options)

    def set_mode(self, mode: str) -> None:
        set_mode(self._control, mode)

    async def sample(self, mode: str) -> dict[str, Any]:
        self.set_mode(mode)
        found = await self.sampler.sample()
        assert found is not None
        return found


@pytest.fixture
def gpus(fake_nvml: Path, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Gpus]:
        control = tmp_path / "control"
        set_mode(control, "ok")
        environment = {"LD_LIBRARY_PATH": str(fake_nvml), CONTROL: str(control)}
        pool = ProbePool(launch=partial(launch_probe_server, extra_environment=environment))
        await pool.start()
        try:
            yield Gpus(pool, control, **options)
        finally:
            await pool.close()

    return running


def states(found: dict[str, Any]) -> list[str]:
    return [device["state"] for device in found["devices"]]


async def test_every_field_of_a_healthy_device_is_read_and_absent_ones_are_absent(gpus: Any) -> None:
    async with gpus() as gpu:
        found = await gpu.sample("ok")
    assert (found["status"], found["driver_version"], states(found)) == ("ok", "999.01", ["ok"] * 3)
    first, _, third = found["devices"]
    assert first == {
        "index": 0,
        "uuid": "GPU-fake-0",
        "name": "Fake H1",
        "serial": "10000",
        "pci_bus_id": "00000000:01:00.0",
        "state": "ok",
        "memory_total_bytes": 80 << 30,
        "memory_used_bytes": 1 << 30,
        "utilization_ratio": 0.5,
        "memory_utilization_ratio": 0.25,
        "temperature_celsius": 40,
        "power_watts": 123.456,
        "ecc_uncorrected_volatile": 0,
    }
    assert "serial" not in third


@pytest.mark.parametrize(
    ("mode", "state", "error"),
    [
        ("lost 1", "lost", "15 GPU is lost"),
        ("unknown 1", "unknown", "999 Unknown Error"),
        ("missing 1", "missing", "6 Not Found"),
        ("segv 1", "unknown", "crashed"),
        ("abort 1", "unknown", "crashed"),
    ],
)
async def test_one_broken_device_hides_no_other_and_comes_back(
    gpus: Any, mode: str, state: str, error: str
) -> None:
    async with gpus() as gpu:
        await gpu.sample("ok")
        found = await gpu.sample(mode)
        assert states(found) == ["ok", state, "ok"]
        assert found["devices"][1]["error"] == error
        assert found["overran"] == []
        assert states(await gpu.sample("ok")) == ["ok"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hang 1", "spin 1"])
async def test_a_device_that_hangs_is_named_counted_capped_and_hides_no_other(gpus: Any, mode: str) -> None:
    async with gpus() as gpu:
        await gpu.sample("ok")
        for is_capped in (False, False, True):
            found = await gpu.sample(mode)
            assert states(found) == ["ok", "unknown", "ok"]
            assert (found["overran"], found["capped"]) == (["gpu:GPU-fake-1"], is_capped)
        assert gpu.pool.census().overrun == {"gpu:GPU-fake-1": 2}


@pytest.mark.slow
async def test_a_device_that_hangs_at_the_first_enumeration_hides_none_behind_it(gpus: Any) -> None:
    async with gpus() as gpu:
        gpu.sampler._first_deadline_s = 2.0
        found = await gpu.sample("hang 0")
        assert [(device["index"], device["state"]) for device in found["devices"]] == [
            (1, "ok"),
            (2, "ok"),
            (0, "unknown"),
        ]
        assert found["overran"] == ["gpu:index-0"]


@pytest.mark.slow
async def test_a_hang_of_nvml_as_a_whole_makes_all_unknown_and_then_starts_no_more(gpus: Any) -> None:
    async with gpus() as gpu:
        await gpu.sample("ok")
        for _ in range(2):
            found = await gpu.sample("hang")
            assert (found["status"], found["reason"], states(found)) == (
                "unknown",
                "timeout",
                ["unknown"] * 3,
            )
        while not (found := await gpu.sample("hang"))["capped"]:
            assert gpu.pool.census().started_total < 12
        started = gpu.pool.census().started_total
        assert (await gpu.sample("hang"))["capped"]
        assert gpu.pool.census().started_total <= started + 1


async def test_a_version_mismatch_is_trouble_with_a_reason_not_an_absence(gpus: Any) -> None:
    async with gpus() as gpu:
        found = await gpu.sample("mismatch")
    assert (found["status"], found["reason"]) == ("unknown", "error")
    assert "18" in found["detail"]


async def test_without_a_driver_there_are_no_columns_until_it_is_loaded(gpus: Any) -> None:
    async with gpus(inventory_interval_s=0.0) as gpu:
        gpu.set_mode("notloaded")
        assert await gpu.sampler.sample() is None
        assert states(await gpu.sample("ok")) == ["ok"] * 3


async def test_a_driver_unloaded_later_leaves_its_devices_unknown(gpus: Any) -> None:
    async with gpus() as gpu:
        await gpu.sample("ok")
        found = await gpu.sample("notloaded")
        assert (found["status"], found["reason"], states(found)) == ("unknown", "no-device", ["unknown"] * 3)


async def test_a_node_without_devices_has_no_columns(gpus: Any) -> None:
    async with gpus() as gpu:
        gpu.set_mode("nodevice")
        assert await gpu.sampler.sample() is None


async def test_without_the_library_there_are_no_columns_and_no_errors(tmp_path: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    pool = ProbePool(launch=partial(launch_probe_server, extra_environment=environment))
    await pool.start()
    try:
        found = await GpuSampler(pool).sample()
        if found is not None:
            pytest.skip("this machine has a real libnvidia-ml.so.1")
    finally:
        await pool.close()


async def test_a_device_known_from_an_earlier_life_is_missed(gpus: Any) -> None:
    async with gpus(expected_uuids=["GPU-fake-7"]) as gpu:
        found = await gpu.sample("ok")
    assert {device["uuid"]: device["state"] for device in found["devices"]} == {
        "GPU-fake-7": "missing",
        "GPU-fake-0": "ok",
        "GPU-fake-1": "ok",
        "GPU-fake-2": "ok",
    }


async def test_the_first_call_after_a_start_has_the_long_deadline(gpus: Any) -> None:
    async with gpus() as gpu:
        gpu.set_mode("hang")
        asked = asyncio.create_task(gpu.sampler.sample())
        await asyncio.sleep(1.5)  # past the warm deadline
        assert not asked.done()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
