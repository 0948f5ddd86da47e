"""Draws the faults of a run from a seed: the one place in the simulation that rolls dice.

Faults come in clusters, because the second one is what finds the bug: alone, in a pair within seconds, or several
while the first is still being dealt with. Each node has dice of its own, so that a fleet of another size has the same
nodes.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.faults import KINDS, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DAY_S: Final = 86400.0
_CLUSTER_GOES_ON: Final = 0.6
_KINDS_OF_ORDERS: Final = ("restart",) * 6 + (
    "stop",
    "start",
    "start",
    "drain",
    "undrain",
    "hold",
    "release",
    "clear",
    "collect-evidence",
    "reload",
)


def drawn(seed: int, nodes: int, days: float, rates: Mapping[str, float] | None = None) -> list[Fault]:
    """Give the faults of a run, in order of time.

    Args:
        seed: of the dice.
        nodes: how many.
        days: how long.
        rates: faults a day and node by kind, in place of the default ones.
    """
    chosen = {**KINDS, **(rates or {})}
    unknown = set(chosen) - set(KINDS)
    assert not unknown, f"no such fault: {', '.join(sorted(unknown))}"
    kinds = [kind for kind, rate in chosen.items() if rate > 0]
    weights = [chosen[kind] for kind in kinds]
    faults: list[Fault] = []
    for node in range(nodes):
        dice = Random(f"{seed}/{node}")
        pause_s = DAY_S / (sum(weights) * (1.0 - _CLUSTER_GOES_ON)) if weights else DAY_S * days
        at = dice.expovariate(1.0 / pause_s)
        while weights and at < days * DAY_S:
            faults += _cluster(dice, node, at, kinds, weights)
            at += dice.expovariate(1.0 / pause_s)
    faults.sort(key=lambda one: (one.at, one.node))
    return faults


def _cluster(dice: Random, node: int, at: float, kinds: list[str], weights: list[float]) -> list[Fault]:
    found = []
    while True:
        (kind,) = dice.choices(kinds, weights)
        found.append(Fault(round(at, 3), node, kind, _GIVEN[kind](dice)))
        if dice.random() >= _CLUSTER_GOES_ON:
            return found
        at += 10.0 ** dice.uniform(-3.0, 1.7)


def _spread(dice: Random, least_s: float, most_s: float) -> float:
    """Seconds whose logarithm is evenly spread."""
    drawn_s: float = least_s * (most_s / least_s) ** dice.random()
    return round(drawn_s, 3)


def _lasting(least_s: float, most_s: float) -> Callable[[Random], dict[str, Any]]:
    return lambda dice: {"for_s": _spread(dice, least_s, most_s)}


def _without(_dice: Random) -> dict[str, Any]:
    return {}


def _killed(dice: Random) -> dict[str, Any]:
    return {
        "surviving": dice.randrange(4),
        "down_s": _spread(dice, 0.1, 20.0),
        "worker_dies": dice.random() < 0.15,
    }


def _order(dice: Random) -> dict[str, Any]:
    kind = dice.choice(_KINDS_OF_ORDERS)
    more = {"for_s": _spread(dice, 1.0, 600.0)} if kind == "hold" else {}
    return {
        "do": kind,
        "aim": dice.choice(("present", "present", "none", "past", "future")) if kind == "restart" else "none",
        "ttl_s": dice.choice((0.5, 10.0, 60.0, 60.0, 60.0)),
        "copies": dice.choice((1, 1, 1, 2, 3)),
        **more,
    }


def _frames(dice: Random) -> dict[str, Any]:
    return {"count": dice.choice((1, 1, 1, 2, 5)), "way": dice.choice(("up", "down"))}


_GIVEN: Final[dict[str, Callable[[Random], dict[str, Any]]]] = {
    "exits": lambda dice: {"status": dice.choice(("exit code 0", "exit code 1", "SIGSEGV", "SIGKILL"))},
    "stalls": lambda dice: {"lasts_s": dice.choice((3.0, 20.0, 29.0, 31.0, 33.0, 1e9, 1e9, 1e9))},
    "overdue": lambda dice: {"lasts_s": dice.choice((1.0, 1e9))},
    "silent": lambda dice: {
        "lasts_s": dice.choice((3.0, 5.9, 6.1, 7.5, 20.0, 1e9, 1e9)),
        "letter": dice.choice("STR"),
    },
    "uninterruptible": _lasting(1.0, 900.0),
    "traced": _lasting(3.0, 300.0),
    "starved-worker": _lasting(4.0, 120.0),
    "ignores-term": _without,
    "says-stopping": lambda dice: {"exits_s": dice.choice((0.1, 5.0, 29.9, 1e9))},
    "triggers": _without,
    "driver-hangs": _lasting(5.0, 3600.0),
    "known-long-work": _lasting(10.0, 900.0),
    "memory": _without,
    "spawns-fail": _lasting(0.5, 120.0),
    "spawns-late": lambda dice: {"for_s": _spread(dice, 0.5, 60.0), "by_s": _spread(dice, 0.1, 30.0)},
    "exec-fails": _lasting(0.5, 120.0),
    "starts-die": _lasting(1.0, 900.0),
    "starts-slow": lambda dice: {"for_s": _spread(dice, 1.0, 200.0), "by_s": _spread(dice, 5.0, 150.0)},
    "dies-when-ready": _lasting(1.0, 900.0),
    "nanny-killed": _killed,
    "nanny-killed-at-effect": lambda dice: {"effects": dice.randrange(12), **_killed(dice)},
    "nanny-stopped": lambda dice: {"for_s": _spread(dice, 0.2, 60.0)},
    "nanny-ended": lambda dice: {"down_s": _spread(dice, 0.1, 200.0)},
    "evidence-hangs": _lasting(1.0, 300.0),
    "settings-hang": lambda dice: {"for_s": _spread(dice, 1.0, 300.0), "refused": dice.random() < 0.5},
    "disk-hangs": _lasting(0.05, 600.0),
    "disk-fails": _lasting(0.05, 600.0),
    "power-lost": lambda dice: {"down_s": _spread(dice, 5.0, 600.0), "surviving": dice.randrange(4)},
    "suspended": _lasting(1.0, 7200.0),
    "starved": _lasting(0.5, 120.0),
    "link-killed": _without,
    "link-hangs": _lasting(1.0, 120.0),
    "links-fail": _lasting(1.0, 120.0),
    "partition": _lasting(0.5, 600.0),
    "cut": _without,
    "frames-lost": _frames,
    "frames-doubled": _frames,
    "frames-delayed": lambda dice: {**_frames(dice), "by_s": _spread(dice, 0.01, 20.0)},
    "frames-reordered": _frames,
    "probe-blocked": _lasting(1.0, 300.0),
    "server-restarts": lambda dice: {"down_s": _spread(dice, 0.1, 300.0)},
    "order": _order,
    "local-order": _order,
}
assert _GIVEN.keys() == KINDS.keys()
