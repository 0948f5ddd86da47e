"""What a node owns at an instant: descriptors, threads, children, sockets, cgroups, files, and who is its worker.

Two stocks are compared before and after a fault; names that carry an incarnation's number are compared without it.
Reads /proc, cgroupfs and the runtime directory; never the state directory, whose disk may be the fault. proc(5).
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.real_nanny import cgroup_of

if TYPE_CHECKING:
    from tests.support.real_nanny import RealNanny

_STACKS_KEPT = 4
"""The nanny keeps the memfd of its worker and of the three before it, for evidence after death."""
_NUMBERED = re.compile(r"\d+(-[0-9a-f]+)?")


@dataclass(frozen=True, slots=True)
class NodeStock:
    """Counts by kind; what grew is a leak."""

    nanny_pid: int
    descriptors: Counter[str]
    threads: int
    zombies: int
    runtime_files: Counter[str]
    cgroups: int
    helpers: int

    def grown_since(self, before: NodeStock) -> list[str]:
        """What there is more of now, in words."""
        grown = []
        own, own_before = _without_stacks(self.descriptors), _without_stacks(before.descriptors)
        if own.total() > own_before.total():
            grown.append(f"descriptors of the nanny: {dict(own - own_before)} more")
        stacks = self.descriptors.total() - own.total()
        if stacks > max(_STACKS_KEPT, before.descriptors.total() - own_before.total()):
            grown.append(f"{stacks} memfds for stacks are kept")
        if self.threads > 1:
            grown.append(f"the nanny has {self.threads} threads")
        if self.zombies:
            grown.append(f"{self.zombies} zombie(s) below the nanny")
        if files := self.runtime_files - before.runtime_files:
            grown.append(f"files in the runtime directory: {dict(files)} more")
        if self.cgroups > max(before.cgroups, 1):
            grown.append(f"{self.cgroups} cgroups, {before.cgroups} before")
        if self.helpers > before.helpers:
            grown.append(f"{self.helpers} helpers of the nanny, {before.helpers} before")
        return grown


def take_stock(node: RealNanny) -> NodeStock:
    """Look at the node now; its nanny lives."""
    pid = node.pid
    subtree = cgroup_of(node)
    cgroups = [] if subtree is None or not subtree.exists() else list(subtree.glob("*/"))
    return NodeStock(
        nanny_pid=pid,
        descriptors=_descriptors(pid),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        zombies=len(zombies_below(pid)),
        runtime_files=_runtime_files(node),
        cgroups=len(cgroups),
        helpers=len(helpers(node)),
    )


def settled_stock(node: RealNanny) -> NodeStock:
    """The least of a few looks: what is there only because somebody just asked is not counted."""
    looks = []
    for _ in range(4):
        looks.append(take_stock(node))
        time.sleep(0.01)
    return min(looks, key=lambda stock: (stock.descriptors.total(), stock.helpers, stock.cgroups))


def incarnations_alive(node: RealNanny) -> dict[str, list[int]]:
    """Which incarnations have living processes, by what their environment says, and which."""
    alive: dict[str, list[int]] = {}
    for pid in node.processes():
        with suppress(OSError):
            for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if variable.startswith(b"NANNY_INCARNATION="):
                    alive.setdefault(variable.partition(b"=")[2].decode(), []).append(pid)
    return alive


def helpers(node: RealNanny) -> list[int]:
    """The nanny's own forked processes: they run its program and have its pid as their parent."""
    found = []
    for pid, line in node.processes().items():
        fields = stat_fields(pid)
        if fields is not None and int(fields[1]) == node.pid and "lean_start" in line:
            found.append(pid)
    return found


def zombies_below(parent: int) -> list[int]:
    """Children that have ended and were not waited for."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(int(name))
            if fields is not None and fields[0] == "Z" and int(fields[1]) == parent:
                found.append(int(name))
    return found


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (state 0, ppid 1, start time 19); None: no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _without_stacks(descriptors: Counter[str]) -> Counter[str]:
    return Counter({name: count for name, count in descriptors.items() if "/memfd:stacks-" not in name})


def _descriptors(pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found[_NUMBERED.sub("#", os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
    return found


def _runtime_files(node: RealNanny) -> Counter[str]:
    # Evidence that the disk did not take is kept there, and bounded by its own rules.
    return Counter(_NUMBERED.sub("#", name) for name in os.listdir(node.runtime_dir) if name != "evidence")
