"""A fleet under faults: one run from the first boot to the last question, and what is to be told of it.

A run is a function of its faults and settings, nothing else. After the last fault the world means well for so long
that every bound has passed for every node.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from nanny.core.config import ChildTiming, PolicyConfig
from tests.simulation import bounds
from tests.simulation.clockwork import Clockwork, LiveLock
from tests.simulation.injection import MEMORY_LIMIT_BYTES, inflict
from tests.simulation.machine import Machine
from tests.simulation.oracles import Violation
from tests.simulation.server import Server
from tests.simulation.shell import simulated_surroundings
from tests.simulation.wire import DIAL_CEILING_S, DIAL_TIMEOUT_S, KEEPALIVE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.simulation.faults import Fault

CONFIG: Final = PolicyConfig(
    link=ChildTiming(),
    memory_limit_bytes=MEMORY_LIMIT_BYTES,
    server_restarts_per_hour=30,
    server_commands_per_hour=60,
)
SLICE_S: Final = 3600.0
_FIRST_S: Final = 60.0
_EVENTS_A_SECOND: Final = 10_000
"""Of each node and of the server: fifty nodes have less than a thousand together."""


@dataclass(slots=True)
class Told:
    """The figures of a run."""

    nodes: int
    virtual_s: float = 0.0
    node_s: float = 0.0
    """Virtual time of all nodes together."""
    wall_s: float = 0.0
    events: int = 0
    steps: int = 0
    checks: int = 0
    restarts: int = 0
    crashes: int = 0
    lives: int = 0
    longest_dark_s: float = 0.0
    dark_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    violation: str = ""
    """What was broken; empty: nothing."""
    broken_by: str = ""
    """The node where it showed; empty: between them."""

    def as_json(self) -> dict[str, Any]:
        """All figures as one object."""
        names = [name for name in self.__slots__ if name not in {"faults", "commands"}]
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {**plain, "faults": dict(self.faults), "commands": dict(self.commands)}

    def add(self, other: Told) -> None:
        """Another run's figures on top."""
        self.nodes += other.nodes
        for name in (
            "virtual_s",
            "wall_s",
            "events",
            "steps",
            "checks",
            "restarts",
            "crashes",
            "lives",
            "dark_s",
            "node_s",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_dark_s = max(self.longest_dark_s, other.longest_dark_s)
        self.faults += other.faults
        self.commands += other.commands
        if not self.violation:
            self.violation, self.broken_by = other.violation, other.broken_by


class Fleet:
    """Nodes, their server, and what befalls them."""

    def __init__(self, nodes: Iterable[int], config: PolicyConfig = CONFIG, *, folding: bool = True) -> None:
        """Nothing runs yet.

        Args:
            nodes: their numbers; a node is the same one in each fleet.
            config: of every nanny.
            folding: whether steady beats are folded.
        """
        numbers = tuple(nodes)
        self.world = Clockwork(_EVENTS_A_SECOND * (1 + len(numbers)))
        self.server = Server(self.world)
        self._by_number = {
            number: Machine(self.world, number, config, self.server, folding=folding) for number in numbers
        }
        self.machines = list(self._by_number.values())
        for machine in self.machines:
            self.server.meet(machine)
        self.told = Told(len(self.machines))
        self._steps: Counter[str] = Counter()

    def run(
        self, faults: Sequence[Fault], days: float = 0.0, progress: Callable[[Told], None] | None = None
    ) -> Told:
        """Let all of it happen.

        Args:
            faults: in order of time.
            days: at least so long; it ends when every bound has passed after the last fault.
            progress: told the figures now and then.
        """
        began = perf_counter()
        for machine in self.machines:
            self.world.at(0.0, machine.at_mono, 3.0, machine.start_nanny)
        quiet_from = max([days * 86400.0, _FIRST_S, *(fault.ends_at for fault in faults)])
        with simulated_surroundings({one.name: one for one in self.machines}, self._steps):
            try:
                self._inflict(faults, began, progress)
                self.world.run(quiet_from)
                self.world.run(quiet_from + self._settling_s())
                for machine in self.machines:
                    machine.beats.unfold()
                    machine.oracles.look(machine)
                    machine.oracles.must_rest(machine)
                    machine.oracles.must_serve(machine, 99)
            except Violation as violation:
                self.told.violation, self.told.broken_by = violation.rule, violation.node
            except LiveLock as lock:
                self.told.violation = f"a live lock of the world: {lock}"
        self._count(began)
        return self.told

    def _inflict(
        self, faults: Sequence[Fault], began: float, progress: Callable[[Told], None] | None
    ) -> None:
        shown_at = SLICE_S
        for fault in faults:
            self.world.run(fault.at)
            self.told.faults[fault.kind] += 1
            inflict(self._by_number[fault.node], fault)
            if progress is not None and self.world.now >= shown_at:
                shown_at = self.world.now + SLICE_S
                self._count(began)
                progress(self.told)

    def _settling_s(self) -> float:
        config = self.machines[0].config
        told_s = bounds.told_s(config, KEEPALIVE_S, DIAL_CEILING_S, DIAL_TIMEOUT_S)
        # Twice: the first may have been begun by what was noticed late.
        return 2 * (bounds.dark_s(config, 99) + told_s) + 8000.0

    def _count(self, began: float) -> None:
        told = self.told
        told.virtual_s, told.events = self.world.now, self.world.events_total
        told.node_s = told.virtual_s * told.nodes
        told.wall_s = perf_counter() - began
        told.steps = self._steps["steps"]
        told.checks = told.steps + sum(one.oracles.checks for one in self.machines)
        told.lives = sum(one.oracles.lives for one in self.machines)
        told.restarts = sum(one.restarts for one in self.machines)
        told.crashes = sum(one.crashes for one in self.machines)
        told.longest_dark_s = max((one.oracles.longest_dark_s for one in self.machines), default=0.0)
        told.dark_s = sum(one.oracles.dark_total_s for one in self.machines)
        told.commands = Counter(self.server.commands_by_outcome)
