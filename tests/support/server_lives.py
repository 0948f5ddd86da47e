"""One server after another on the same database, each a real process that may be killed at any moment.

A small process imports the server once and forks each life from there, so that a life begins in some 50 ms and a test
can afford many. A life that falls at a fault point names it. fork(2), pidfd_open(2).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FORKER = r"""
import json, os, sys
import server_stub.cli, server_stub.main
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(server_stub.cli.main(order["argv"]))
    print(json.dumps({"pid": pid}), flush=True)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)
"""
START_S = 30.0
LOOK_S = 0.01


@dataclass(slots=True)
class Life:
    """One running server.

    Attributes:
        url: where it answers.
        fell: done with the place once it has fallen at a fault point, or with "killed".
    """

    url: str
    pid: int
    fell: asyncio.Future[str]

    async def kill(self) -> None:
        """End it by SIGKILL."""
        if not self.fell.done():
            os.kill(self.pid, signal.SIGKILL)  # not reaped before `fell` is done
        await self.fell


class ServerLives:
    """The forker, and what it forked; one life at a time.

    Attributes:
        door: where links are to dial, as the test says; None: nowhere.
    """

    def __init__(self, forker: asyncio.subprocess.Process, directory: Path, database: str) -> None:
        self._forker = forker
        self._directory = directory
        self._database = database
        self._count = 0
        self.door: str | None = None
        self.watching: asyncio.Task[None] | None = None

    async def begin(self, *flags: str) -> Life:
        """Start a server, and wait until it answers or has fallen."""
        self._count += 1
        log = self._directory / f"log-{self._count}"
        port_file = self._directory / f"port-{self._count}"
        argv = ["--port", "0", "--port-file", str(port_file), "--database", self._database]
        argv += ["--data-dir", str(self._directory / "data"), "--log-level", "warning", *flags]
        assert self._forker.stdin is not None
        self._forker.stdin.write(json.dumps({"argv": argv, "log": str(log)}).encode() + b"\n")
        await self._forker.stdin.drain()
        pid = (await self._answer())["pid"]
        life = Life("", pid, asyncio.get_running_loop().create_future())
        self.watching = asyncio.create_task(self._watch(life, log))
        async with asyncio.timeout(START_S):
            while not port_file.exists():
                assert not life.fell.done(), log.read_text()
                await asyncio.sleep(LOOK_S)
        life.url = f"http://127.0.0.1:{int(port_file.read_text())}"
        return life

    async def _watch(self, life: Life, log: Path) -> None:
        status = (await self._answer())["status"]
        told = await asyncio.to_thread(log.read_text)
        _, is_told, place = told.rpartition("fault point: ")
        if status != -signal.SIGKILL:
            life.fell.set_exception(AssertionError(f"the server ended by itself with {status}: {told}"))
        else:
            life.fell.set_result(place.splitlines()[0] if is_told else "killed")

    async def _answer(self) -> Any:
        assert self._forker.stdout is not None
        return json.loads(await self._forker.stdout.readline())


@asynccontextmanager
async def server_lives(directory: Path, database: str) -> AsyncIterator[ServerLives]:
    """Run the forker for the length of the block; no life outlasts it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SERVER_")}
    forker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKER),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )
    lives = ServerLives(forker, directory, database)
    try:
        yield lives
    finally:
        os.killpg(forker.pid, signal.SIGKILL)  # the forker isn't reaped yet, so the group is ours
        if lives.watching is not None:
            lives.watching.cancel()
            await asyncio.gather(lives.watching, return_exceptions=True)
        await forker.wait()
