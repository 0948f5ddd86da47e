"""A Dask scheduler in a process of its own, driven line by line, and workers under Dask's own nanny.

`dask_scheduler` gives one without dashboard on a free loopback port; what its workers are made to do (block their loop,
hold the GIL) travels through Dask itself, as a user's code would. `dask_nanny` is `dask worker` as installed. Both are
swept with their process groups. It knows nothing of our nanny.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.processes import StartedProcess, spawn_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DASK = os.path.join(os.path.dirname(sys.executable), "dask")
PATIENCE_S = 60.0

_PROGRAM = r"""
import asyncio, ctypes, json, os, sys, time
import dask

dask.config.set({
    "distributed.scheduler.worker-ttl": sys.argv[1],
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.system-monitor.gil.enabled": False,
})
from distributed import Scheduler
from distributed.protocol import deserialize
from distributed.protocol.pickle import dumps

FUNCTIONS = {
    "pid": os.getpid,
    "block": lambda: time.sleep(120),
    "gil": lambda: ctypes.PyDLL(None).sleep(120),
}

async def obey(scheduler, order):
    match order:
        case ["workers"]:
            return {
                str(state.name): {"id": state.server_id, "status": state.status.name, "nanny": bool(state.nanny)}
                for state in scheduler.workers.values()
            }
        case ["retire", *names]:
            await scheduler.retire_workers(names=names, close_workers=True, remove=True, stimulus_id="test")
            return None
        case [what, name]:
            addresses = [state.address for state in scheduler.workers.values() if str(state.name) == name]
            message = {"op": "run", "function": dumps(FUNCTIONS[what]), "args": dumps(()), "kwargs": dumps({})}
            run = asyncio.ensure_future(
                scheduler.broadcast(msg=message | {"wait": True}, workers=addresses, on_error="return")
            )
            if what != "pid":
                running.add(run)
                run.add_done_callback(lambda done: done.cancelled() or done.exception())
                return None
            answers = await asyncio.wait_for(run, 10)
            [answer] = answers.values()
            return deserialize(answer["result"].header, answer["result"].frames)

running = set()

async def main():
    loop = asyncio.get_running_loop()
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        print(json.dumps(scheduler.address), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                answer = await obey(scheduler, json.loads(line))
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer, default=repr), flush=True)
    os._exit(0)

asyncio.run(main())
"""


@dataclass
class DaskScheduler:
    """A running scheduler."""

    process: StartedProcess
    address: str

    def order(self, *words: str) -> Any:
        """Have one order obeyed; its answer."""
        assert self.process.popen.stdin is not None
        self.process.popen.stdin.write(json.dumps(words).encode() + b"\n")
        self.process.popen.stdin.flush()
        return json.loads(self.process.read_line(PATIENCE_S))

    def workers(self) -> dict[str, dict[str, Any]]:
        """The registered workers by name: id (another one in each life), status, whether a nanny is known."""
        workers: dict[str, dict[str, Any]] = self.order("workers")
        return workers

    def life_of(self, name: str) -> str | None:
        """The id of the registered worker of this name that is running; None if there is none."""
        worker = self.workers().get(name)
        return worker["id"] if worker is not None and worker["status"] == "running" else None

    def answers(self, name: str) -> bool:
        """Whether the worker of this name runs a function that it is sent."""
        return isinstance(self.order("pid", name), int)

    def wait_for_life(self, name: str, before: str | None = None, timeout_s: float = PATIENCE_S) -> str:
        """Wait until a worker of this name, another one than `before`, is registered and runs what it is sent."""
        found: list[str] = []

        def is_there() -> bool:
            life = self.life_of(name)
            if life is None or life == before or not self.answers(name):
                return False
            found.append(life)
            return True

        wait_until(is_there, timeout_s, f"a worker {name!r} other than {before}")
        return found[-1]


@contextmanager
def dask_scheduler(worker_ttl: str = "5 minutes") -> Iterator[DaskScheduler]:
    """A scheduler that gives a worker up after `worker_ttl` without a heartbeat (Dask's words for it)."""
    with spawn_python(_PROGRAM, argv=(worker_ttl,), stderr=subprocess.DEVNULL) as process:
        yield DaskScheduler(process, json.loads(process.read_line(PATIENCE_S)))


@dataclass
class DaskNanny:
    """`dask worker` with Dask's own nanny."""

    popen: subprocess.Popen[bytes]

    def has_ended(self) -> bool:
        """Whether the nanny itself is gone."""
        return self.exit_code() is not None

    def exit_code(self) -> int | None:
        """None while it lives."""
        return self.popen.poll()


@contextmanager
def dask_nanny(scheduler: DaskScheduler, name: str) -> Iterator[DaskNanny]:
    """Dask's nanny and its worker; whatever is left of them at the end is killed."""
    folder = tempfile.mkdtemp(prefix="dn")
    popen = subprocess.Popen(
        [
            *(DASK, "worker", "--nanny", "--nworkers", "1", "--nthreads", "1", "--no-dashboard"),
            *("--name", name, "--local-directory", folder, scheduler.address),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield DaskNanny(popen)
    finally:
        # Before it is reaped: until then the group's number is ours.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                os.killpg(popen.pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            with suppress(subprocess.TimeoutExpired):
                popen.wait(0.05)
        popen.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
