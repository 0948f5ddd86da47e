"""The status for people: from the nanny's JSON to lines. Pure; the wall clock is an argument.

Whatever field is missing (an older or newer nanny) shows as unknown, and never as an error.
"""

from __future__ import annotations

from typing import Any, Final

from nanny.common.quantities import duration, utc
from nanny.ctl.terminal import Paint, table, visible

_LABEL_WIDTH: Final = 13


def status_lines(status: dict[str, Any], paint: Paint, wall_now: float) -> list[str]:
    """All that an operator asks first, worst news on top."""
    phase = str(status.get("phase", "unknown"))
    dot = paint({"running": "good", "failed": "bad", "down": "stopped"}.get(phase, "warn"), "●")
    node = visible(str(status.get("node_name") or "?"))
    lines = [f"{dot} {paint('strong', node)}  {paint.phase(phase)}{_badges(status, paint)}"]
    lines += [_row("because" if i == 0 else "", one, paint) for i, one in enumerate(because(status)[:1])]
    lines.append(_row("next", next_text(status), paint))
    lines.append(_row("desired", desired_text(status, wall_now), paint, _desired_style(status)))
    lines.append(_row("incarnation", str(status.get("incarnation") or "none yet"), paint))
    lines.append(_row("worker", worker_text(status), paint))
    if status.get("standby"):
        lines.append(_row("standby", standby_text(status["standby"]), paint))
    lines.append(_row("last restart", last_restart_text(status, wall_now), paint))
    hold = status.get("hold")
    if hold:
        lines.append(_row("hold", hold_text(hold), paint, "warn"))
    if status.get("draining"):
        lines.append(_row("draining", "no new work is wanted here (nannyctl undrain)", paint, "warn"))
    lines.append(_row("link", link_text(status), paint))
    fenced = status.get("fenced") or []
    if fenced:
        lines.append(_row("fenced", ", ".join(map(str, fenced)), paint, "bad"))
    lines += [
        _row("pending" if i == 0 else "", f"{one.get('kind')} by {one.get('actor')}  {one.get('id')}", paint)
        for i, one in enumerate(status.get("pending_commands") or [])
    ]
    lines.append(_row("healthz", str(status.get("healthz") or "no listening socket"), paint))
    lines.append(_row("nanny", _nanny_text(status), paint))
    return lines + condition_lines(status, paint)


def condition_lines(status: dict[str, Any], paint: Paint) -> list[str]:
    """The conditions that hold as a table; nothing where there is none."""
    conditions = status.get("conditions") or []
    if not conditions:
        return []
    rows = [
        [
            ("bad", str(one.get("type", "?"))),
            ("", str(one.get("reason", ""))),
            ("", duration(float(one.get("age_s") or 0.0))),
            ("", str(one.get("message", ""))),
        ]
        for one in conditions
    ]
    return table(("CONDITION", "REASON", "FOR", "MESSAGE"), rows, paint, indent="  ")


def because(status: dict[str, Any]) -> list[str]:
    """Why the node is in its phase."""
    return [visible(str(one)) for one in status.get("because") or ["the nanny does not say"]]


def next_text(status: dict[str, Any]) -> str:
    """What happens by itself, and when."""
    step, in_s = str(status.get("next_step") or "unknown"), status.get("next_step_in_s")
    return visible(step) if in_s is None else f"{visible(step)}, in {duration(float(in_s))}"


def desired_text(status: dict[str, Any], wall_now: float) -> str:
    """What is wanted, who said so, and when; a stopped node says that it is."""
    desired = status.get("desired") or {}
    value, by, reason = desired.get("value", "unknown"), desired.get("by", "?"), desired.get("reason", "")
    age_s = desired.get("age_s")
    if value == "up" and by == "default":
        return "up (nobody ever said otherwise)"
    when = "before this boot" if age_s is None else f"{duration(age_s)} ago, at {utc(wall_now - age_s)}"
    verb = "STOPPED by" if value == "down" else "set by"
    return visible(f"{value}, {verb} {by} {when}: {reason}")


