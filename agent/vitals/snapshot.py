"""What the event loop publishes about itself, and the one reference by which the vitals thread reads it.

A snapshot is never changed: the loop builds a new one and swaps the reference, which needs no lock. The thread
answers from the latest, however old. Knows nothing of threads, sockets and clocks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    """Shown to everyone: no paths, no addresses."""
    passed: bool
    reason: str = ""
    """Shown only to loopback peers and bearers of the token."""


@dataclass(frozen=True, slots=True)
class ActiveCondition:
    """Something that lasts and that people should know; never decides liveness or readiness."""

    type: str
    """For instance `GpuDriverUnresponsive`; shown to everyone."""
    message: str = ""
    """Shown only to loopback peers and bearers of the token."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The program's view of itself at one moment."""

    started: bool = False
    """Start-up is complete: READY=1 for the supervisor, and `ok` instead of `starting` on /healthz."""
    readiness: tuple[Check, ...] = ()
    """What must hold for new work to be sent here; /readyz is 200 when started and all passed."""
    conditions: tuple[ActiveCondition, ...] = ()
    metrics_text: str = ""
    """Prometheus text, appended to /metrics; must not define ``process_*`` or ``vitals_*``."""
    stuck_probes: int = 0
    """Probe helpers past their deadline that cannot be ended."""
    status_text: str = ""
    """One line for people: STATUS=."""
    phase: str = ""
    """One word: where the program is in its life."""

    @property
    def is_ready(self) -> bool:
        """Started, and every readiness check passed."""
        return self.started and all(check.passed for check in self.readiness)
