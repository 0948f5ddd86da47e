"""What one sample says about each condition."""

from typing import Any

import pytest

from agent.core.conditions import Conditions, ConditionType, Reading, observe
from agent.core.readings import (
    clock_skew,
    disk_pressure,
    driver_children_stuck,
    gpu_driver,
    gpu_lost,
    nanny_gone,
    probe_residue,
    readings_of,
)
from nanny.protocol.messages import ConditionStatus

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


def gpu(*states: str, **changes: Any) -> dict[str, Any]:
    devices = [{"uuid": f"GPU-{n}", "index": n, "state": state} for n, state in enumerate(states)]
    return {"status": "ok", "devices": devices, "overran": [], "capped": False} | changes


def disk(used_ratio: float, *, inodes_ratio: float = 0.0, is_read_only: bool = False) -> dict[str, Any]:
    free = round(1000 * (1 - used_ratio))
    return {
        "total_bytes": 1000,
        "free_bytes": free,
        "available_bytes": free,
        "inodes": 1000,
        "inodes_free": round(1000 * (1 - inodes_ratio)),
        "is_read_only": is_read_only,
    }


def verdict(reading: Reading | None) -> tuple[ConditionStatus, str] | None:
    return None if reading is None else (reading.status, reading.reason)


def test_a_sample_without_sources_says_nothing() -> None:
    assert readings_of({}) == []


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (None, None),
        (gpu("ok"), (FALSE, "Answers")),
        (gpu("ok", overran=["gpu:GPU-0"]), (TRUE, "ProbeOverran")),
        (gpu("ok", overran=["gpu:GPU-0"], capped=True), (TRUE, "ProbesStuck")),
        (gpu("unknown", status="unknown", reason="server-down"), (UNKNOWN, "NotAsked")),
        (gpu(status="pending"), (UNKNOWN, "Pending")),
    ],
)
def test_gpu_driver(part: dict[str, Any] | None, expected: tuple[ConditionStatus, str] | None) -> None:
    assert verdict(gpu_driver(part)) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (None, None),
        (gpu("ok", "ok"), (FALSE, "AllPresent")),
        (gpu("ok", "lost"), (TRUE, "DeviceGone")),
        (gpu("missing", "unknown"), (TRUE, "DeviceGone")),
        (gpu("ok", "unknown"), (UNKNOWN, "DeviceSilent")),
        (gpu(status="pending"), None),
    ],
)
def test_gpu_lost(part: dict[str, Any] | None, expected: tuple[ConditionStatus, str] | None) -> None:
    assert verdict(gpu_lost(part)) == expected


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (None, None),
        ({"/": disk(0.5)}, FALSE),
        ({"/": disk(0.92)}, None),
        ({"/": disk(0.96)}, TRUE),
        ({"/": disk(0.1, inodes_ratio=0.99)}, TRUE),
        ({"/": disk(0.1, is_read_only=True)}, TRUE),
        ({"/": disk(0.5), "/nfs": {"unknown": "timeout"}}, UNKNOWN),
        ({"/": disk(0.96), "/nfs": {"unknown": "timeout"}}, TRUE),
        (
            {"/proc": disk(0.0) | {"total_bytes": 0, "free_bytes": 0, "available_bytes": 0, "inodes": 0}},
            FALSE,
        ),
    ],
)
def test_disk_pressure(mounts: dict[str, Any] | None, expected: ConditionStatus | None) -> None:
    reading = disk_pressure(mounts)
    assert (None if reading is None else reading.status) == expected


def test_probe_residue_names_this_life_and_earlier_ones() -> None:
    none = probe_residue({"stuck": {}}, 0)
    some = probe_residue({"stuck": {"gpu:A": 2}}, 1)
    assert none is not None
    assert none.status is FALSE
    assert some is not None
    assert some.status is TRUE
    assert "gpu:A (2)" in some.message
    assert "earlier incarnations (1)" in some.message


def test_nanny_gone_and_clock_skew_say_nothing_where_nothing_is_measured() -> None:
    assert (nanny_gone(None), clock_skew(None, 2.0)) == (None, None)
    assert verdict(nanny_gone(0)) == (FALSE, "BeatsHeard")
    assert verdict(nanny_gone(3)) == (TRUE, "BeatsUnheard")
    assert verdict(clock_skew(-5.0, 2.0)) == (TRUE, "Skewed")
    assert verdict(clock_skew(1.0, 2.0)) == (FALSE, "InStep")


def test_one_late_driver_call_raises_nothing_two_do() -> None:
    late = readings_of({"gpu": gpu("unknown", overran=["gpu:GPU-0"])})
    once, _ = observe(Conditions(), late, 0.0, 1e6)
    assert ConditionType.GPU_DRIVER_UNRESPONSIVE not in once.current
    twice, changes = observe(once, late, 10.0, 1e6)
    assert twice.current[ConditionType.GPU_DRIVER_UNRESPONSIVE].status is TRUE
    assert [change.after.type for change in changes] == [ConditionType.GPU_DRIVER_UNRESPONSIVE]


def test_a_child_that_hangs_on_a_dead_disk_is_not_the_drivers() -> None:
    stuck = {"disk:/data": 2, "gpu-sample": 1, "gpu:GPU-1": 1, "resolve": 1}
    assert driver_children_stuck(stuck) == 2
