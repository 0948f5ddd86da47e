"""The processes of the fleet, from outside: started, told, listened to, ended.

Plain pipes: a line of JSON or a word down, a line of counts up each second. The end of their stdin is their
end, and the kernel ends them with us even if we are killed. What the lines mean, `share.py` and `conductor.py`
know. prctl(2) PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.fleet.plan import FleetPlan

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)
STOP_TIMEOUT_S: Final = 20.0
LAST_STEPS_S: Final = 2.0
"""From the end of its stdout to the end of a process."""
LONGEST_LINE: Final = 1 << 20


def end_with_us() -> None:
    """Between fork and exec: have the kernel end this process when its parent's thread is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class FleetProcesses:
    """All processes of one simulation."""

    def __init__(self, told: Callable[[int, dict[str, Any]], None]) -> None:
        """Begin with none.

        Args:
            told: gets what a process, by its number, has said.
        """
        self._told = told
        self._children: list[subprocess.Popen[bytes]] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, plan: FleetPlan, fields: dict[str, Any]) -> None:
        """Start all of them and give each the plan and its number."""
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        loop = asyncio.get_running_loop()
        for number in range(plan.processes):
            child = subprocess.Popen(  # noqa: ASYNC220  # at the start, when nobody waits for the loop
                [sys.executable, "-m", "server_stub.fleet.share"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ,
                start_new_session=True,
                preexec_fn=end_with_us,  # noqa: PLW1509  # one prctl between fork and exec
            )
            self._children.append(child)
            reader = asyncio.StreamReader(limit=LONGEST_LINE)
            await loop.connect_read_pipe(
                lambda reader=reader: asyncio.StreamReaderProtocol(reader),  # type: ignore[misc]
                child.stdout,
            )
            self._readers.append(asyncio.create_task(self._read(number, reader)))
            self._say(child, json.dumps({"plan": fields, "number": number}))

    def tell(self, line: str) -> None:
        """Say a line to all."""
        for child in self._children:
            self._say(child, line)

    def ended(self) -> list[tuple[int, int]]:
        """Give number and status of those that are gone."""
        statuses = [(number, child.poll()) for number, child in enumerate(self._children)]
        return [(number, status) for number, status in statuses if status is not None]

    async def close(self) -> None:
        """End all; who would not hear the end of stdin is killed."""
        for child in self._children:
            assert child.stdin is not None
            try:
                child.stdin.close()
            except BrokenPipeError:
                continue
        if self._readers:
            await asyncio.wait(self._readers, timeout=STOP_TIMEOUT_S)
        for child in self._children:
            try:
                child.wait(LAST_STEPS_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _say(self, child: subprocess.Popen[bytes], line: str) -> None:
        assert child.stdin is not None
        try:
            child.stdin.write(line.encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return  # it is gone: `ended` tells

    async def _read(self, number: int, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._told(number, json.loads(line))
