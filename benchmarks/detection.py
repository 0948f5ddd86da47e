"""How late a missed beat is noticed: the verdict in the journal, beside the deadline that the last beat had set.

Workers beat for a random while and fall silent for good; each writes when its last beat left. Twice: on an idle
machine, and with twice as many spinning processes as cores. The journal's instants are whole milliseconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Effort, Figure, measured, p99
from benchmarks.nodes import COLD
from tests.support.nodes import RunningNanny, running_nanny

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES: Final = 4
TIMEOUT_S: Final = 0.5
WORKER: Final = """
import random
rest = random.Random(os.urandom(8))
notify("READY=1\\nWATCHDOG=1")
until = time.monotonic() + rest.uniform(0.2, 0.8)
while True:
    left_at = time.monotonic()
    notify("WATCHDOG=1")
    if left_at > until:
        break
    time.sleep(rest.uniform(0.02, 0.1))
with open(os.environ["NANNY_INCARNATION"].replace("/", "-"), "w") as file:
    file.write(repr(left_at))
time.sleep(600)
"""


def measure(effort: Effort) -> Iterator[Figure]:
    """Several nodes at once: each does nothing most of the time."""
    wanted = effort.count(120, 16)
    effort.tell("idle")
    yield from _figures("missed beat -> verdict, idle", wanted)
    effort.tell("every core busy")
    with every_core_busy():
        yield from _figures("missed beat -> verdict, every core busy", wanted)


def _figures(line: str, wanted: int) -> Iterator[Figure]:
    """Ours, and what the machine takes to wake anybody: no supervisor can be earlier than its timer."""
    is_over = threading.Event()
    floor: list[float] = []
    timer = threading.Thread(target=_time_timers, args=(is_over, floor))
    timer.start()
    try:
        late = _latenesses(wanted)
    finally:
        is_over.set()
        timer.join()
    yield measured(line, "ms late", late, 1e3, limits=(p99(10),))
    yield measured(line, "ms late", floor, 1e3, whose="a bare timer, the floor")


def _time_timers(is_over: threading.Event, late: list[float]) -> None:
    while not is_over.is_set():
        due_at = time.monotonic() + 0.05
        time.sleep(0.05)
        late.append(time.monotonic() - due_at)


@contextmanager
def every_core_busy() -> Iterator[None]:
    """Two spinning processes for each core."""
    spinning = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def _latenesses(wanted: int) -> list[float]:
    settings = {
        **COLD,
        "heartbeat_timeout_s": TIMEOUT_S,
        "heartbeat_interval_s": 0.1,
        "evidence_timeout_s": 0,
        "backoff_initial_s": 0,
        "backoff_ceiling_s": 0.1,
        "crash_loop_after": 100_000,
        "stable_after_s": 0,
    }
    with ExitStack() as stack:
        nodes = [stack.enter_context(running_nanny(WORKER, **settings)) for _ in range(NODES)]
        until = time.monotonic() + 30 + 4 * wanted
        found: list[float] = []
        while len(found) < wanted and time.monotonic() < until:
            time.sleep(0.5)
            found = [late for node in nodes for late in _of_node(node)]
    return found[:wanted]


def _of_node(node: RunningNanny) -> list[float]:
    """The lateness of each verdict so far; of a life whose file is not there yet, none."""
    found = []
    for record in node.journal():
        if record["type"] == "stop-decided" and record["reason"] == "lost":
            path = Path(node.root, record["incarnation"].replace("/", "-"))
            text = path.read_text() if path.exists() else ""
            if text:
                found.append(record["at"] - float(text) - TIMEOUT_S)
    return found
