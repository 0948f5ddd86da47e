"""A telemetry sample as Prometheus text (exposition format 0.0.4): base units, one HELP and TYPE a family.

What the sample doesn't have is absent: no series stands for "unknown" with a number. Label values are
escaped; series are bounded because the sample is.

Knows the sample's keys, no clock and no I/O. See Prometheus' text-based exposition format.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_Labels = Mapping[str, str]
_Series = tuple[str, str, str, _Labels, float]  # name, type, help, labels, value

_GPU_GAUGES = {
    "memory_total_bytes": "Device memory.",
    "memory_used_bytes": "Device memory in use.",
    "utilization_ratio": "Share of time with a kernel running.",
    "memory_utilization_ratio": "Share of time with memory being read or written.",
    "temperature_celsius": "Core temperature.",
    "power_watts": "Power drawn.",
    "power_limit_watts": "Power limit in force.",
    "sm_clock_hertz": "Clock of the streaming multiprocessors.",
    "ecc_uncorrected_volatile": "Uncorrected memory errors since the driver was loaded.",
    "throttle_reasons": "Bits of the reasons why clocks are held down.",
    "mig_mode": "1 with multi-instance mode on.",
}
_HOST_GAUGES = (
    ("cpu", "busy_ratio", "cpu_busy_ratio", "Share of all cores' time that was busy."),
    ("cpu", "iowait_ratio", "cpu_iowait_ratio", "Share of all cores' time spent waiting for I/O."),
    ("cpu", "steal_ratio", "cpu_steal_ratio", "Share of all cores' time taken by the hypervisor."),
    ("cpu", "busiest_core_ratio", "cpu_busiest_core_ratio", "Busy share of the busiest core."),
    ("memory", "total_bytes", "memory_total_bytes", "Memory of the host."),
    ("memory", "available_bytes", "memory_available_bytes", "Memory that can be had without swapping."),
    ("swap", "total_bytes", "swap_total_bytes", "Swap space."),
    ("swap", "used_bytes", "swap_used_bytes", "Swap space in use."),
    ("agent", "rss_bytes", "agent_resident_bytes", "Resident memory of the agent's process tree."),
    ("agent", "threads", "agent_threads", "Threads of the agent's process tree."),
    ("agent", "processes", "agent_processes", "Processes of the agent's tree."),
    ("agent", "open_fds", "agent_open_fds", "Descriptors open in the agent itself."),
)
_DISK_GAUGES = {
    "total_bytes": "Size of the file system.",
    "available_bytes": "Room for unprivileged writers.",
    "inodes": "Inodes of the file system.",
    "inodes_free": "Free inodes.",
}


def render_metrics(sample: Mapping[str, Any]) -> str:
    """Gives the exposition text of a sample as `agent.telemetry.collector` makes it."""
    families: dict[str, list[str]] = {}
    for name, kind, text, labels, value in _series(sample):
        full_name = f"nodenanny_{name}"
        head = [f"# HELP {full_name} {text}", f"# TYPE {full_name} {kind}"]
        families.setdefault(full_name, head).append(f"{full_name}{_labels_text(labels)} {_number(value)}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def _series(sample: Mapping[str, Any]) -> Iterator[_Series]:
    if "duration_s" in sample:
        yield "sample_duration_seconds", "gauge", "How long the last sample took.", {}, sample["duration_s"]
        yield "samples_total", "counter", "Samples taken by this incarnation.", {}, sample["samples_total"]
    for part, age_s in sample.get("stale", {}).items():
        yield "sample_stale_seconds", "gauge", "Age of a part that is late.", {"part": part}, age_s
    yield from _host_series(sample.get("host") or {})
    yield from _disk_series((sample.get("disks") or {}).get("mounts", {}))
    yield from _gpu_series(sample.get("gpu"))
    yield from _probe_series(sample.get("probes"))


def _host_series(host: Mapping[str, Any]) -> Iterator[_Series]:
    for section, key, name, text in _HOST_GAUGES:
        value = host.get(section, {}).get(key)
        if value is not None:
            yield f"host_{name}" if section != "agent" else name, "gauge", text, {}, value
    for window, value in zip(("1m", "5m", "15m"), host.get("load", ()), strict=False):
        yield "host_load", "gauge", "Tasks running or in D state.", {"window": window}, value
    if "cpu_s_total" in host.get("agent", {}):
        text = "CPU time of the living processes of the agent's tree."
        yield "agent_cpu_seconds", "gauge", text, {}, host["agent"]["cpu_s_total"]
    for resource, figures in host.get("pressure", {}).items():
        for kind in ("some", "full"):
            total = figures.get(f"{kind}_stall_s_total")
            if total is not None:
                labels = {"resource": resource, "kind": kind}
                yield "host_pressure_stall_seconds_total", "counter", "Time lost to waiting.", labels, total
    for section, label in (("disk_io", "device"), ("network", "interface")):
        for device, counters in host.get(section, {}).items():
            for key, value in counters.items():
                base = key.removesuffix("_total").replace("_time_s", "_time_seconds")
                name = f"host_{'disk' if section == 'disk_io' else 'network'}_{base}_total"
                yield name, "counter", "From the kernel's counters.", {label: device}, value


def _disk_series(mounts: Mapping[str, Mapping[str, Any]]) -> Iterator[_Series]:
    for mount, sizes in mounts.items():
        is_answering = "unknown" not in sizes
        text = "1 when the file system answers."
        yield "filesystem_answers", "gauge", text, {"mount": mount}, is_answering
        for key, help_text in _DISK_GAUGES.items():
            if key in sizes:
                yield f"filesystem_{key}", "gauge", help_text, {"mount": mount}, sizes[key]


def _gpu_series(gpu: Mapping[str, Any] | None) -> Iterator[_Series]:
    if gpu is None:
        return
    is_answering = gpu["status"] == "ok" and not gpu["overran"]
    yield "gpu_driver_answers", "gauge", "1 when each call into the driver returned.", {}, is_answering
    for device in gpu["devices"]:
        labels = {"uuid": str(device.get("uuid") or ""), "gpu": str(device.get("index", ""))}
        for state in ("ok", "lost", "missing", "unknown"):
            text = "1 for the state that the device is in."
            yield "gpu_state", "gauge", text, labels | {"state": state}, device["state"] == state
        for key, help_text in _GPU_GAUGES.items():
            if device.get(key) is not None:
                yield f"gpu_{key}", "gauge", help_text, labels, device[key]


def _probe_series(probes: Mapping[str, Any] | None) -> Iterator[_Series]:
    if probes is None:
        return
    counters = {
        "started_total": "Probe children forked.",
        "overran_total": "Probe children that passed their deadline.",
        "late_total": "Probe children that answered after it.",
        "server_starts_total": "Starts of the probe server.",
    }
    for key, text in counters.items():
        yield f"probe_{key}", "counter", text, {}, probes[key]
    yield "probe_server_up", "gauge", "1 when probes can be asked.", {}, probes["is_server_up"]
    for kind in ("overrun", "stuck"):
        text = "Probe children that are past their deadline, or past SIGKILL, and not gone."
        yield f"probes_{kind}", "gauge", text, {}, sum(probes[kind].values())


def _labels_text(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)
