"""Processes under measurement: ended whatever became of their parents; memory and CPU time as /proc tells.

CPU time is the scheduler's own count in nanoseconds (schedstat): an idle supervisor does not fill one clock tick.
proc(5), pidfd_open(2).
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MARK = "BENCHMARK_MARK"


def clean_environment() -> dict[str, str]:
    """Ours, without what was meant for another node or would skew start times."""
    strange = ("NANNY_", "AGENT_", "LINK_", "SERVER_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(strange) and name != "PYTHONDONTWRITEBYTECODE"
    }


def send(pid: int, signum: int) -> bool:
    """Signal by pidfd; False if there was nobody."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


@dataclass(frozen=True, slots=True)
class Marked:
    """A started program and everything that it starts."""

    popen: subprocess.Popen[bytes]
    mark: str

    def pids(self) -> set[int]:
        """All that live."""
        return marked_pids(self.mark)


def marked_pids(mark: str) -> set[int]:
    """The processes with this mark in their environment."""
    wanted = f"{_MARK}={mark}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.add(int(name))
    return found


@contextmanager
def marked(
    command: Sequence[str], *, log: str = os.devnull, environ: Mapping[str, str] | None = None, cwd: str = "/"
) -> Iterator[Marked]:
    """Run a program; at the end it is asked to end, and whatever is left of it after two seconds is killed."""
    mark = secrets.token_hex(8)
    with open(log, "ab") as output:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**clean_environment(), **(environ or {}), _MARK: mark},
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield Marked(popen, mark)
    finally:
        with suppress(subprocess.TimeoutExpired):
            popen.terminate()
            popen.wait(2)
        deadline = time.monotonic() + 10
        while (living := marked_pids(mark)) and time.monotonic() < deadline:
            for pid in living:
                if pid in marked_pids(mark):
                    send(pid, signal.SIGKILL)
            time.sleep(0.02)
        popen.wait(10)


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes use."""

    rss_mib: float
    pss_mib: float
    cpu_percent: float


def usage(pids: Sequence[int], over_s: float) -> Usage:
    """Memory now, CPU of a core over so many seconds from now, of all these processes together."""
    before, began_at = sum(map(_cpu_s, pids)), time.monotonic()
    time.sleep(over_s)
    spent_s, took_s = sum(map(_cpu_s, pids)) - before, time.monotonic() - began_at
    memory = [_memory_mib(pid) for pid in pids]
    return Usage(sum(one[0] for one in memory), sum(one[1] for one in memory), 100 * spent_s / took_s)


def children(pid: int) -> list[int]:
    """The child processes of `pid`."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _cpu_s(pid: int) -> float:
    total_ns = 0
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                total_ns += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total_ns / 1e9


def _memory_mib(pid: int) -> tuple[float, float]:
    sizes = {"Rss:": 0, "Pss:": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            words = line.split()
            if words[0] in sizes:
                sizes[words[0]] = int(words[1])
    return sizes["Rss:"] / 1024, sizes["Pss:"] / 1024
