"""What a simulated fleet is: how many nodes, which of them misbehave in which way, what happens to them when.

All of it follows from the plan and its seed, so that each process of the fleet works out its own share and
nothing has to be told node by node. Holds the arithmetic of descriptors and addresses; opens nothing. The
addresses are those of 127/8 (RFC 1122 3.2.1.3), from 127.1.0.0 upwards: all of them are this machine.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_NODES: Final = 200_000
FIRST_ADDRESS: Final = 1 << 16
SPARE_DESCRIPTORS: Final = 256
"""Of a server, for its database and log, and of a process of the fleet; see `server_stub.descriptors`."""
DESCRIPTORS_OF_A_SHARE: Final = 15_000


class PlanError(Exception):
    """The plan cannot be carried out: the message holds the arithmetic."""


@unique
class Behaviour(StrEnum):
    """How a node is, apart from what happens to all at once."""

    HEALTHY = "healthy"
    SLOW = "slow"
    """Answers, but late."""
    REFUSING = "refusing"
    """Nobody listens at its port."""
    SILENT = "silent"
    """Accepts, and never answers: a hung machine's kernel does."""
    STALLED = "stalled"
    """Answers 503 with the place where its loop stands."""
    RESTARTING = "restarting"
    """A new life of its worker every so often, which registers."""
    CHURNING = "churning"
    """Gone without a word, and back as a new life, every so often."""


WAYS_TO_FAIL: Final = (Behaviour.REFUSING, Behaviour.SILENT, Behaviour.STALLED)


@dataclass(frozen=True, slots=True)
class Some:
    """So many nodes, and the seconds that their behaviour goes by."""

    count: int = 0
    period_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MassFailure:
    """Many nodes at one instant, counted from when the fleet had settled."""

    at_s: float
    count: int
    way: Behaviour = Behaviour.REFUSING
    returns_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """One simulation."""

    nodes: int
    connected: int = 0
    """Nodes that hold their link's and their worker's connection; the others are only probed."""
    processes: int = 1
    seconds: float = 60.0
    seed: int = 1
    run: str = "01900000-0000-7000"
    """Begins the epochs of this run's lives: later runs sort behind earlier ones."""
    misbehaving: Mapping[Behaviour, Some] = field(default_factory=dict)
    failure: MassFailure | None = None
    are_known: bool = False
    """The server finds the nodes in its database: those that are only probed need not register."""
    dials_at_a_time: int = 32
    """Of each process, while the fleet registers."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node of the plan."""

    index: int
    behaviour: Behaviour
    is_connected: bool
    fails: bool
    """Whether it takes part in the mass failure."""


def address(index: int) -> str:
    """Give a node's address in 127/8."""
    number = FIRST_ADDRESS + index
    return f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def check(plan: FleetPlan, descriptor_limit: int) -> None:
    """Refuse what cannot be, with the arithmetic.

    Raises:
        PlanError: too few or too many of something.
    """
    if not 1 <= plan.nodes <= MOST_NODES:
        raise PlanError(f"{plan.nodes} nodes: expected 1 to {MOST_NODES}")
    if not 0 <= plan.connected <= plan.nodes:
        raise PlanError(f"{plan.connected} connected nodes of {plan.nodes}")
    special = sum(some.count for some in plan.misbehaving.values())
    failing = plan.failure.count if plan.failure is not None else 0
    if special + failing > plan.nodes:
        raise PlanError(f"{special} misbehaving and {failing} failing nodes are more than {plan.nodes}")
    if plan.are_known and Behaviour.CHURNING in plan.misbehaving:
        raise PlanError("nodes that come and go have ports of their own, and must register: not --known")
    if plan.are_known and plan.failure is not None:
        raise PlanError(
            "a server that has just started takes failures for its own until it has listened for a whole "
            "offline time-out: a mass failure needs nodes that registered, not --known"
        )
    passing = passing_connections(plan)
    needed = plan.nodes + 2 * plan.connected + passing + SPARE_DESCRIPTORS
    if needed > descriptor_limit:
        fits = (descriptor_limit - SPARE_DESCRIPTORS - passing - plan.nodes) // 2
        raise PlanError(
            f"the server needs {needed} descriptors ({plan.nodes} probes + 2 x {plan.connected} connections + "
            f"{passing} that only register + {SPARE_DESCRIPTORS}), this machine allows {descriptor_limit}; with "
            f"{plan.nodes} nodes at most {max(0, fits)} can be connected"
        )
    mine = -(-(2 * plan.nodes + 2 * plan.connected) // plan.processes) + SPARE_DESCRIPTORS
    if mine > descriptor_limit:
        raise PlanError(
            f"each of {plan.processes} processes may need {mine} descriptors, this machine allows "
            f"{descriptor_limit}: --processes {processes_for(plan.nodes, plan.connected)}"
        )


def passing_connections(plan: FleetPlan) -> int:
    """Give how many connections may stand at a time beside those that stay: of nodes that register."""
    returning = plan.failure.count if plan.failure is not None else 0
    return max(4 * plan.dials_at_a_time * plan.processes, returning)


def processes_for(nodes: int, connected: int) -> int:
    """Give how many processes carry such a fleet well."""
    return max(1 if nodes <= 500 else 2, -(-(2 * nodes + 2 * connected) // DESCRIPTORS_OF_A_SHARE))


def share_of(plan: FleetPlan, number: int) -> Iterator[NodePlan]:
    """Give the nodes of one process, the `number`-th of `plan.processes`."""
    chance = random.Random(plan.seed)
    order = list(range(plan.nodes))
    chance.shuffle(order)
    behaviours: dict[int, Behaviour] = {}
    position = 0
    for behaviour, some in sorted(plan.misbehaving.items()):
        behaviours.update(dict.fromkeys(order[position : position + some.count], behaviour))
        position += some.count
    failing = plan.failure.count if plan.failure is not None else 0
    fails = set(order[position : position + failing])
    connected = set(chance.sample(range(plan.nodes), plan.connected))
    for index in range(number, plan.nodes, plan.processes):
        behaviour = behaviours.get(index, Behaviour.HEALTHY)
        yield NodePlan(index, behaviour, index in connected, index in fails)


def to_json(plan: FleetPlan) -> dict[str, Any]:
    """Give the plan as plain data."""
    return asdict(plan)


def from_json(fields: dict[str, Any]) -> FleetPlan:
    """Give the plan that `to_json` gave."""
    failure = fields["failure"]
    if failure is not None:
        failure = MassFailure(**{**failure, "way": Behaviour(failure["way"])})
    misbehaving = {Behaviour(name): Some(**some) for name, some in fields["misbehaving"].items()}
    return FleetPlan(**{**fields, "failure": failure, "misbehaving": misbehaving})
