"""What the nanny shows: its state as one JSON object, for nannyctl, link and the fallback answer.

Ages, never instants: the reader's clock may be another one. Nothing here decides anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanny.core.explain import explain

if TYPE_CHECKING:
    from nanny.core.config import PolicyConfig
    from nanny.core.state import NannyState


def status(state: NannyState, now: float, config: PolicyConfig) -> dict[str, Any]:
    """The part of the status that follows from the core's state; times in seconds."""
    told = explain(state, now, config)
    worker, vitals, last = state.worker, state.vitals, state.last_restart
    beat_age_s = None if worker.last_beat_at is None else _age(worker.last_beat_at, now)
    return {
        "node_id": config.node_id,
        "phase": str(state.phase),
        "because": list(told.because),
        "next_step": told.next_step,
        "next_step_in_s": _rounded(told.next_in_s),
        "desired": {
            "value": str(state.intent.desired),
            "by": state.intent.actor,
            "reason": state.intent.reason,
            "age_s": None if state.intent.since is None else _age(state.intent.since, now),
        },
        "draining": state.draining,
        "hold": None
        if state.hold is None
        else {
            "by": state.hold.actor,
            "reason": state.hold.reason,
            "remaining_s": round(max(state.hold.until - now, 0.0), 3),
        },
        "incarnation": None if state.incarnation is None else str(state.incarnation),
        "worker": {
            "stage": str(worker.stage),
            "pid": worker.pid,
            "age_s": _age(worker.since, now),
            "beat_age_s": beat_age_s,
            "loop_lag_s": round(vitals.loop_lag_s, 3),
            "overdue": list(vitals.overdue),
            "stalled_at": vitals.stalled_at,
            "failures": worker.failures,
        },
        "last_restart": None
        if last is None
        else {
            "reason": str(last.reason),
            "detail": last.detail,
            "age_s": _age(last.at, now),
            "before": str(last.before),
        },
        "link": {"stage": str(state.link.stage), "pid": state.link.pid, "failures": state.link.failures},
        "fenced": [str(one) for one in state.fenced],
        "journal_degraded": state.journal_degraded,
        "conditions": [
            {
                "type": str(one.type),
                "status": "True",
                "reason": one.reason,
                "message": one.message,
                "age_s": _age(one.since, now),
            }
            for one in state.conditions
        ],
        "pending_commands": [
            {"id": one.command.id, "kind": str(one.command.kind), "actor": one.command.actor}
            for one in state.ledger.pending
        ],
    }


def _age(at: float, now: float) -> float:
    return round(max(now - at, 0.0), 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
