"""What the program published, and the ages of its proofs of progress, in; health and its texts out.

Two questions are kept apart. Liveness: does the event loop turn, and each critical service with it? A "no" is
answered with 503 on /livez and /healthz, and is the supervisor's matter. Readiness: may new work come here? Its
"no" is /readyz's alone: a node that lost its server is not stalled. Nothing else decides either of them.

Texts for strangers hold names and ages; reasons, places in the code and stacks are for peers who may see them.
Knows no clock and no sockets. The forms of /livez and /readyz are those of the Kubernetes API server, the
``application/health+json`` form is draft-inadarei-api-health-check-06.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.vitals.snapshot import Check

if TYPE_CHECKING:
    from agent.vitals.snapshot import Snapshot
    from nanny.protocol.notify_format import ProgressAge

Json = dict[str, object]


class HealthStatus(StrEnum):
    """The word in /healthz's body."""

    STARTING = "starting"
    OK = "ok"
    STALLED = "stalled"
    FALLBACK = "fallback"
    """Never ours: the supervisor answered in our place."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that health follows from, at one moment."""

    snapshot: Snapshot
    loop_lag_s: float | None = None
    """None while no event loop is watched."""
    progress: tuple[ProgressAge, ...] = ()
    expected: tuple[float, str] | None = None
    """Announced long work: seconds left, and why."""
    stalled_at: str | None = None
    stall_stack: str | None = None
    incarnation: str | None = None
    pid: int = 0
    uptime_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict and what it was drawn from."""

    status: HealthStatus
    liveness: tuple[Check, ...]

    @property
    def http_status(self) -> int:
        """200, or 503 when stalled."""
        return 503 if self.status is HealthStatus.STALLED else 200


def assess(seen: Observation, stall_timeout_s: float) -> Health:
    """Draw the verdict; announced work excuses every age while it lasts."""
    excused = seen.expected is not None and seen.expected[0] > 0
    checks = []
    if seen.loop_lag_s is not None:
        passed = excused or seen.loop_lag_s <= stall_timeout_s
        reason = f"lags {seen.loop_lag_s:.1f} s, {stall_timeout_s:g} s allowed"
        if seen.stalled_at is not None:
            reason += f", stands at {seen.stalled_at}"
        checks.append(Check("loop", passed, "" if passed else reason))
    for point in seen.progress:
        if point.critical:
            passed = excused or not point.is_overdue
            reason = f"no progress for {point.age_s:.1f} s, {point.deadline_s:g} s allowed"
            checks.append(Check(f"progress:{point.name}", passed, "" if passed else reason))
    if not all(check.passed for check in checks):
        status = HealthStatus.STALLED
    elif seen.snapshot.started:
        status = HealthStatus.OK
    else:
        status = HealthStatus.STARTING
    return Health(status, tuple(checks))


def readiness(snapshot: Snapshot) -> tuple[Check, ...]:
    """The checks that /readyz answers from; start-up is the first."""
    return (Check("started", snapshot.started, "" if snapshot.started else "starting"), *snapshot.readiness)


def checks_text(endpoint: str, checks: tuple[Check, ...], *, verbose: bool, detailed: bool) -> str:
    """The body of /livez and /readyz: ``ok``, or a line for each check.

    Args:
        endpoint: ``livez`` or ``readyz``.
        checks: what was looked at; an answer of failure always lists them.
        verbose: list them in an answer of success as well.
        detailed: give the reasons; else they are withheld.
    """
    passed = all(check.passed for check in checks)
    if passed and not verbose:
        return "ok"
    lines = []
    for check in checks:
        if check.passed:
            lines.append(f"[+]{check.name} ok")
        else:
            lines.append(f"[-]{check.name} failed: {check.reason if detailed else 'reason withheld'}")
    lines.append(f"{endpoint} check {'passed' if passed else 'failed'}\n")
    return "\n".join(lines)


def healthz_json(seen: Observation, health: Health, *, detailed: bool) -> Json:
    """The body of /healthz."""
    body: Json = {
        "status": health.status.value,
        "incarnation": seen.incarnation,
        "ready": seen.snapshot.is_ready,
        "loop_lag_s": None if seen.loop_lag_s is None else round(seen.loop_lag_s, 3),
        "progress": {
            point.name: {
                "age_s": round(point.age_s, 3),
                "deadline_s": point.deadline_s,
                "critical": point.critical,
            }
            for point in seen.progress
        },
        "pid": seen.pid,
        "uptime_s": round(seen.uptime_s, 3),
    }
    if health.status is HealthStatus.STALLED:
        body["failed"] = [check.name for check in health.liveness if not check.passed]
    if detailed:
        body |= {
            "reasons": [check.reason for check in health.liveness if not check.passed],
            "not_ready": {c.name: c.reason for c in readiness(seen.snapshot) if not c.passed},
            "conditions": {c.type: c.message for c in seen.snapshot.conditions},
            "expected": None
            if seen.expected is None
            else dict(zip(("left_s", "why"), seen.expected, strict=True)),
            "status_text": seen.snapshot.status_text,
            "phase": seen.snapshot.phase,
            "stuck_probes": seen.snapshot.stuck_probes,
            "stalled_at": seen.stalled_at,
            "stack": None if seen.stall_stack is None else seen.stall_stack.split("\n"),
        }
    return body


def health_json(seen: Observation, health: Health, *, detailed: bool) -> Json:
    """The body of /healthz for those who accept ``application/health+json``."""
    failing = health.status is HealthStatus.STALLED
    word = "fail" if failing else "pass" if seen.snapshot.is_ready else "warn"
    checks: dict[str, list[Json]] = {}
    for check in health.liveness:
        measured: Json = {"componentType": "system", "status": "pass" if check.passed else "fail"}
        if detailed and check.reason:
            measured["output"] = check.reason
        checks[check.name] = [measured]
    if seen.loop_lag_s is not None:
        checks["loop"][0] |= {"observedValue": round(seen.loop_lag_s, 3), "observedUnit": "s"}
    for point in seen.progress:
        measured = checks.setdefault(
            f"progress:{point.name}", [{"status": "warn" if point.is_overdue else "pass"}]
        )[0]
        measured |= {"observedValue": round(point.age_s, 3), "observedUnit": "s"}
    return {
        "status": word,
        "serviceId": seen.incarnation,
        "description": health.status.value,
        "checks": checks,
    }
