"""The table of probes: every call of the agent that can hang, by name.

Imported by the probe server, called only in its children. A call that may block for ever (driver, DNS, a file
system on a dead server) belongs here and nowhere else in the agent. See statvfs(3), getaddrinfo(3).
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.telemetry import gpu_probe
from agent.telemetry.probe_contract import Emit, Probe

_ADDRESS_LIMIT = 32


def disk_usage(args: Mapping[str, Any], _emit: Emit) -> dict[str, int | bool]:
    """Sizes of the file system at `args["path"]`, in bytes and inodes.

    `available_bytes` is what an unprivileged writer gets.
    """
    fs = os.statvfs(args["path"])
    return {
        "total_bytes": fs.f_blocks * fs.f_frsize,
        "free_bytes": fs.f_bfree * fs.f_frsize,
        "available_bytes": fs.f_bavail * fs.f_frsize,
        "inodes": fs.f_files,
        "inodes_free": fs.f_ffree,
        "is_read_only": bool(fs.f_flag & os.ST_RDONLY) and is_file_system_read_only(args["path"]),
    }


def is_file_system_read_only(path: str, proc_root: str = "/proc") -> bool:
    """Whether the file system itself is read-only, not merely our view of it.

    A unit with ProtectSystem=strict sees every mount as read-only. An error that the kernel answers with
    remount-ro, or a read-only entry in fstab, shows in the options of the superblock. True if it can't be told.
    """
    real = os.path.realpath(path)
    found, longest = True, -1
    with suppress(OSError, ValueError), Path(proc_root, "self/mountinfo").open("rb") as table:
        for line in table:
            ours, _, its = line.partition(b" - ")
            point = os.fsdecode(ours.split()[4].decode("unicode_escape").encode("latin-1"))
            # Of two at the same place, the later one covers the other.
            if len(point) >= longest and f"{real}/".startswith(f"{point.rstrip('/')}/"):
                longest = len(point)
                found = b"ro" in its.split()[2].split(b",")
    return found


def resolve(args: Mapping[str, Any], _emit: Emit) -> list[str]:
    """The addresses of `args["host"]`, in getaddrinfo's order, without repeats."""
    found = socket.getaddrinfo(args["host"], args.get("port"), type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))[:_ADDRESS_LIMIT]


def host_counters(args: Mapping[str, Any], _emit: Emit) -> dict[str, Any]:
    """Raw host counters, for hosts whose /proc is served by a FUSE daemon (lxcfs) that may hang."""
    from agent.telemetry.host_counters import read_host_counters  # noqa: PLC0415 - psutil stays out of the server

    return read_host_counters(args["proc_root"], args.get("pid"))


PROBES: dict[str, Probe] = {
    "disk-usage": disk_usage,
    "gpu-inventory": gpu_probe.inventory,
    "gpu-sample": gpu_probe.sample,
    "host-counters": host_counters,
    "resolve": resolve,
}
