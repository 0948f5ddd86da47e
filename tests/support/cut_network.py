"""A server whose own network is cut, in a network namespace of its own; run as a program, it tells what it saw.

    python -m tests.support.cut_network DATABASE

Server and fleet live in one process and one namespace that has nothing but a loopback interface. Taking that
down is what a dead uplink is to the server: nothing comes through, nothing is refused, and nobody on the
other side has done anything. unshare(2), netdevice(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from typing import Any

from server_stub.config import ServerConfig
from server_stub.main import running
from tests.support.small_fleet import (
    Rack,
    ShiftedClock,
    SmallFleet,
    all_checked,
    all_in,
    commands_in,
    events_of,
    eventually,
    states,
)

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
NODES = 24


def enter_an_empty_network() -> None:
    """Leave the machine's network for good.

    Raises:
        OSError: not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def set_loopback(*, up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP if up else 0))


async def scenario(database: str) -> dict[str, Any]:
    clock, fleet = ShiftedClock(), SmallFleet(Rack(f"n{number:02}" for number in range(NODES)))
    config = ServerConfig(
        port=0,
        database=database,
        probe_interval_s=0.5,
        probe_budget_s=1.2,
        probe_try_timeout_s=1.2,
        offline_timeout_s=60.0,
        silence_timeout_s=60.0,
        hello_timeout_s=30.0,
        repair="on",
        repair_after_s=0.5,
        log_level="critical",
    )
    await fleet.open()
    try:
        async with running(config, clock) as server:
            await fleet.dial(server)
            await all_in(server, "READY", NODES)

            set_loopback(up=False)
            await eventually(lambda: server.brakes.is_demotion_brake_on, "the brake")
            await all_checked(server)
            cut = await states(server)
            probes = [server.arrivals.of(name).probe for name in fleet.names]
            results = sorted({str(probe.result) for probe in probes if probe is not None})

            set_loopback(up=True)
            await eventually(lambda: not server.brakes.is_demotion_brake_on, "the brake's release")
            await fleet.hang_up()
            await fleet.dial(server)
            await all_in(server, "READY", NODES)
            kept = {name for name, word in cut.items() if word == "READY"}
            told = await events_of(server, "node.state")
            return {
                "results": results,
                "demoted": NODES - len(kept),
                "told_of_the_kept": sorted({detail["after"] for _, node, detail in told if node in kept}),
                "brake": [type_ for type_, _, _ in await events_of(server, "brake.")],
                "commands": len(await commands_in(server)),
            }
    finally:
        await fleet.close()


if __name__ == "__main__":
    try:
        enter_an_empty_network()
    except PermissionError:
        print(json.dumps({"not_allowed": True}))
        sys.exit(0)
    set_loopback(up=True)
    print(json.dumps(asyncio.run(scenario(sys.argv[1]))), flush=True)
