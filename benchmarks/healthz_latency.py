"""How long /healthz takes while the program does what programs must not.

A child with a vitals thread is put into each state; the prober asks with random gaps (back-to-back requests
flatter: they find the interpreter lock free), on a fresh connection each time and on a kept one. Every answer
must be 200 and whole.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Effort, Figure, Limit, measured, p99

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES: Final[dict[str, tuple[Limit, ...]]] = {
    "idle": (p99(2),),
    "asleep": (p99(2),),
    "waiting for a lock": (p99(2),),
    "full executor": (p99(2),),
    "200 slow clients": (p99(2),),
    "spinning": (p99(10),),
    "three spinning": (),
}
MEAN_GAP_S = 0.005
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: %s\r\n\r\n"

SUBJECT = """
import os, sys
from agent.vitals.config import VitalsConfig
from agent.vitals.snapshot import Snapshot
from agent.vitals.thread import start_vitals
vitals = start_vitals(VitalsConfig(listen=("127.0.0.1", 0), stall_timeout_s=3600))
import asyncio, threading, time

def spin():
    while True:
        pass

async def main(state):
    loop = asyncio.get_running_loop()
    vitals.watch_loop(loop)
    vitals.publish(Snapshot(started=True))
    if state == "full executor":
        for _ in range(100):
            loop.run_in_executor(None, time.sleep, 3600)
    if state == "three spinning":
        for _ in range(2):
            threading.Thread(target=spin, daemon=True).start()
    print(vitals.address[1], flush=True)
    if state == "asleep":
        time.sleep(3600)
    if state == "waiting for a lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    if "spinning" in state:
        spin()
    await asyncio.sleep(3600)

asyncio.run(main(sys.argv[1]))
"""


@contextmanager
def program_in(state: str) -> Iterator[tuple[str, int]]:
    """A child in `state`; gives where it answers."""
    child = subprocess.Popen([sys.executable, "-c", SUBJECT, state], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        yield "127.0.0.1", int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


def answered(client: socket.socket) -> None:
    received = b""
    while True:
        head, separator, body = received.partition(b"\r\n\r\n")
        if separator and len(body) == int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]):
            break
        chunk = client.recv(4096)
        assert chunk, "the connection ended early"
        received += chunk
    assert received.startswith(b"HTTP/1.1 200"), received[:80]


def ask_afresh(address: tuple[str, int]) -> float:
    started_at = time.perf_counter()
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(REQUEST % b"close")
        answered(client)
    return time.perf_counter() - started_at


def ask_kept(client: socket.socket) -> float:
    started_at = time.perf_counter()
    client.sendall(REQUEST % b"keep-alive")
    answered(client)
    return time.perf_counter() - started_at


def measure(effort: Effort) -> Iterator[Figure]:
    """Each state in turn."""
    gaps = random.Random(effort.seed)
    probes = effort.count(800, 160)
    for state, limits in STATES.items():
        effort.tell(state)
        fresh, kept = _asked(state, probes, gaps)
        yield measured(f"/healthz, {state}", "ms", fresh, 1e3, limits=limits)
        yield measured(f"/healthz, {state}, kept connection", "ms", kept, 1e3)


def _asked(state: str, probes: int, gaps: random.Random) -> tuple[list[float], list[float]]:
    fresh, kept = [], []
    with program_in(state) as address, ExitStack() as clients:
        if state == "200 slow clients":
            for _ in range(200):
                clients.enter_context(socket.create_connection(address, timeout=10)).sendall(b"GET /he")
        client = clients.enter_context(socket.create_connection(address, timeout=10))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(probes):
            time.sleep(gaps.expovariate(1 / MEAN_GAP_S))
            if number % 2:
                fresh.append(ask_afresh(address))
            else:
                kept.append(ask_kept(client))
    return fresh, kept
