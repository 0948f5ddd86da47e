"""Nodes and commands as JSON.

Ages and monotonic instants become wall-clock times here, by the server's own clock, and only here.
Telemetry is passed on as the worker gave it. Knows no HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server_stub.clock import iso
from server_stub.core.node_facts import Lifecycle

if TYPE_CHECKING:
    from nanny.protocol.messages import Condition, NannyReport, WorkerReport
    from server_stub.arrivals import Arrivals
    from server_stub.clock import Clock
    from server_stub.core.explanation import Explanation
    from server_stub.core.node_facts import ConnectionFact, ProbeFact, Reason, Verdict
    from server_stub.store.commands import CommandRecord
    from server_stub.store.nodes import NodeRecord

Json = dict[str, Any]


class Views:
    """Renders with one clock, read once for each document."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def node(
        self,
        record: NodeRecord,
        arrivals: Arrivals,
        verdict: Verdict,
        revision: int,
        *,
        is_withheld: bool = False,
    ) -> Json:
        """Give a node's line in the list: what one looks at first."""
        nanny, worker = arrivals.nanny_report, arrivals.worker_report
        telemetry = worker.telemetry if worker is not None else {}
        return {
            "id": record.id,
            "name": record.name,
            "revision": revision,
            "state": record.state,
            "state_reason": record.state_reason,
            "state_message": record.state_message,
            "state_since": iso(record.state_since_wall_at),
            "lifecycle": verdict.lifecycle,
            "reachability": verdict.reachability,
            "health": verdict.health,
            "unreachable": record.unreachable,
            "withheld": verdict.word if is_withheld else None,
            "maintenance": _maintenance(record),
            "clock_skew_s": self._clock_skew_s(arrivals),
            "reasons": [self._reason(reason) for reason in verdict.reasons],
            "incarnation": _newest_incarnation(record, arrivals),
            "phase": nanny.phase if nanny is not None else None,
            "last_restart": None if nanny is None else self._last_restart(nanny, arrivals),
            "loop_lag_s": _loop_lag_s(nanny, worker),
            "cpu": _part(telemetry, "host", "cpu"),
            "memory": _part(telemetry, "host", "memory"),
            "gpus": _part(telemetry, "gpu", "devices"),
            "connections": {
                "link": self._connection(arrivals.link),
                "worker": self._connection(arrivals.worker),
            },
        }

    def page(
        self,
        record: NodeRecord,
        arrivals: Arrivals,
        verdict: Verdict,
        revision: int,
        *,
        is_withheld: bool = False,
    ) -> Json:
        """Give all that is known of a node."""
        worker = arrivals.worker_report
        return {
            **self.node(record, arrivals, verdict, revision, is_withheld=is_withheld),
            "machine_id": record.machine_id,
            "first_seen": iso(record.first_seen_wall_at),
            "registered": None if record.registered_wall_at is None else iso(record.registered_wall_at),
            "registered_incarnation": record.incarnation,
            "address": record.address,
            "healthz_port": record.healthz_port,
            "software_version": record.software_version,
            "labels": record.effective_labels,
            "labels_set": record.labels_set,
            "capacity": record.capacity,
            "version": record.version_id,
            "probe": self._probe(arrivals.probe),
            "nanny": self._nanny(arrivals),
            "worker": None
            if worker is None
            else {
                "reported": self._instant(arrivals.worker_report_at),
                "seq": worker.seq,
                "loop_lag_s": worker.loop_lag_s,
                "observed_generation": worker.observed_generation,
                "conditions": [self._condition(one, arrivals.worker_report_at) for one in worker.conditions],
                "telemetry": worker.telemetry,
            },
        }

    def maintained(self, record: NodeRecord, *, is_changed: bool) -> Json:
        """Give what an order of maintenance has come to."""
        return {
            "id": record.id,
            "name": record.name,
            "state": record.state,
            "maintenance": _maintenance(record),
            "changed": is_changed,
        }

    def explanation(self, record: NodeRecord, arrivals: Arrivals, why: Explanation) -> Json:
        """Give why a node is in its state."""
        verdict = why.verdict
        return {
            "id": record.id,
            "name": record.name,
            "state": record.state,
            "state_message": record.state_message,
            "state_since": iso(record.state_since_wall_at),
            "judged": verdict.word,
            "reason": self._reason(verdict.reason),
            "axes": {
                axis.name: {"state": axis.state, "word": axis.word, **self._reason(axis.reason)}
                for axis in why.axes
            },
            "evidence": [
                {
                    "axis": one.axis,
                    "source": one.source,
                    "what": one.what,
                    "at": self._instant(one.at),
                    "since": self._instant(one.since_at),
                }
                for one in why.evidence
            ],
            "would_change": [{"what": change.what, "at": self._instant(change.at)} for change in why.changes],
            "next_steps": [
                {"what": step.what, "why": step.why, "at": self._instant(step.at)} for step in why.steps
            ],
            "maintenance": _maintenance(record),
            "clock_skew_s": self._clock_skew_s(arrivals),
        }

    def _reason(self, reason: Reason) -> Json:
        return {"code": reason.code, "detail": reason.detail, "since": self._instant(reason.since_at)}

    def _clock_skew_s(self, arrivals: Arrivals) -> float | None:
        """Give how far the node's wall clock was ahead of ours when it last told it; shown, never decided by."""
        told = [
            (at, report.wall_clock_s)
            for at, report in (
                (None if arrivals.nanny is None else arrivals.nanny.at, arrivals.nanny_report),
                (arrivals.worker_report_at, arrivals.worker_report),
            )
            if at is not None and report is not None and report.wall_clock_s is not None
        ]
        if not told:
            return None
        at, wall_s = max(told)
        return round(wall_s - self._wall_of(at), 1)

    def command(self, record: CommandRecord) -> Json:
        """Give a command with its times."""
        return {
            "id": record.id,
            "node_id": record.node_id,
            "rollout_id": record.rollout_id,
            "batch_id": record.batch_id,
            "kind": record.kind,
            "state": record.state,
            "is_finished": record.is_finished,
            "detail": record.detail,
            "reason": record.reason,
            "actor": record.actor,
            "target_incarnation": record.target_incarnation,
            "incarnation_after": record.incarnation_after,
            "parameters": record.parameters,
            "time_to_live_s": record.time_to_live_s,
            "created": iso(record.created_wall_at),
            "expires": iso(record.expires_wall_at),
            "sent": _optional_iso(record.sent_wall_at),
            "accepted": _optional_iso(record.accepted_wall_at),
            "finished": _optional_iso(record.finished_wall_at),
            "took_s": None
            if record.finished_wall_at is None
            else round(record.finished_wall_at - record.created_wall_at, 3),
        }

    def _instant(self, at: float | None) -> str | None:
        return None if at is None else iso(self._wall_of(at))

    def _wall_of(self, at: float) -> float:
        return self._clock.wall() - (self._clock.monotonic() - at)

    def _connection(self, connection: ConnectionFact | None) -> Json | None:
        if connection is None:
            return None
        return {
            "is_open": connection.is_open,
            "since": self._instant(connection.changed_at),
            "heard": self._instant(connection.heard_at),
        }

    def _probe(self, probe: ProbeFact | None) -> Json | None:
        if probe is None:
            return None
        return {
            "result": probe.result,
            "status": probe.status,
            "at": self._instant(probe.at),
            "since": self._instant(probe.since_at),
            "incarnation": None if probe.incarnation is None else str(probe.incarnation),
            "stalled_at": probe.where,
        }

    def _nanny(self, arrivals: Arrivals) -> Json | None:
        report, fact = arrivals.nanny_report, arrivals.nanny
        if report is None or fact is None:
            return None
        return {
            "reported": self._instant(fact.at),
            "phase": report.phase,
            "phase_since": self._instant(fact.phase_since_at),
            "desired": report.desired,
            "desired_by": report.desired_by,
            "desired_reason": report.desired_reason,
            "desired_since": self._instant(fact.desired_since_at),
            "incarnation": None if report.incarnation is None else str(report.incarnation),
            "worker_state": report.worker_state,
            "loop_lag_s": report.loop_lag_s,
            "beat_age_s": report.beat_age_s,
            "restarts": report.restarts,
            "next_step": report.next_step,
            "next_step_at": None
            if report.next_step_in_s is None
            else self._instant(fact.at + report.next_step_in_s),
            "hold_until": None
            if report.hold_remaining_s is None
            else self._instant(fact.at + report.hold_remaining_s),
            "draining": report.draining,
            "journal_degraded": report.journal_degraded,
            "started": self._instant(fact.at - report.uptime_s),
            "version": report.nanny_version,
            "conditions": [self._condition(one, fact.at) for one in report.conditions],
        }

    def _condition(self, condition: Condition, reported_at: float | None) -> Json:
        return {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "since": None if reported_at is None else self._instant(reported_at - condition.age_s),
        }

    def _last_restart(self, report: NannyReport, arrivals: Arrivals) -> Json | None:
        last = report.last_restart
        if last is None or arrivals.nanny is None:
            return None
        return {
            "reason": last.reason,
            "at": self._instant(arrivals.nanny.at - last.age_s),
            "incarnation_before": _optional_text(last.incarnation_before),
            "incarnation_after": _optional_text(last.incarnation_after),
        }


