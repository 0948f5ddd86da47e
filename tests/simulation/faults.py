"""What can go wrong, as data: a fault is an instant, a node, a kind and a few numbers.

A run is its list of faults and nothing else: the same list gives the same run, a part of it is a smaller one, and a
list in a file can be played again. Knows neither how faults are drawn nor what they do to a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

ARMED_S: Final = 30.0
"""A crash that waits for the nanny's next effects strikes after this in any case."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, or one order that is given."""

    at: float
    """Seconds since the world began."""
    node: int
    kind: str
    given: dict[str, Any]

    @property
    def ends_at(self) -> float:
        """From when on it is no longer the world that keeps the node from being well."""
        given = self.given
        lasts_s: float = given.get("for_s", 0.0) + given.get("down_s", 0.0) + given.get("by_s", 0.0)
        if "ttl_s" in given:
            lasts_s += given["ttl_s"] + 1.0
        if self.kind == "nanny-killed-at-effect":
            lasts_s += ARMED_S
        return self.at + lasts_s

    def as_json(self) -> dict[str, Any]:
        """The fault as one flat object."""
        return {"at": self.at, "node": self.node, "kind": self.kind, **self.given}

    @classmethod
    def of_json(cls, plain: dict[str, Any]) -> Fault:
        """The fault that `as_json` gave."""
        given = {name: value for name, value in plain.items() if name not in {"at", "node", "kind"}}
        return cls(float(plain["at"]), int(plain["node"]), str(plain["kind"]), given)


KINDS: Final[dict[str, float]] = {
    # the worker
    "exits": 6.0,
    "stalls": 4.0,
    "overdue": 1.0,
    "silent": 4.0,
    "uninterruptible": 2.0,
    "traced": 0.5,
    "starved-worker": 2.0,
    "ignores-term": 2.0,
    "says-stopping": 2.0,
    "triggers": 1.0,
    "driver-hangs": 1.0,
    "known-long-work": 1.0,
    "memory": 1.0,
    # its starts
    "spawns-fail": 2.0,
    "spawns-late": 1.5,
    "exec-fails": 1.0,
    "starts-die": 2.0,
    "starts-slow": 2.0,
    "dies-when-ready": 1.5,
    # the nanny
    "nanny-killed": 4.0,
    "nanny-killed-at-effect": 8.0,
    "nanny-stopped": 2.0,
    "nanny-ended": 1.5,
    "evidence-hangs": 1.0,
    "settings-hang": 0.5,
    # disk and machine
    "disk-hangs": 5.0,
    "disk-fails": 2.0,
    "power-lost": 1.5,
    "suspended": 1.5,
    "starved": 2.0,
    # link, network, server
    "link-killed": 2.0,
    "link-hangs": 1.0,
    "links-fail": 0.5,
    "partition": 3.0,
    "cut": 3.0,
    "frames-lost": 3.0,
    "frames-doubled": 3.0,
    "frames-delayed": 3.0,
    "frames-reordered": 2.0,
    "probe-blocked": 1.0,
    "server-restarts": 0.7,
    # orders
    "order": 16.0,
    "local-order": 3.0,
}
"""Each kind with how often it strikes a node, per day; together about a hundred a day."""
