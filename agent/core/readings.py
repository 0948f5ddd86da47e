"""From telemetry to readings: what one sample says about each condition.

One function a condition; each takes plain values of a sample and gives a `Reading`, or None when the sample
says nothing about it. A GPU that doesn't answer is Unknown, not lost; a missing source raises nothing.

Knows no clock, no debounce, no wire: those are in `conditions`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.core.conditions import ConditionType, Reading
from nanny.protocol.messages import ConditionStatus

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
_NAMED = 4


def readings_of(
    sample: Mapping[str, Any],
    *,
    nanny_beat_failures: int | None = None,
    residue_before: int = 0,
    clock_skew_s: float | None = None,
    clock_skew_limit_s: float = 2.0,
) -> list[Reading]:
    """Gives all readings of one sample.

    Args:
        sample: as `agent.telemetry.collector` makes it.
        nanny_beat_failures: beats in a row that reached nobody; None when no nanny is expected.
        residue_before: children of earlier incarnations in D state, as the nanny told at the start.
        clock_skew_s: the node's wall clock less the server's, None when not measured.
        clock_skew_limit_s: from where on it is a condition.
    """
    found = [
        gpu_driver(sample.get("gpu")),
        gpu_lost(sample.get("gpu")),
        probe_residue(sample.get("probes"), residue_before),
        disk_pressure(sample.get("disks", {}).get("mounts")),
        nanny_gone(nanny_beat_failures),
        clock_skew(clock_skew_s, clock_skew_limit_s),
    ]
    return [reading for reading in found if reading is not None]


def gpu_driver(gpu: Mapping[str, Any] | None) -> Reading | None:
    """`GpuDriverUnresponsive`: a disposable child overran its deadline in a driver call.

    Unknown when the driver could not be asked for another reason; conclusive when so many children hang
    that no further one may be started.
    """
    if gpu is None:
        return None
    kind = ConditionType.GPU_DRIVER_UNRESPONSIVE
    if overran := gpu.get("overran", []):
        is_capped = bool(gpu.get("capped"))
        message = f"calls into the GPU driver do not return: {_listed(overran)}"
        return Reading(kind, _TRUE, "ProbesStuck" if is_capped else "ProbeOverran", message, is_capped)
    if gpu["status"] == "pending":
        return Reading(kind, _UNKNOWN, "Pending", "the driver has not answered yet, within its deadline")
    if gpu["status"] != "ok":
        return Reading(kind, _UNKNOWN, "NotAsked", f"the driver could not be asked: {gpu.get('reason')}")
    return Reading(kind, _FALSE, "Answers", "the driver answers")


def gpu_lost(gpu: Mapping[str, Any] | None) -> Reading | None:
    """`GpuLost`: a device known before is gone, or the driver calls it lost."""
    if gpu is None or gpu["status"] == "pending":
        return None
    devices: Sequence[Mapping[str, Any]] = gpu["devices"]
    lost = [_name(device) for device in devices if device["state"] in {"lost", "missing"}]
    if lost:
        return Reading(ConditionType.GPU_LOST, _TRUE, "DeviceGone", f"lost or missing: {_listed(lost)}")
    silent = [_name(device) for device in devices if device["state"] == "unknown"]
    if silent:
        return Reading(ConditionType.GPU_LOST, _UNKNOWN, "DeviceSilent", f"no answer from: {_listed(silent)}")
    return Reading(ConditionType.GPU_LOST, _FALSE, "AllPresent", f"all {len(devices)} devices answer")


def probe_residue(probes: Mapping[str, Any] | None, residue_before: int) -> Reading | None:
    """`ProbeResidue`: children that SIGKILL doesn't end, of this incarnation or an earlier one."""
    if probes is None:
        return None
    stuck: Mapping[str, int] = probes.get("stuck", {})
    if not stuck and not residue_before:
        return Reading(ConditionType.PROBE_RESIDUE, _FALSE, "None", "no probe is stuck in the kernel")
    parts = [f"{key} ({count})" for key, count in sorted(stuck.items())]
    if residue_before:
        parts.append(f"earlier incarnations ({residue_before})")
    message = f"probes that cannot be killed: {_listed(parts)}; only a reboot is sure to remove them"
    return Reading(ConditionType.PROBE_RESIDUE, _TRUE, "UnkillableProbe", message)


def driver_children_stuck(stuck: Mapping[str, int]) -> int:
    """How many of the children that SIGKILL doesn't end hang in the GPU driver; those of dead disks do not."""
    return sum(count for key, count in stuck.items() if key.startswith("gpu"))


def disk_pressure(
    disks: Mapping[str, Mapping[str, Any]] | None, high_ratio: float = 0.95, low_ratio: float = 0.90
) -> Reading | None:
    """`DiskPressure`: a file system is nearly full in bytes or inodes, or read-only.

    Between the two ratios there is no reading, so that what holds goes on holding.

    Args:
        disks: sizes by mount.
        high_ratio: used share from which on it is True.
        low_ratio: used share below which it is False again.
    """
    if not disks:
        return None
    full, silent, is_between = [], [], False
    for mount, sizes in disks.items():
        if "unknown" in sizes:
            silent.append(mount)
            continue
        used_bytes = sizes["total_bytes"] - sizes["free_bytes"]  # what is reserved for root counts as neither
        used_ratio = max(
            _share(used_bytes, used_bytes + sizes["available_bytes"]),
            _share(sizes["inodes"] - sizes["inodes_free"], sizes["inodes"]),
        )
        if sizes.get("is_read_only"):
            full.append(f"{mount} (read-only)")
        elif used_ratio >= high_ratio:
            full.append(mount)
        elif used_ratio >= low_ratio:
            is_between = True
    if full:
        return Reading(ConditionType.DISK_PRESSURE, _TRUE, "NearlyFull", f"no room on: {_listed(full)}")
    if silent:
        message = f"file systems that do not answer: {_listed(silent)}"
        return Reading(ConditionType.DISK_PRESSURE, _UNKNOWN, "FileSystemSilent", message)
    if is_between:
        return None
    return Reading(ConditionType.DISK_PRESSURE, _FALSE, "RoomLeft", "all file systems have room")


def nanny_gone(beat_failures: int | None) -> Reading | None:
    """`NannyGone`: heartbeats reach nobody. The worker goes on; the debounce counts samples, not beats."""
    if beat_failures is None:
        return None
    if beat_failures:
        return Reading(ConditionType.NANNY_GONE, _TRUE, "BeatsUnheard", "heartbeats reach nobody")
    return Reading(ConditionType.NANNY_GONE, _FALSE, "BeatsHeard", "heartbeats are received")


def clock_skew(skew_s: float | None, limit_s: float) -> Reading | None:
    """`ClockSkew`: the node's wall clock differs from the server's."""
    if skew_s is None:
        return None
    if abs(skew_s) > limit_s:
        direction = "ahead of" if skew_s > 0 else "behind"
        message = f"the wall clock is {direction} the server's by more than {limit_s:g} s"
        return Reading(ConditionType.CLOCK_SKEW, _TRUE, "Skewed", message)
    return Reading(ConditionType.CLOCK_SKEW, _FALSE, "InStep", f"within {limit_s:g} s of the server's clock")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _name(device: Mapping[str, Any]) -> str:
    return str(device.get("uuid") or f"index {device.get('index')}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
