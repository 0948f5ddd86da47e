"""Run as a program: a prober in a network namespace of its own, whose only network is taken away and comes back.

Says, as JSON, of what class the checks of NODES nodes were before, during and after. The nodes are in the same
namespace, and well all the time: what is cut is the server's own network. Needs CAP_SYS_ADMIN.
network_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
from collections import Counter

from server_stub.clock import SystemClock
from server_stub.metrics import Metrics
from server_stub.prober import Prober, ProbeSettings
from tests.support.server_peers import healthz_server

NODES = 30
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def set_loopback(flags: int) -> None:
    """Take the loopback device up or down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags))


async def check_all(prober: Prober, names: range, port: int, host: str = "127.0.0.1") -> dict[str, int]:
    """Give how many checks came to which class."""
    facts = await asyncio.gather(*(prober.check(f"n{n}", host, port) for n in names))
    return dict(Counter(str(fact.result) for fact in facts))


async def main() -> None:
    """Tell the story."""
    set_loopback(IFF_UP)
    settings = ProbeSettings(budget_s=4.5, try_timeout_s=2.0)
    async with healthz_server() as healthz, Prober(settings, SystemClock(), Metrics()) as prober:
        known, new = range(NODES), range(NODES, 2 * NODES)
        story = {"before": await check_all(prober, known, healthz.port)}
        set_loopback(0)
        story["cut, kept connections"] = await check_all(prober, known, healthz.port)
        story["cut, new connections"] = await check_all(prober, new, healthz.port)
        story["without a route"] = await check_all(prober, new, healthz.port, "192.0.2.1")
        set_loopback(IFF_UP)
        story["after"] = await check_all(prober, range(2 * NODES), healthz.port)
    print(json.dumps(story), flush=True)


if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    asyncio.run(main())
