"""A simulation from its first process to its last: starts the fleet, keeps its times, gathers what it did.

    server up ─► processes of the fleet ─► all registered ─► settled ─► `seconds` of load ─► everything ended

Times of the plan count from *settled*: from when the server has judged every node. Every second, by default, a
`Moment` is told. Whatever ends it (an error, Ctrl-C, the end), the processes of the fleet are gone when
`conduct` returns.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from yarl import URL

from server_stub.fleet import figures, known_nodes
from server_stub.fleet.plan import Behaviour, to_json
from server_stub.fleet.processes import FleetProcesses
from server_stub.fleet.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.fleet.plan import FleetPlan

SETTLE_TIMEOUT_S: Final = 90.0
REGISTERS_S: Final = 0.05
"""How long a node may take to register, on average, before the simulation gives up."""


class SimulationFailed(Exception):  # noqa: N818  # what it is
    """The fleet did not come up, or the server went away; the message says which."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One second of the simulation."""

    phase: str
    """registering, settling or running."""
    at_s: float
    """Since the phase began."""
    words: dict[str, float]
    """Nodes by the server's word."""
    probes_per_s: float
    results_per_s: dict[str, float]
    """Checks by class, as the server counts them."""
    arrived: int
    connections: int
    reports_per_s: float
    server_cpu_percent: float | None
    server_rss_mib: float | None
    wait_p99_ms: float | None
    """Of /livez, in this second."""
    round_s: float | None
    fleet_cpu_percent: float
    failures: dict[str, int]
    happened: str = ""


@dataclass(slots=True)
class Results:
    """What a whole simulation came to; figures are of its running phase."""

    url: str = ""
    """Of the server."""
    seconds: float = 0.0
    registering_s: float = 0.0
    registering_cpu_s: float | None = None
    probes: int = 0
    reports: int = 0
    checks: dict[str, float] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)
    server_cpu_s: float | None = None
    server_rss_mib: float | None = None
    server_rss_before_mib: float | None = None
    """Before the first node."""
    wait_p50_ms: float | None = None
    wait_p99_ms: float | None = None
    round_s: float | None = None
    rows_written: float | None = None
    fleet_cpu_s: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)


@dataclass(slots=True)
class _Counted:
    """Sums over the processes of the fleet."""

    asked: int = 0
    reports: int = 0
    arrived: int = 0
    open_connections: int = 0
    cpu_s: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


class _Fleet:
    """The processes, and what they told last."""

    def __init__(self) -> None:
        self.processes = FleetProcesses(self._hear)
        self.ports: dict[int, dict[str, int]] = {}
        self._told: dict[int, dict[str, Any]] = {}

    async def start(self, plan: FleetPlan) -> None:
        """Start all of them, and wait until their doors are open."""
        await self.processes.start(plan, to_json(plan))
        while len(self.ports) < plan.processes:
            self.check()
            await asyncio.sleep(0.02)

    def counted(self) -> _Counted:
        """Sum up what all of them told last."""
        found = _Counted()
        for told in self._told.values():
            found.asked += told["asked"]
            found.reports += told["reports"]
            found.arrived += told["arrived"]
            found.open_connections += told["open_connections"]
            found.cpu_s += told["cpu_s"]
            for why, number in told["failures"].items():
                found.failures[why] = found.failures.get(why, 0) + number
        return found

    def check(self) -> None:
        """Raise if one of them is gone.

        Raises:
            SimulationFailed: with its number and status.
        """
        for number, status in self.processes.ended():
            raise SimulationFailed(f"process {number} of the fleet ended with {status}")

    def _hear(self, number: int, told: dict[str, Any]) -> None:
        if "ports" in told:
            self.ports[number] = told["ports"]
        else:
            self._told[number] = told


