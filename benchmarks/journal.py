"""Until a record is durable: through the journal writer's process, beside a bare write and fdatasync."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks.figures import Effort, Figure, measured
from tests.support.journal_drive import Drive
from tests.support.small_fork import SmallForks

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = "append a record and have it durable"
RECORD = {"type": "command-accepted", "command": {"kind": "restart", "reason": "x" * 120, "actor": "bench"}}


def measure(effort: Effort) -> Iterator[Figure]:
    """Both on the file system of the working directory, since /tmp may be memory."""
    rounds = effort.count(500, 100)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as folder:
        words = f"on {_file_system(folder)}"
        yield measured(LINE, "ms", _through_the_writer(folder, rounds), 1e3, words=words)
        yield measured(LINE, "ms", _bare(folder, rounds), 1e3, whose="a bare write and fdatasync")


def _through_the_writer(folder: str, rounds: int) -> list[float]:
    took = []
    with SmallForks() as forks:
        drive = Drive(forks, f"{folder}/journal")
        drive.start()
        for _ in range(rounds):
            began_at = time.monotonic()
            ticket = drive.append(RECORD)
            while drive.client.durable_ticket < ticket:
                drive.turn(1.0)
            took.append(time.monotonic() - began_at)
        drive.close()
    return took


def _bare(folder: str, rounds: int) -> list[float]:
    took = []
    fd = os.open(f"{folder}/bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(rounds):
            began_at = time.monotonic()
            os.write(fd, b"x" * 300 + b"\n")
            os.fdatasync(fd)
            took.append(time.monotonic() - began_at)
    finally:
        os.close(fd)
    return took


def _file_system(folder: str) -> str:
    """The type of the file system that the folder lies on."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0]
    return "an unknown file system"
