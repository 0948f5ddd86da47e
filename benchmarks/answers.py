"""Who answers on /healthz while the worker can not: the GIL held by C code, and over a thousand of its deaths.

The prober asks on fresh connections at random moments. A refused connection would tell a fleet that the node is gone.
"""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from benchmarks.asking import Outcome, ask
from benchmarks.figures import Effort, Figure, measured, most, single
from benchmarks.nodes import COLD, address_of, obedient_node
from benchmarks.processes import send

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBERS: Final = 4
PROBES_A_SECOND: Final = 200
HELD_S: Final = 2.5
"""Shorter than the heartbeat timeout, so that nobody is killed for it."""


def gil(effort: Effort) -> Iterator[Figure]:
    """Each hold begins at a random moment; asked from before its begin to its end."""
    gaps = random.Random(effort.seed)
    first: list[float] = []
    every: list[float] = []
    said: Counter[str] = Counter()
    with obedient_node(port=0, **COLD) as (node, _, orders), _sender() as sender:
        address = address_of(node)
        for _ in range(effort.count(12, 3)):
            time.sleep(gaps.uniform(0.3, 1.0))
            sender.sendto(f"gil {HELD_S}".encode(), orders)
            time.sleep(0.02)
            until = time.monotonic() + HELD_S - 0.3
            outcomes = []
            while time.monotonic() < until:
                outcomes.append(ask(address))
                time.sleep(gaps.expovariate(1 / 0.02))
            said.update(one.said for one in outcomes)
            first.append(outcomes[0].took_s)
            every += [one.took_s for one in outcomes]
            time.sleep(0.5)
    words = ", ".join(f"{code}: {times}" for code, times in sorted(said.items()))
    yield measured("GIL held: the first new connection is answered", "ms", first, 1e3, limits=(most(1100),))
    yield measured(
        "GIL held: every new connection is answered", "ms", every, 1e3, words=words, limits=(most(1100),)
    )
    unanswered = sum(times for code, times in said.items() if not code.isdigit())
    yield single("GIL held: new connections that got no answer", "of all", unanswered, limits=(most(0),))


def refused(effort: Effort) -> Iterator[Figure]:
    """SIGKILL within 50 ms after the worker serves, again and again, under probes at random moments."""
    gaps = random.Random(effort.seed)
    restarts = effort.count(1000, 80)
    outcomes: list[Outcome] = []
    is_over = threading.Event()
    settings = {**COLD, "stable_after_s": 0, "backoff_initial_s": 0, "backoff_ceiling_s": 0.1}
    with obedient_node(port=0, **settings) as (node, announcements, _):
        address = address_of(node)
        probers = [
            threading.Thread(target=_probe, args=(address, outcomes, is_over, effort.seed + number))
            for number in range(PROBERS)
        ]
        announcements.skip()
        pid = node.worker_pid
        for prober in probers:
            prober.start()
        try:
            done = 0
            for done in range(1, restarts + 1):
                send(pid, signal.SIGKILL)
                successor = announcements.next_pid(30)
                if successor is None:
                    break
                pid = successor
                time.sleep(gaps.uniform(0, 0.05))
                if done % 100 == 0:
                    effort.tell(f"{done} of {restarts} restarts")
        finally:
            is_over.set()
            for prober in probers:
                prober.join()
    said = Counter(one.said for one in outcomes)
    words = f"{done} restarts, {len(outcomes)} probes: " + ", ".join(
        f"{k} {n}" for k, n in sorted(said.items())
    )
    line = f"connections refused over {restarts:,} restarts under {PROBES_A_SECOND} probes a second"
    yield single(line, "refused", said["refused"], words=words, limits=(most(0),))
    yield single("the same: connections that got no answer in 5 s", "timed out", said["timeout"])
    yield single("the same: accepted by a dying process", "reset", said["reset"])
    answered = [one.took_s for one in outcomes if one.said.isdigit()]
    yield measured("the same: time to an answer", "ms", answered, 1e3)


def _probe(address: tuple[str, int], outcomes: list[Outcome], is_over: threading.Event, seed: int) -> None:
    gaps = random.Random(seed)
    while not is_over.wait(gaps.expovariate(PROBES_A_SECOND / PROBERS)):
        outcomes.append(ask(address))


def _sender() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
