"""How long /healthz takes while the program does what programs must not: a table, or JSON.

A child with a vitals thread is put into each state; the prober asks with random gaps (back-to-back requests
flatter: they find the interpreter lock free), on a fresh connection each time and on a kept one. Every answer
must be 200 and whole. Run: python -m benchmarks.healthz_latency [--probes 400] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = (
    "idle",
    "asleep",
    "waiting for a lock",
    "full executor",
    "200 slow clients",
    "spinning",
    "three spinning",
)
MEAN_GAP_S = 0.005
WIDTHS = (10, 8, 8, 10, 8, 8)
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


def measured(state: str, probes: int, gaps: random.Random) -> dict[str, dict[str, float]]:
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
    return {"fresh": figures(fresh), "kept": figures(kept)}


def figures(durations_s: list[float]) -> dict[str, float]:
    ordered = sorted(durations_s)
    picks = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(ordered[int(q * (len(ordered) - 1))] * 1e3, 3) for name, q in picks.items()} | {
        "n": len(ordered)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--probes", type=int, default=800, help="for each state, half of them on a kept connection"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    gaps = random.Random(arguments.seed)
    results = {state: measured(state, arguments.probes, gaps) for state in STATES}
    if arguments.json:
        print(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count(), "states": results}))
        return
    print(
        f"{'/healthz, ms':20} {'fresh p50':>10} {'p99':>8} {'max':>8} {'kept p50':>10} {'p99':>8} {'max':>8}"
    )
    for state, by_kind in results.items():
        cells = [by_kind[kind][name] for kind in ("fresh", "kept") for name in ("p50_ms", "p99_ms", "max_ms")]
        print(
            f"{state:20}" + "".join(f" {cell:{width}.2f}" for cell, width in zip(cells, WIDTHS, strict=True))
        )


if __name__ == "__main__":
    main()