def _maintenance(record: NodeRecord) -> Json | None:
    if record.lifecycle != Lifecycle.MAINTENANCE:
        return None
    return {
        "reason": record.maintenance_reason,
        "by": record.maintenance_by,
        "since": _optional_iso(record.maintenance_since_wall_at),
        "until": _optional_iso(record.maintenance_until_wall_at),
    }


def _newest_incarnation(record: NodeRecord, arrivals: Arrivals) -> str | None:
    """Give what the nanny runs now, else what registered last."""
    if arrivals.nanny_report is not None and arrivals.nanny_report.incarnation is not None:
        return str(arrivals.nanny_report.incarnation)
    return record.incarnation


def _loop_lag_s(nanny: NannyReport | None, worker: WorkerReport | None) -> float | None:
    """Give the nanny's figure, which is there when the worker hangs, else the worker's own."""
    if nanny is not None and nanny.loop_lag_s is not None:
        return nanny.loop_lag_s
    return worker.loop_lag_s if worker is not None else None


def _optional_iso(wall_at: float | None) -> str | None:
    return None if wall_at is None else iso(wall_at)


def _optional_text(thing: object | None) -> str | None:
    return None if thing is None else str(thing)


def _part(telemetry: Json, group: str, key: str) -> Any:
    """A part of what the worker reported; None where it is not of the expected shape."""
    found = telemetry.get(group)
    return found.get(key) if isinstance(found, dict) else None
