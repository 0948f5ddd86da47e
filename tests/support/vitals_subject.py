"""A real program with a vitals thread and an event loop that does, on order, everything that loops must not.

`running_subject` starts it; `Subject.order("sleep", 3)` has its loop call one of the blocks below; `get` asks
its endpoints on a connection of its own.
"""

import http.client
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.processes import StartedProcess, spawn_python

_PROGRAM = """
import os, sys, json
from dataclasses import replace
from agent.vitals.config import claim_environ
from agent.vitals.snapshot import Snapshot
from agent.vitals.stall_stack import enable_stack_dumps
from agent.vitals.thread import start_vitals

settings = json.loads(sys.argv[2])
enable_stack_dumps(os.environ)
vitals = start_vitals(replace(claim_environ(os.environ, ("127.0.0.1", 0)), **settings))

import asyncio, ctypes, gc, logging, signal, threading, time

def sleep(seconds):
    time.sleep(seconds)

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def fill_executor(seconds):
    for _ in range(100):
        loop.run_in_executor(None, time.sleep, seconds)

def wait_for_lock(seconds):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=seconds)

def log_into_full_pipe(seconds):
    read_fd, write_fd = os.pipe()
    def drain_later():
        time.sleep(seconds)
        while os.read(read_fd, 1 << 16) != b"end":
            pass
    threading.Thread(target=drain_later, daemon=True).start()
    logging.getLogger().addHandler(logging.StreamHandler(os.fdopen(write_fd, "w", buffering=1)))
    logging.getLogger().error("x" * 200_000)

def hold_gil(seconds):
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))

def hold_gil_again_and_again(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hold_gil(1.2)

def sleep_as_announced(seconds):
    with vitals.expect(seconds + 5, "a long task"):
        time.sleep(seconds)

class Hanging:
    def __del__(self):
        time.sleep(30)

def leave_garbage_that_hangs(seconds):
    gc.collect()  # the count of new objects begins at nought: what epoll returns alone is not enough, a turn is
    gc.set_threshold(10, 1000, 1000)
    cycle = Hanging()
    cycle.itself = cycle
    del cycle
    time.sleep(seconds)

def end(_):
    loop.stop()

def obey():
    for line in os.read(0, 4096).decode().splitlines():
        name, seconds = line.split()
        globals()[name](float(seconds))
        print("done", flush=True)

if sys.argv[1] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
else:
    loop = asyncio.new_event_loop()
vitals.watch_loop(loop)
loop.add_reader(0, obey)
loop.add_signal_handler(signal.SIGTERM, loop.stop)
vitals.publish(Snapshot(started=True, status_text="up"))
print(json.dumps(vitals.address), flush=True)
loop.run_forever()
vitals.unwatch_loop()
print(vitals.stop(), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body, decoded."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


@dataclass(frozen=True, slots=True)
class Subject:
    """The running program."""

    process: StartedProcess
    address: tuple[str, int]

    def order(self, block: str, seconds: float) -> None:
        """Have the loop call a block; `read_line` gives "done" once it is through."""
        assert self.process.popen.stdin is not None
        self.process.popen.stdin.write(f"{block} {seconds}\n".encode())
        self.process.popen.stdin.flush()

    def get(self, path: str, *, headers: dict[str, str] | None = None, timeout_s: float = 10.0) -> Answer:
        """Ask on a fresh connection."""
        return http_get(self.address, path, headers=headers, timeout_s=timeout_s)


def http_get(
    address: tuple[str, int], path: str, *, headers: dict[str, str] | None = None, timeout_s: float = 10.0
) -> Answer:
    """Ask on a fresh connection."""
    connection = http.client.HTTPConnection(*address, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read().decode())
    finally:
        connection.close()


@contextmanager
def running_subject(
    *,
    notify_socket: str = "",
    loop: str = "asyncio",
    settings: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[Subject]:
    """Start the program and kill it at the end.

    Args:
        notify_socket: of the test; empty for none.
        loop: ``asyncio`` or ``uvloop``.
        settings: fields of VitalsConfig.
        environ: added to the environment.
        pass_fds: descriptors that it inherits.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NANNY_", "LISTEN_"))}
    env |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "NANNY_HEARTBEAT_INTERVAL_S": "0.1",
    }
    env |= {"NOTIFY_SOCKET": notify_socket} if notify_socket else {}
    env |= environ or {}
    argv = (loop, json.dumps(settings or {}))
    with spawn_python(_PROGRAM, argv=argv, env=env, pass_fds=pass_fds) as process:
        host, port = json.loads(process.read_line(30.0))
        yield Subject(process, (host, port))
