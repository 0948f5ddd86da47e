"""One process of the simulated fleet: `python -m server_stub.fleet.share`, started by `conductor.py`.

The plan comes as the first line on stdin, and the ports of the doors are told on stdout; then `server HOST PORT`
comes, and one word a line: `begin`, `fail`, `return`. Each second a line of counts goes to stdout. The end of
stdin is the end: whatever becomes of the conductor, no node outlives it.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import uvloop

from server_stub.fleet.doors import Door
from server_stub.fleet.node import SimulatedNode
from server_stub.fleet.plan import Behaviour, from_json, share_of
from server_stub.fleet.surroundings import Surroundings

if TYPE_CHECKING:
    from server_stub.fleet.plan import FleetPlan

TOLD_EVERY_S: Final = 1.0
ABSENCE: Final = 0.5
"""How much of its period a node that comes and goes is away."""
RETURN_SPREAD_S: Final = 1.0


class Share:
    """The nodes of this process."""

    def __init__(self, plan: FleetPlan, number: int) -> None:
        self.plan = plan
        self._by_address: dict[str, SimulatedNode] = {}
        find = self._by_address.get
        self.around = Surroundings(
            run=plan.run,
            dials=asyncio.Semaphore(plan.dials_at_a_time),
            chance=random.Random(plan.seed * 1000 + number),
            steady=Door(find),
            failing=Door(find),
            refusing=Door(find),
        )
        slow_s = plan.misbehaving[Behaviour.SLOW].period_s if Behaviour.SLOW in plan.misbehaving else 0.0
        self.nodes = [SimulatedNode(one, self.around, slow_s) for one in share_of(plan, number)]
        self._by_address.update((node.address, node) for node in self.nodes)
        self._tasks: set[asyncio.Task[None]] = set()

        self.around.steady.open()
        self.around.failing.open()

    async def arrive(self) -> None:
        """Let all nodes register, so many at a time."""
        turns = asyncio.Semaphore(2 * self.plan.dials_at_a_time)

        async def one(node: SimulatedNode) -> None:
            async with turns:
                node.arrive(is_known=self.plan.are_known)
                await node.has_registered.wait()

        await asyncio.gather(*(one(node) for node in self.nodes))

    def begin(self) -> None:
        """Let those that restart, or come and go, begin to."""
        for node in self.nodes:
            if node.plan.behaviour in {Behaviour.RESTARTING, Behaviour.CHURNING}:
                self._start(self._unsteady(node, self.plan.misbehaving[node.plan.behaviour].period_s))

    async def _unsteady(self, node: SimulatedNode, period_s: float) -> None:
        await asyncio.sleep(self.around.chance.uniform(0, period_s))
        while True:
            if node.plan.behaviour is Behaviour.RESTARTING:
                node.restart_worker()
                await asyncio.sleep(period_s)
            else:
                node.leave()
                await asyncio.sleep(period_s * ABSENCE)
                node.arrive()
                await asyncio.sleep(period_s * (1 - ABSENCE))

    def fail(self) -> None:
        """The mass failure, in its way."""
        assert self.plan.failure is not None
        way = self.plan.failure.way
        failing = [node for node in self.nodes if node.plan.fails]
        if way is Behaviour.REFUSING:
            self.around.failing.shut()
            for node in failing:
                node.leave()
        else:
            for node in failing:
                node.behave(way)

    def come_back(self) -> None:
        """All of them at once, within the second that clocks and switches spread them over."""
        assert self.plan.failure is not None
        self.around.failing.open()
        for node in self.nodes:
            if node.plan.fails and self.plan.failure.way is Behaviour.REFUSING:
                self._start(self._return(node))
            elif node.plan.fails:
                node.behave(node.plan.behaviour)

    async def _return(self, node: SimulatedNode) -> None:
        await asyncio.sleep(self.around.chance.uniform(0, RETURN_SPREAD_S))
        node.arrive()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Break everything off."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self.nodes:
            node.close()
        for door in (self.around.steady, self.around.failing, self.around.refusing):
            door.close()

    def ports(self) -> dict[str, int]:
        """Give the doors' ports by what they are for."""
        around = self.around
        return {
            "steady": around.steady.port,
            "failing": around.failing.port,
            "refusing": around.refusing.port,
        }

    def told(self) -> dict[str, Any]:
        """Give what the conductor is told each second."""
        return self.around.counts.as_json() | {
            "arrived": sum(node.has_registered.is_set() for node in self.nodes),
            "cpu_s": time.process_time(),
        }


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = json.loads(await reader.readline())
    share = Share(from_json(first["plan"]), first["number"])
    _say({"ports": share.ports()})
    tasks = [asyncio.create_task(_tell(share))]
    try:
        while words := (await reader.readline()).decode().split():
            match words:
                case "server", host, port:
                    share.around.server = (host, int(port))
                    tasks.append(asyncio.create_task(share.arrive()))
                case ["begin"]:
                    share.begin()
                case ["fail"]:
                    share.fail()
                case ["return"]:
                    share.come_back()
                case _:
                    raise AssertionError(words)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await share.close()


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _tell(share: Share) -> None:
    while True:
        _say(share.told())
        await asyncio.sleep(TOLD_EVERY_S)


def main() -> None:
    """Run this process's share until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conductor decides
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_main())


if __name__ == "__main__":
    main()
