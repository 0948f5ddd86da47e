"""What link counts of itself, as plain numbers; `metrics.py` renders them.

Knows neither sockets nor names of metrics. All counters start with the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Link's own counters and the few states that are shown beside them."""

    connections_total: int = 0
    """Sessions that were established with the server."""
    disconnects: dict[str, int] = field(default_factory=dict)
    """Ended or failed connections to the server, by cause."""
    frames_received_total: int = 0
    frames_sent_total: int = 0
    bytes_received_total: int = 0
    bytes_sent_total: int = 0
    violations_total: int = 0
    """Times the server broke the rules of the protocol."""
    orders_total: int = 0
    """Orders that came, repeated ones included."""
    deferrals_total: int = 0
    """Times the nanny put an order off."""
    outcomes_sent_total: int = 0
    reports_sent_total: int = 0
    nanny_connections_total: int = 0
    nanny_disconnects: dict[str, int] = field(default_factory=dict)
    """Ended or failed connections to the nanny, by cause."""
    pushes_refused_total: int = 0
    """Lines from the nanny that could not be understood."""

    def disconnected(self, cause: str) -> None:
        """A connection to the server ended, or none came about."""
        self.disconnects[cause] = self.disconnects.get(cause, 0) + 1

    def nanny_disconnected(self, cause: str) -> None:
        """A connection to the nanny ended, or none came about."""
        self.nanny_disconnects[cause] = self.nanny_disconnects.get(cause, 0) + 1
