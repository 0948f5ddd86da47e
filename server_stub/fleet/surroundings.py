"""What one process of the fleet gives to all of its nodes: where the server is, turns to dial, counts.

Counts are plain numbers that the process tells once a second; nothing is decided from them here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import random

    from server_stub.fleet.doors import Door


@dataclass(slots=True)
class Counts:
    """What happened since the process began; `open_connections` is what is."""

    asked: int = 0
    """Requests for /healthz that arrived."""
    registered: int = 0
    """Registrations that the server has confirmed."""
    dials: int = 0
    reports: int = 0
    orders: int = 0
    open_connections: int = 0
    """Of links and workers."""
    failures: dict[str, int] = field(default_factory=dict)
    """Dials and connections that failed, by what was wrong."""

    def failed(self, why: str) -> None:
        """Count a failure of one of our connections."""
        self.failures[why] = self.failures.get(why, 0) + 1

    def as_json(self) -> dict[str, Any]:
        """Give the counts as plain data."""
        return {
            "asked": self.asked,
            "registered": self.registered,
            "dials": self.dials,
            "reports": self.reports,
            "orders": self.orders,
            "open_connections": self.open_connections,
            "failures": dict(self.failures),
        }


@dataclass(slots=True)
class Surroundings:
    """One process of the fleet, as its nodes see it."""

    run: str
    dials: asyncio.Semaphore
    chance: random.Random
    steady: Door
    """Of all nodes that stay."""
    failing: Door
    """Of those that fail together."""
    refusing: Door
    """Never opened."""
    server: tuple[str, int] = ("127.0.0.1", 0)
    """Not known before it has started."""
    counts: Counts = field(default_factory=Counts)
