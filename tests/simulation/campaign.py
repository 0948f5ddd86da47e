"""Many runs as one: faults are injected seed after seed, on as many processes as are given, until there were enough.

Each run is whole (a fleet, its days, its end at rest), so that any of them can be replayed by its seed alone.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING

from tests.simulation.draw import drawn
from tests.simulation.fleet import Fleet, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future


@dataclass(frozen=True, slots=True)
class Plan:
    """One run to be: the same plan is the same run."""

    seed: int
    nodes: int
    days: float
    rates: Mapping[str, float] = field(default_factory=dict)

    def run(self, progress: Callable[[Told], None] | None = None) -> Told:
        """Run it."""
        faults = drawn(self.seed, self.nodes, self.days, self.rates)
        return Fleet(range(self.nodes)).run(faults, self.days, progress)


@dataclass(slots=True)
class Campaign:
    """The figures of all runs together, and the first plan that broke a rule."""

    told: Told = field(default_factory=lambda: Told(0))
    runs: int = 0
    broken: Plan | None = None
    broken_told: Told | None = None


def _run(plan: Plan) -> Told:
    return plan.run()


def campaign(
    first: Plan, faults: int, processes: int, progress: Callable[[Campaign], None] = lambda _so_far: None
) -> Campaign:
    """Run plans with rising seeds until so many faults were injected, or a rule broke.

    Args:
        first: the first one.
        faults: at least so many.
        processes: side by side.
        progress: told after each run.
    """
    so_far = Campaign()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running: deque[tuple[Plan, Future[Told]]] = deque()
        seed = first.seed
        drawn_total = 0
        while True:
            while len(running) < processes and drawn_total < faults:
                plan = Plan(seed, first.nodes, first.days, first.rates)
                drawn_total += len(drawn(plan.seed, plan.nodes, plan.days, plan.rates))
                running.append((plan, pool.submit(_run, plan)))
                seed += 1
            if not running:
                return so_far
            plan, future = running.popleft()
            told = future.result()
            so_far.runs += 1
            so_far.told.add(told)
            progress(so_far)
            if told.violation:
                so_far.broken, so_far.broken_told = plan, told
                for _, unwanted in running:
                    unwanted.cancel()
                return so_far
