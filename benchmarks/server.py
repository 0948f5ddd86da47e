"""What the server costs under a simulated fleet: CPU, memory, its loop's lag, its rounds and its writes.

Each figure comes from a real server in a process of its own, driven over real sockets by `server_stub.fleet`, in
seconds that were quiet: all nodes known, nothing changes. Beside it, in the same run, the plain design. CPU time is
the scheduler's own count, so what else runs on the machine hardly moves it; the loop's lag it does move, and how
long the server waited for a core is said beside it.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import server_watch
from benchmarks.figures import Effort, Figure, Limit, measured, most, p99, single
from server_stub.fleet.command import fresh_run
from server_stub.fleet.conductor import Moment, Results, conduct
from server_stub.fleet.plan import FleetPlan, processes_for
from server_stub.fleet.server_process import ServerProcess, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OURS_NAME: Final = "nodenanny"
PLAIN: Final = "plain design"
INTERVAL_S: Final = 15.0
LOOK_EVERY_S: Final = 5.0
MANY: Final = 10_000
"""The plain design takes more than an interval for a round of so many."""
OURS: Final = (sys.executable, "-m", "benchmarks.server_watch", "serve")
THEIRS: Final = (sys.executable, "-m", "benchmarks.plain_server")


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation, and what the watch within the server saw of its quiet seconds."""

    results: Results
    seen: server_watch.Seconds
    nodes: int

    @property
    def cpu_percent(self) -> float:
        return 100 * self.seen.cpu_s / self.seen.took_s

    @property
    def probes(self) -> float:
        """In the seconds that the watch saw."""
        return self.results.probes * self.seen.took_s / self.results.seconds

    @property
    def reports(self) -> float:
        return self.results.reports * self.seen.took_s / self.results.seconds

    @property
    def kib_per_node(self) -> float:
        before, after = self.results.server_rss_before_mib, self.results.server_rss_mib
        assert before is not None
        assert after is not None
        return (after - before) * 1024 / self.nodes


def simulated(plan: FleetPlan, command: tuple[str, ...], settings: Mapping[str, str] | None = None) -> Run:
    """Run a simulation against a server of its own."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    instants: list[float] = []

    def tell(moment: Moment) -> None:
        if moment.phase == "running":
            instants.append(time.monotonic())

    with tempfile.TemporaryDirectory(prefix="nodenanny-watch-") as folder:
        path = Path(folder) / "watch"
        environ = {
            **settings_for(plan),
            **(settings or {}),
            server_watch.VARIABLE: str(path),
        }
        with ServerProcess(environ, command) as server:
            results = asyncio.run(conduct(plan, server, tell=tell, look_every_s=LOOK_EVERY_S))
        return Run(results, server_watch.between(path, instants[0] - LOOK_EVERY_S, instants[-1]), plan.nodes)


def quiet(effort: Effort) -> Iterator[Figure]:
    """All nodes known and healthy: 1,000, then 10,000; ours and the plain design."""
    effort.tell("one node")
    watching = simulated(_quiet_plan(1, effort), OURS)
    yield single(
        "server, one node: CPU", "% of a core", watching.cpu_percent, words="most of it for being watched"
    )
    for nodes in (1_000, MANY):
        for whose, command in ((OURS_NAME, OURS), (PLAIN, THEIRS)):
            effort.tell(f"{nodes} nodes, {whose}")
            run = simulated(_quiet_plan(nodes, effort), command)
            is_target = nodes == MANY and whose == OURS_NAME
            yield from _quiet_figures(run, nodes, whose, watching.cpu_percent, is_target=is_target)


def _quiet_plan(nodes: int, effort: Effort) -> FleetPlan:
    return FleetPlan(
        nodes=nodes,
        processes=processes_for(nodes, 0),
        # Whole intervals, or a design that asks all at once would be lucky or unlucky.
        seconds=INTERVAL_S * effort.count(4, 2 if nodes < MANY else 4),
        seed=effort.seed,
        run=fresh_run(),
        are_known=True,
    )


def _quiet_figures(
    run: Run, nodes: int, whose: str, idle_percent: float, *, is_target: bool
) -> Iterator[Figure]:
    def limits(*wanted: Limit) -> tuple[Limit, ...]:
        return wanted if is_target else ()

    name, seen = f"server, {nodes:,} nodes each 15 s", run.seen
    checks = run.results.checks
    lost = sum(number for result, number in checks.items() if result != "ok")
    asked = sum(checks.values())
    words = f"; {100 * lost / asked:.0f} % of the checks failed" if asked and lost > asked / 1000 else ""
    own_percent = run.cpu_percent - idle_percent
    words = f"{run.cpu_percent:.1f} with the watch" + words
    yield single(
        f"{name}: CPU", "% of a core", own_percent, whose=whose, limits=limits(most(10)), words=words
    )
    if run.probes:
        cost_ms = own_percent / 100 * seen.took_s / run.probes * 1e6
        yield single(f"{name}: CPU for 1,000 probes", "ms", cost_ms, whose=whose)
    waited = f"waited {100 * seen.run_delay_s / seen.took_s:.1f} % of the time for a core"
    yield measured(
        f"{name}: loop lag", "ms", seen.lags_s, 1e3, whose=whose, limits=limits(p99(20)), words=waited
    )
    if run.results.round_s is not None:
        yield single(f"{name}: a round", "ms", run.results.round_s * 1e3, whose=whose)
    yield single(f"{name}: memory for each", "KiB", run.kib_per_node, whose=whose)
    batches = sum(number for statement, number in seen.writes.items() if "sightings" in statement)
    others = {statement: number for statement, number in seen.writes.items() if "sightings" not in statement}
    yield single(
        f"{name}: statements that write, in a quiet hour",
        "count",
        sum(others.values()) * 3600 / seen.took_s,
        whose=whose,
        limits=limits(most(0)),
        words=", ".join(f"{number} x {statement}" for statement, number in sorted(others.items())),
    )
    if whose == OURS_NAME:
        yield single(f"{name}: batches of last-seen times, in an hour", "count", batches * 3600 / seen.took_s)


def reports(effort: Effort) -> Iterator[Figure]:
    """1,000 nodes with all three connections, reporting each second so that reports are most of the work."""
    nodes = effort.count(1_000, 300)
    plan = FleetPlan(
        nodes=nodes,
        connected=nodes,
        processes=2,
        seconds=effort.count(45, 20),
        seed=effort.seed,
        run=fresh_run(),
    )
    silent = {
        "SERVER_REPORT_INTERVAL_S": "600",
        "SERVER_KEEPALIVE_INTERVAL_S": "600",
        "SERVER_OFFLINE_TIMEOUT_S": "3600",
    }
    idle = simulated(plan, OURS, silent)
    effort.tell("and now with reports")
    busy = simulated(plan, OURS, {"SERVER_REPORT_INTERVAL_S": "1"})
    spent_s = busy.seen.cpu_s - idle.seen.cpu_s * busy.seen.took_s / idle.seen.took_s
    more = busy.reports - idle.reports * busy.seen.took_s / idle.seen.took_s
    yield single("server: CPU for 1,000 reports", "ms", spent_s / more * 1e6, words=f"{more:,.0f} reports")
    yield single("server: memory for each node with three connections", "KiB", idle.kib_per_node)
    registering = idle.results.registering_cpu_s
    assert registering is not None
    yield single(
        "server: CPU for a node that registers with both connections", "ms", registering / nodes * 1e3
    )
    yield single("server: nodes that register in a second", "count", nodes / idle.results.registering_s)
