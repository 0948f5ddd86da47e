"""From the worker's SIGKILL until its successor answers, and until the server has the node READY again.

At random uptimes, from cold and with a standby worker. The pollers ask on fresh connections with a pause of a
millisecond or a few, which is the resolution; the nanny answers 503 meanwhile, as it would answer any prober.
"""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING, Final

from benchmarks.asking import ask_until
from benchmarks.figures import Effort, Figure, Limit, measured, most, p50, p99
from benchmarks.nodes import (
    COLD,
    HAS_STANDBY,
    STANDBY,
    address_of,
    agent_node,
    is_settled,
    wait_until_settled,
)
from benchmarks.processes import send
from server_stub.demo.processes import QUICK, Demo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LIVEZ: Final = "SIGKILL -> /livez 200"
READY: Final = "SIGKILL -> READY at the server"
NO_STANDBY: Final = "this version has no standby worker"


def livez(effort: Effort) -> Iterator[Figure]:
    """The real agent under a real nanny, without a server."""
    effort.tell("cold")
    cold = _until_livez(effort, effort.count(25, 5), with_standby=False)
    yield measured(f"{LIVEZ}, cold", "ms", cold, 1e3, limits=(p50(60),))
    bounds = (p50(10), p99(30))
    if not HAS_STANDBY:
        yield Figure(f"{LIVEZ}, standby", "ms", words=NO_STANDBY, limits=bounds)
        return
    effort.tell("with a standby")
    warm = _until_livez(effort, effort.count(40, 6), with_standby=True)
    yield measured(f"{LIVEZ}, standby", "ms", warm, 1e3, limits=bounds)


def _until_livez(effort: Effort, rounds: int, *, with_standby: bool) -> list[float]:
    gaps = random.Random(effort.seed)
    # Each question costs the nanny an answer: asked too often, it is the asking that is measured.
    gap_s = 0.003 if with_standby else 0.005
    took = []
    with agent_node(port=0, **(STANDBY if with_standby else COLD)) as node:
        address = address_of(node)
        for _ in range(rounds):
            pid = wait_until_settled(node, with_standby=with_standby)
            time.sleep(gaps.uniform(0.1, 0.8))
            began_at = time.monotonic()
            send(pid, signal.SIGKILL)
            took.append(ask_until(address, "200", "/livez", gap_s=gap_s) - began_at)
    return took


def ready_at_server(effort: Effort) -> Iterator[Figure]:
    """A whole node and its server, as in `make demo`."""
    variants: list[tuple[str, bool, Limit]] = [("cold", False, most(600)), ("standby", True, p50(50))]
    for name, with_standby, limit in variants:
        if with_standby and not HAS_STANDBY:
            yield Figure(f"{READY}, {name}", "ms", words=NO_STANDBY, limits=(limit,))
            continue
        effort.tell(name)
        settings = STANDBY if with_standby else COLD
        environ = {f"NANNY_{key.upper()}": str(value) for key, value in settings.items()}
        took = _until_ready(effort, environ, with_standby=with_standby)
        yield measured(f"{READY}, {name}", "ms", took, 1e3, limits=(limit,))


def _until_ready(effort: Effort, environ: Mapping[str, str], *, with_standby: bool) -> list[float]:
    gaps = random.Random(effort.seed)
    took = []
    demo = Demo({**QUICK, "NANNY_STABLE_AFTER_S": "0.2", **environ})
    try:
        demo.start()
        for _ in range(effort.count(15, 3)):
            status = demo.until("settling", lambda: _settled(demo, with_standby=with_standby), 60)
            time.sleep(gaps.uniform(0.1, 0.8))
            began_at = time.monotonic()
            send(int(status["worker"]["pid"]), signal.SIGKILL)
            took.append(_ready_again_at(demo, str(status["incarnation"])) - began_at)
    finally:
        demo.close()
    return took


def _settled(demo: Demo, *, with_standby: bool) -> dict[str, object] | None:
    status, node = demo.nanny_status(), demo.node()
    if status is None or node is None or not is_settled(status, with_standby=with_standby):
        return None
    worker = node["connections"]["worker"]
    is_ready = (node["state"], node["incarnation"]) == ("READY", status["incarnation"])
    return status if is_ready and worker is not None and worker["is_open"] else None


def _ready_again_at(demo: Demo, before: str) -> float:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        node = demo.node()
        if node is not None and node["state"] == "READY" and node["incarnation"] != before:
            worker = node["connections"]["worker"]
            if worker is not None and worker["is_open"]:
                return time.monotonic()
        time.sleep(0.003)
    raise TimeoutError("the node is not READY again")