async def conduct(
    plan: FleetPlan,
    server: str | ServerProcess,
    *,
    tell: Callable[[Moment], None] = lambda _: None,
    cue: Callable[[Moment], str | None] = lambda _: None,
    look_every_s: float = 1.0,
    results: Results | None = None,
) -> Results:
    """Run a simulation.

    Args:
        plan: what to simulate.
        server: the URL of a running one on this machine, or one that is to be started when the fleet is there.
        tell: gets each second.
        cue: says after each second of load what is to happen now, beside the plan's own times: `fail`, `return`
            or `end`; None: nothing.
        look_every_s: how often the server is asked for its metrics, which costs it something.
        results: filled as it goes, so that a simulation that was broken off has what it had.

    Raises:
        SimulationFailed: the fleet did not come up, or did not stay.
        ServerNotUp: the server did not start.
    """
    found = Results() if results is None else results
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        fleet = _Fleet()
        stack.push_async_callback(fleet.processes.close)
        await fleet.start(plan)
        pid = None
        if isinstance(server, ServerProcess):
            if plan.are_known:
                await known_nodes.write(server.database_url, plan, fleet.ports)
            server.start()
            pid, found.server_rss_before_mib = server.pid, figures.rss_mib(server.pid)
        url = URL(server.url if isinstance(server, ServerProcess) else server)
        found.url = str(url)
        watch = figures.Watch(http, str(url).rstrip("/"))
        fleet.processes.tell(f"server {url.host} {url.port}")
        run = _Run(plan, watch, fleet, pid, tell, cue, look_every_s, found)
        asking = asyncio.create_task(watch.keep_asking())
        stack.push_async_callback(_ended, asking)
        await run.register()
        await run.settle()
        await run.load()
    return found


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class _Run:
    """The phases, second by second."""

    def __init__(
        self,
        plan: FleetPlan,
        watch: figures.Watch,
        fleet: _Fleet,
        pid: int | None,
        tell: Callable[[Moment], None],
        cue: Callable[[Moment], str | None],
        look_every_s: float,
        results: Results,
    ) -> None:
        self._plan = plan
        self._watch = watch
        self._fleet = fleet
        self._pid = pid
        self._tell = tell
        self._cue = cue
        self._look_every_s = look_every_s
        self._results = results
        self._samples: figures.Samples = {}
        self._counted = _Counted()
        self._cpu_s = self._server_cpu_s()
        self._looked_at = time.monotonic()
        self._waits_seen = 0
        refusing = plan.misbehaving.get(Behaviour.REFUSING)
        self._to_be_asked = plan.nodes - (0 if refusing is None else refusing.count)

    async def register(self) -> None:
        """Wait until every node has registered."""
        began_at, cpu_s = time.monotonic(), self._cpu_s
        limit_s = 60.0 + REGISTERS_S * self._plan.nodes
        while self._fleet.counted().arrived < self._plan.nodes:
            await self._second("registering", began_at)
            if time.monotonic() - began_at > limit_s:
                counted = self._fleet.counted()
                raise SimulationFailed(
                    f"{counted.arrived} of {self._plan.nodes} nodes have registered within {limit_s:.0f} s: "
                    f"{counted.failures}"
                )
        self._results.registering_s = time.monotonic() - began_at
        self._results.registering_cpu_s = None if self._pid is None else self._server_cpu_s() - cpu_s

    async def settle(self) -> None:
        """Wait until no node is PENDING, and all are known; or long enough."""
        began_at = time.monotonic()
        while time.monotonic() - began_at < SETTLE_TIMEOUT_S:
            moment = await self._second("settling", began_at)
            known = sum(moment.words.values())
            # A server of others may know more nodes than ours, pending for reasons of their own.
            is_judged = known >= self._plan.nodes and not moment.words.get("PENDING")
            if is_judged and self._counted.asked >= self._to_be_asked:
                return

    async def load(self) -> None:
        """Keep the plan's times, and gather figures."""
        plan, results = self._plan, self._results
        began_at = time.monotonic()
        samples, counted, cpu_s = await self._watch.metrics(), self._fleet.counted(), self._server_cpu_s()
        self._watch.waits_s.clear()
        self._waits_seen = 0
        results.moments.clear()
        self._fleet.processes.tell("begin")
        todo = (
            []
            if plan.failure is None
            else [(plan.failure.at_s, "fail"), (plan.failure.returns_at_s, "return")]
        )
        todo = [(at_s, word) for at_s, word in todo if at_s is not None]
        try:
            while (elapsed_s := time.monotonic() - began_at) < plan.seconds:
                happened = ""
                while todo and todo[0][0] is not None and todo[0][0] <= elapsed_s:
                    happened = todo.pop(0)[1]
                    self._fleet.processes.tell(happened)
                moment = await self._second("running", began_at, happened, plan.seconds - elapsed_s)
                results.moments.append(moment)
                word = self._cue(moment)
                if word == "end":
                    break
                if word is not None:
                    self._fleet.processes.tell(word)
        finally:
            self._sum_up(began_at, samples, counted, cpu_s)

    def _sum_up(self, began_at: float, before: figures.Samples, counted: _Counted, cpu_s: float) -> None:
        results, now, after = self._results, self._fleet.counted(), self._samples
        results.seconds = time.monotonic() - began_at
        results.probes, results.reports = now.asked - counted.asked, now.reports - counted.reports
        results.fleet_cpu_s = now.cpu_s - counted.cpu_s
        results.failures = now.failures
        results.words = figures.by_label(after, "nodes", "state")
        checks, earlier = (figures.by_label(one, "probes_total", "result") for one in (after, before))
        results.checks = {name: value - earlier.get(name, 0) for name, value in checks.items()}
        if self._pid is not None:
            results.server_cpu_s = self._server_cpu_s() - cpu_s
            results.server_rss_mib = figures.rss_mib(self._pid)
        results.wait_p50_ms, results.wait_p99_ms = figures.quantiles_ms(self._watch.waits_s)
        results.round_s = figures.round_seconds(after, before)
        written = [figures.total(one, "verdicts_written_total") or 0.0 for one in (after, before)]
        results.rows_written = written[0] - written[1] if after else None

    async def _second(
        self, phase: str, began_at: float, happened: str = "", left_s: float = float("inf")
    ) -> Moment:
        """Let a second, or as long as was asked for, pass, and look at everything."""
        await asyncio.sleep(min(self._look_every_s, max(0.05, left_s)))
        self._fleet.check()
        samples, counted, cpu_s = await self._watch.metrics(), self._fleet.counted(), self._server_cpu_s()
        now = time.monotonic()
        took_s, self._looked_at = now - self._looked_at, now
        waits = self._watch.waits_s[self._waits_seen :]
        self._waits_seen = len(self._watch.waits_s)
        moment = Moment(
            phase=phase,
            at_s=now - began_at,
            words=figures.by_label(samples, "nodes", "state"),
            probes_per_s=(counted.asked - self._counted.asked) / took_s,
            results_per_s=figures.per_second(
                figures.by_label(samples, "probes_total", "result"),
                figures.by_label(self._samples, "probes_total", "result"),
                took_s,
            ),
            arrived=counted.arrived,
            connections=counted.open_connections,
            reports_per_s=(counted.reports - self._counted.reports) / took_s,
            server_cpu_percent=None if self._pid is None else 100 * (cpu_s - self._cpu_s) / took_s,
            server_rss_mib=None if self._pid is None else figures.rss_mib(self._pid),
            wait_p99_ms=figures.quantiles_ms(waits)[1],
            round_s=figures.round_seconds(samples, self._samples),
            fleet_cpu_percent=100 * (counted.cpu_s - self._counted.cpu_s) / took_s,
            failures=counted.failures,
            happened=happened,
        )
        if samples:
            self._samples = samples
        self._counted, self._cpu_s = counted, cpu_s
        self._tell(moment)
        return moment

    def _server_cpu_s(self) -> float:
        return 0.0 if self._pid is None else figures.cpu_s(self._pid)
