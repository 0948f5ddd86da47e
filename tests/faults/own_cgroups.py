"""A cgroup of our own for the length of a test, in whatever hierarchy has the controller: pids or cpu.

Only processes of the test are moved in, and at the end they are moved back and the group is removed; no other group is
touched. Where there is no such controller, or it may not be used, ``why_no_controller`` says so. cgroups(7).
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.real_nanny import RealNanny


@cache
def _directory(controller: str) -> Path | None:
    """Where our process is in the hierarchy of this controller (version 1, or 2 with it enabled for children)."""
    mount, version = None, 0
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and controller in options.split(" ")[-1].split(","):
            mount, version = left.split()[4], 1
        elif kind == "cgroup2" and version == 0:
            mount, version = left.split()[4], 2
    if mount is None:
        return None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (version == 1 and controller in controllers.split(",")) or (version == 2 and not controllers):
            return Path(mount + path)
    return None


@cache
def why_no_controller(controller: str) -> str | None:
    """Give the reason why there can be no group with this controller here, None if there can."""
    if os.geteuid() != 0:
        return "needs root to make a cgroup"
    directory = _directory(controller)
    if directory is None or not directory.is_dir():
        return f"no cgroup hierarchy with {controller}"
    probe = directory / f"nodenanny-probe-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
    except OSError as error:
        return f"no cgroup can be made: {error.strerror}"
    try:
        name = {"pids": "pids.max", "cpu": "cpu.cfs_quota_us"}[controller]
        found = (probe / name).exists() or (probe / "cpu.max").exists()
        return None if found else f"{controller} is not enabled in {directory}"
    finally:
        probe.rmdir()


class OwnCgroup:
    """One group; `add` moves processes in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *pids: int) -> None:
        """Move these processes here, all threads of each."""
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))

    def add_node(self, node: RealNanny) -> None:
        """Move all that lives of a node here."""
        for pid in node.processes():
            with suppress(ProcessLookupError):
                self.add(pid)

    def limit_cpu(self, share: float | None) -> None:
        """Give so many cores' worth of time, None: all."""
        period_us = 100_000
        quota = -1 if share is None else max(int(period_us * share), 1000)
        if (self.path / "cpu.cfs_quota_us").exists():
            (self.path / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self.path / "cpu.max").write_text(f"{'max' if quota < 0 else quota} {period_us}")

    def limit_processes(self, count: int | None) -> None:
        """Let no more than so many tasks be here, None: any number; more forks get EAGAIN."""
        (self.path / "pids.max").write_text("max" if count is None else str(count))

    def tasks(self) -> int:
        """How many tasks are here."""
        return int((self.path / "pids.current").read_text())


@contextmanager
def own_cgroup(controller: str) -> Iterator[OwnCgroup]:
    """A group for the length of the block; whoever is left in it goes back to where we are."""
    directory = _directory(controller)
    assert directory is not None
    path = directory / f"nodenanny-test-{secrets.token_hex(4)}"
    path.mkdir()
    group = OwnCgroup(path)
    try:
        yield group
    finally:
        with suppress(OSError):
            (group.limit_cpu if controller == "cpu" else group.limit_processes)(None)
        for _ in range(100):
            for pid in (path / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (directory / "cgroup.procs").write_text(pid)
            with suppress(OSError):
                path.rmdir()
                break
