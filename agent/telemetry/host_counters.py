"""Raw counters of the host from /proc, read in one go: what `host` turns into rates.

Only files that the kernel answers from memory without a lock that another task can hold for long: stat,
meminfo, loadavg, diskstats, net/dev, pressure, and of our own process tree stat alone. Never statvfs (a
dead mount), never cmdline, maps or smaps of others (their mmap lock), never /sys/class/net/*/speed (rtnl).
See proc(5).
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_TREE_LIMIT = 256
_INTERFACE_LIMIT = 64
_DISK_LIMIT = 64
_VIRTUAL_INTERFACES = ("veth", "cali", "lxc", "tap", "docker", "br-", "virbr")  # one per container: unbounded
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def read_host_counters(proc_root: str = "/proc", pid: int | None = None) -> dict[str, Any]:
    """Gives what could be read, by section; a section that can't be read is absent.

    Sections: `cpu` (seconds by mode, and busy/total seconds per core), `memory`, `swap` (bytes), `load`,
    `uptime_s`, `pressure` (ratios and stall seconds), `disk_io`, `network` (totals by device), `agent` (own
    process tree).

    Args:
        proc_root: where proc(5) is mounted.
        pid: root of the process tree to sum up; none without it.
    """
    psutil.PROCFS_PATH = proc_root
    root = Path(proc_root)
    found: dict[str, Any] = {}
    for name, read in (
        ("cpu", _cpu),
        ("memory", _memory),
        ("swap", _swap),
        ("disk_io", _disk_io),
        ("network", _network),
    ):
        with suppress(OSError, ValueError, IndexError, KeyError, RuntimeError):
            found[name] = read()
    with suppress(OSError, ValueError, IndexError):
        found["load"] = [float(word) for word in (root / "loadavg").read_text().split()[:3]]
    with suppress(OSError, ValueError, IndexError):
        found["uptime_s"] = float((root / "uptime").read_text().split()[0])
    if pressure := _pressure(root / "pressure"):
        found["pressure"] = pressure
    if pid is not None and (tree := _process_tree(root, pid)):
        found["agent"] = tree
    return found


def _cpu() -> dict[str, Any]:
    cores = psutil.cpu_times(percpu=True)
    modes = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    totals = {mode: round(sum(getattr(core, mode, 0.0) for core in cores), 2) for mode in modes}
    per_core = []
    for core in cores:
        total = sum(getattr(core, mode, 0.0) for mode in modes)
        per_core.append((round(total - core.idle - getattr(core, "iowait", 0.0), 2), round(total, 2)))
    return {"modes_s": totals, "cores_s": per_core}


def _memory() -> dict[str, int]:
    memory = psutil.virtual_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "used_bytes": memory.used,
        "cached_bytes": memory.cached,
    }


def _swap() -> dict[str, int]:
    swap = psutil.swap_memory()
    return {
        "total_bytes": swap.total,
        "used_bytes": swap.used,
        "in_bytes_total": swap.sin,
        "out_bytes_total": swap.sout,
    }


def _disk_io() -> dict[str, dict[str, float]]:
    (Path(psutil.PROCFS_PATH) / "diskstats").stat()  # without it psutil would look into the real /sys
    disks = psutil.disk_io_counters(perdisk=True, nowrap=False)
    kept = {name: io for name, io in disks.items() if not name.startswith(("loop", "ram"))}
    return {
        name: {
            "read_bytes_total": io.read_bytes,
            "written_bytes_total": io.write_bytes,
            "reads_total": io.read_count,
            "writes_total": io.write_count,
            "io_time_s_total": io.busy_time / 1000,
        }
        for name, io in sorted(kept.items())[:_DISK_LIMIT]
    }


def _network() -> dict[str, dict[str, int]]:
    interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
    kept = {name: io for name, io in interfaces.items() if not name.startswith(_VIRTUAL_INTERFACES)}
    return {
        name: {
            "received_bytes_total": io.bytes_recv,
            "sent_bytes_total": io.bytes_sent,
            "receive_errors_total": io.errin,
            "send_errors_total": io.errout,
            "receive_drops_total": io.dropin,
            "send_drops_total": io.dropout,
        }
        for name, io in sorted(kept.items())[:_INTERFACE_LIMIT]
    }


def _pressure(root: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for resource in ("cpu", "memory", "io"):
        with suppress(OSError, ValueError, IndexError, KeyError):
            figures: dict[str, float] = {}
            for line in (root / resource).read_text().splitlines():
                kind, *words = line.split()
                values = dict(word.split("=", 1) for word in words)
                figures[f"{kind}_avg10_ratio"] = float(values["avg10"]) / 100
                figures[f"{kind}_avg60_ratio"] = float(values["avg60"]) / 100
                figures[f"{kind}_stall_s_total"] = int(values["total"]) / 1_000_000
            found[resource] = figures
    return found


def _process_tree(root: Path, pid: int) -> dict[str, float]:
    """Sums over `pid` and its descendants, found by task/*/children: no walk over all processes."""
    waiting, seen = [pid], set[int]()
    rss_bytes, threads, cpu_s = 0, 0, 0.0
    while waiting and len(seen) < _TREE_LIMIT:
        current = waiting.pop()
        if current in seen:
            continue
        try:
            fields = (root / str(current) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
            rss_bytes += int(fields[21]) * _PAGE_BYTES
            threads += int(fields[17])
            cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS
        except (OSError, ValueError, IndexError):
            continue
        seen.add(current)
        with suppress(OSError, ValueError):
            for children in (root / str(current) / "task").glob("*/children"):
                waiting.extend(int(child) for child in children.read_text().split())
    if not seen:
        return {}
    tree: dict[str, float] = {
        "processes": len(seen),
        "rss_bytes": rss_bytes,
        "threads": threads,
        "cpu_s_total": cpu_s,
    }
    with suppress(OSError):
        tree["open_fds"] = sum(1 for _ in (root / str(pid) / "fd").iterdir())
    return tree
