"""The nanny's status as the report that the server gets, and what is said while there is no nanny.

Pure: ages that the status gives are those of the moment it was made; the caller says how long ago that was. What a
status lacks, because the nanny is of another version, is told as unknown: never an exception.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import Condition, ConditionStatus, Desired, LastRestart, NannyReport

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREACHABLE: Final = "nanny-unreachable"
"""The phase that is reported while link has no connection to the nanny."""
_CONDITION: Final = "NannyUnreachable"
_NO_RESTARTS: Final = frozenset({"stop-ordered", "nanny-shutdown"})
"""Ends of a worker that no other one follows."""


def report_of(status: Mapping[str, Any], age_s: float, boot_age_s: float) -> NannyReport:
    """Give the report for a status.

    Args:
        status: as the nanny's `status` answers.
        age_s: how long ago it did.
        boot_age_s: since the machine's start: how old at least is what was set before it.
    """
    desired, worker, nanny = (_part(status, key) for key in ("desired", "worker", "nanny"))
    hold, counters = status.get("hold"), _part(status, "counters")
    desired_age_s = desired.get("age_s")
    return NannyReport(
        phase=str(status.get("phase") or "unknown"),
        desired=Desired.DOWN if desired.get("value") == "down" else Desired.UP,
        desired_by=str(desired.get("by", "")),
        desired_reason=str(desired.get("reason", "")),
        desired_since_s=boot_age_s if desired_age_s is None else _seconds(desired_age_s, age_s) or 0.0,
        incarnation=incarnation_of(status),
        worker_state=str(worker.get("stage") or "unknown"),
        loop_lag_s=_seconds(worker.get("loop_lag_s")),
        beat_age_s=_seconds(worker.get("beat_age_s"), age_s),
        conditions=tuple(_condition(one, age_s) for one in _list(status, "conditions")),
        restarts={
            str(reason): count
            for reason, count in list(_part(counters, "ends_total").items())[:64]
            if type(count) is int and count >= 0 and reason not in _NO_RESTARTS
        },
        last_restart=_last_restart(status, age_s),
        next_step=str(status.get("next_step", "")),
        next_step_in_s=_seconds(status.get("next_step_in_s"), -age_s),
        hold_remaining_s=_seconds(hold.get("remaining_s"), -age_s) if isinstance(hold, dict) else None,
        draining=status.get("draining") is True,
        nanny_version=str(nanny.get("version", "")),
        journal_degraded=status.get("journal_degraded") is True,
        uptime_s=_seconds(nanny.get("age_s"), age_s) or 0.0,
    )


def report_without_nanny(
    last: Mapping[str, Any], age_s: float, lost_s: float, boot_age_s: float, why: str
) -> NannyReport:
    """Give what is to be said while the nanny does not answer: what is wanted stands, the rest is unknown.

    Args:
        last: the last status that there was.
        age_s: how long ago that was.
        lost_s: since when the nanny is gone.
        boot_age_s: since the machine's start.
        why: what trying to connect comes to.
    """
    known = report_of(last, age_s, boot_age_s)
    condition = Condition(
        _CONDITION, ConditionStatus.TRUE, "NoConnection", f"link cannot reach the nanny: {why}", lost_s
    )
    return NannyReport(
        phase=UNREACHABLE,
        desired=known.desired,
        desired_by=known.desired_by,
        desired_reason=known.desired_reason,
        desired_since_s=known.desired_since_s,
        incarnation=known.incarnation,
        worker_state="unknown",
        loop_lag_s=None,
        beat_age_s=None,
        conditions=(condition,),
        restarts=known.restarts,
        last_restart=known.last_restart,
        next_step="systemd, or whoever started it, starts the nanny again",
        next_step_in_s=None,
        hold_remaining_s=None,
        draining=known.draining,
        nanny_version=known.nanny_version,
        journal_degraded=known.journal_degraded,
        uptime_s=0.0,
    )


def incarnation_of(status: Mapping[str, Any]) -> Incarnation | None:
    """Give the worker's life that a status names."""
    return _incarnation(status.get("incarnation"))


def _incarnation(told: object) -> Incarnation | None:
    try:
        return Incarnation.parse(told) if isinstance(told, str) else None
    except ProtocolViolation:
        return None


def _last_restart(status: Mapping[str, Any], age_s: float) -> LastRestart | None:
    last = status.get("last_restart")
    if not isinstance(last, dict):
        return None
    before, present = _incarnation(last.get("before")), incarnation_of(status)
    return LastRestart(
        reason=str(last.get("reason") or "unknown"),
        age_s=_seconds(last.get("age_s"), age_s) or 0.0,
        incarnation_before=before,
        incarnation_after=None if present == before else present,
    )


def _condition(told: Mapping[str, Any], age_s: float) -> Condition:
    status = told.get("status")
    return Condition(
        type=str(told.get("type") or "Unknown"),
        status=ConditionStatus(status) if status in list(ConditionStatus) else ConditionStatus.UNKNOWN,
        reason=str(told.get("reason", "")),
        message=str(told.get("message", "")),
        age_s=_seconds(told.get("age_s"), age_s) or 0.0,
    )


def _seconds(value: object, more_s: float = 0.0) -> float | None:
    """An age or a remaining time, moved on; None if there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        moved_s = max(0.0, value + more_s)
    except OverflowError:
        return None
    return moved_s if isfinite(moved_s) else None


def _part(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = plain.get(key)
    return value if isinstance(value, dict) else {}


def _list(plain: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = plain.get(key)
    return [one for one in value[:127] if isinstance(one, dict)] if isinstance(value, list) else []