def worker_text(status: dict[str, Any]) -> str:
    """Stage, pid, ages."""
    worker = status.get("worker") or {}
    stage, failures = str(worker.get("stage", "unknown")), int(worker.get("failures") or 0)
    parts = []
    if worker.get("pid"):
        parts.append(f"pid {worker['pid']}")
    if stage != "absent":
        parts.append(f"{stage} for {duration(float(worker.get('age_s') or 0.0))}")
    if worker.get("pid"):
        beat_age_s = worker.get("beat_age_s")
        parts.append("no beat yet" if beat_age_s is None else f"last beat {duration(beat_age_s)} ago")
        parts.append(f"loop lag {duration(float(worker.get('loop_lag_s') or 0.0))}")
    if worker.get("overdue"):
        parts.append(f"overdue: {', '.join(map(str, worker['overdue']))}")
    if worker.get("stalled_at"):
        parts.append(f"in {worker['stalled_at']}")
    if failures:
        parts.append(f"{failures} failure{'s' if failures > 1 else ''} in a row")
    return visible(", ".join(parts)) or "none"


def standby_text(standby: dict[str, Any]) -> str:
    """Whether one is parked, or why none is."""
    stage, pid = str(standby.get("stage", "unknown")), standby.get("pid")
    if pid:
        text = f"{stage}, pid {pid}, for {duration(float(standby.get('age_s') or 0.0))}"
    else:
        text = f"none: {standby.get('why_none') or 'the worker has not been ready for long enough yet'}"
    if standby.get("is_cold"):
        text += "; starts are cold until a reload, an ordered restart, or for an hour"
    return visible(f"{text}; {standby.get('promoted_total', 0)} promoted")


def last_restart_text(status: dict[str, Any], wall_now: float) -> str:
    """The latest end that was followed by another life."""
    last = status.get("last_restart")
    if not last:
        return "none since this nanny started"
    age_s = float(last.get("age_s") or 0.0)
    return visible(
        f"{last.get('reason')} {duration(age_s)} ago, at {utc(wall_now - age_s)}: {last.get('detail')} "
        f"(of {short(str(last.get('before', '?')))})"
    )


def hold_text(hold: dict[str, Any]) -> str:
    """Who holds kills, and how long."""
    remaining = duration(float(hold.get("remaining_s") or 0.0))
    return visible(f"no involuntary kill for another {remaining}, by {hold.get('by')}: {hold.get('reason')}")


def link_text(status: dict[str, Any]) -> str:
    """Link's stage."""
    link = status.get("link") or {}
    stage, failures = str(link.get("stage", "unknown")), int(link.get("failures") or 0)
    if stage == "absent":
        return "no child of the nanny (off, or a unit of its own)"
    failed = f", {failures} failures in a row" if failures else ""
    return visible(stage + (f", pid {link['pid']}" if link.get("pid") else "") + failed)


def short(incarnation: str) -> str:
    """``…6632/7``: enough to tell lives of one node apart."""
    epoch, slash, number = incarnation.rpartition("/")
    return f"…{epoch[-4:]}/{number}" if slash and len(epoch) > 5 else incarnation


def _badges(status: dict[str, Any], paint: Paint) -> str:
    badges = []
    if (status.get("desired") or {}).get("value") == "down":
        badges.append(paint("stopped", "[stopped by order]"))
    if status.get("draining"):
        badges.append(paint("warn", "[draining]"))
    if status.get("hold"):
        badges.append(paint("warn", "[kills held]"))
    if status.get("journal_degraded"):
        badges.append(paint("bad", "[journal degraded]"))
    return "".join(f"  {badge}" for badge in badges)


def _desired_style(status: dict[str, Any]) -> str:
    return "stopped" if (status.get("desired") or {}).get("value") == "down" else ""


def _nanny_text(status: dict[str, Any]) -> str:
    nanny = status.get("nanny") or {}
    parts = [f"{nanny.get('version', '?')}, pid {nanny.get('pid', '?')}"]
    parts.append(f"up {duration(float(nanny.get('age_s') or 0.0))}")
    if nanny.get("reexecuted"):
        parts.append(f"executed anew {nanny['reexecuted']} times")
    if nanny.get("violations_total"):
        parts.append(f"{nanny['violations_total']} broken invariants: report this")
    return visible(", ".join(parts))


def _row(label: str, text: str, paint: Paint, style: str = "") -> str:
    return f"  {paint('faint', label.ljust(_LABEL_WIDTH))}{paint(style, visible(text))}".rstrip()
