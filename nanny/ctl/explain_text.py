"""The story of the present phase for people, and what an operator could do about it. Pure.

Advice names whole commands to be copied. It follows from phase and conditions alone, and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nanny.common.quantities import duration
from nanny.ctl.status_text import (
    because,
    condition_lines,
    desired_text,
    hold_text,
    last_restart_text,
    next_text,
    standby_text,
)
from nanny.ctl.terminal import visible

if TYPE_CHECKING:
    from nanny.ctl.terminal import Paint

_TOLD_BELOW: Final = ("involuntary kills are held by ", "last restart ")


class Advice(NamedTuple):
    """One thing to do, and what it is good for."""

    command: str
    purpose: str


def story_lines(status: dict[str, Any], paint: Paint, wall_now: float) -> list[str]:
    """Phase, why, next automatic step, what is wanted, conditions."""
    phase = str(status.get("phase", "unknown"))
    first, *rest = because(status)
    name = visible(str(status.get("node_name") or "?"))
    lines = [f"{paint('strong', name)} is {paint.phase(phase)}: {first}"]
    # What has a part of its own below is not said twice.
    known = tuple(f"{one.get('type')}: " for one in status.get("conditions") or [])
    lines += [f"  - {one}" for one in rest if not one.startswith((*known, *_TOLD_BELOW))]
    lines += ["", f"{paint('strong', 'Next')}     {next_text(status)}"]
    lines.append(f"{paint('strong', 'Wanted')}   {desired_text(status, wall_now)}")
    if status.get("last_restart"):
        lines.append(f"{paint('strong', 'Before')}   {last_restart_text(status, wall_now)}")
    if status.get("standby"):
        lines.append(f"{paint('strong', 'Standby')}  {standby_text(status['standby'])}")
    if status.get("hold"):
        lines.append(f"{paint('strong', 'Held')}     {hold_text(status['hold'])}")
    conditions = condition_lines(status, paint)
    if conditions:
        lines += ["", *conditions]
    stack = [line for line in str(status.get("stall_stack") or "").splitlines() if line.strip()]
    if stack:
        lines += ["", paint("strong", "The loop stands in")]
        lines += [f"    {visible(line)}" for line in stack[:12]]
    return lines


def evidence_lines(bundles: list[dict[str, Any]], paint: Paint) -> list[str]:
    """The newest bundles, to be looked at."""
    if not bundles:
        return [f"{paint('strong', 'Evidence')} none saved yet"]
    lines = [paint("strong", "Evidence")]
    for one in bundles[:3]:
        where = f" at {one['stalled_at']}" if one.get("stalled_at") else ""
        lines.append(f"  {paint('name', str(one['name']))}  {visible(str(one['reason']) + where)}")
    return lines


def advice_lines(advice: list[Advice], paint: Paint) -> list[str]:
    """What could be done, as commands to copy."""
    if not advice:
        return [f"{paint('strong', 'Do')}       nothing: all is well"]
    width = max(len(one.command) for one in advice)
    return [
        paint("strong", "You could"),
        *(f"  {paint('name', one.command.ljust(width))}  {visible(one.purpose)}" for one in advice),
    ]


def advice_for(status: dict[str, Any], newest_bundle: str | None, runtime_dir_flag: str = "") -> list[Advice]:
    """What an operator could do now.

    Args:
        status: the nanny's.
        newest_bundle: name of the latest evidence, if there is any.
        runtime_dir_flag: put into each command so that it reaches the same node (``--runtime-dir …``).
    """
    advice = [*_by_phase(status, newest_bundle), *_by_conditions(status)]
    if status.get("hold"):
        advice.append(
            Advice("nannyctl release", "let the nanny end a hung worker again, before the hold expires")
        )
    if status.get("draining"):
        advice.append(Advice("nannyctl undrain", "let new work come again"))
    return [_at_node(one, runtime_dir_flag) for one in advice]


def _at_node(one: Advice, flag: str) -> Advice:
    if not flag or not one.command.startswith("nannyctl "):
        return one
    return Advice(f"nannyctl {flag} {one.command.removeprefix('nannyctl ')}", one.purpose)


def _by_phase(status: dict[str, Any], newest_bundle: str | None) -> list[Advice]:
    worker = status.get("worker") or {}
    failures = int(worker.get("failures") or 0)
    look = (
        [Advice("nannyctl evidence show latest", "where the last one hung or fell")] if newest_bundle else []
    )
    match status.get("phase"):
        case "down":
            return [
                Advice('nannyctl start --reason "…"', "have the worker up again; it stays down until then")
            ]
        case "backoff" | "failed":
            return [
                *look,
                Advice("nannyctl logs -n 50", "the worker's last words"),
                Advice("nannyctl clear", f"forget the {failures} failure(s) and start the next worker now"),
                Advice('nannyctl stop --reason "…"', "keep it down until the cause is gone"),
            ]
        case "degraded":
            return [
                Advice("nannyctl evidence collect", "save stacks and kernel facts while it hangs"),
                Advice("nannyctl hold --for 30m", "keep the nanny from ending it, to debug it"),
                Advice('nannyctl restart --reason "…"', "do not wait for the verdict"),
            ]
        case "starting":
            return [*(look if failures else []), Advice("nannyctl logs -f", "watch it start")]
        case "stopping":
            return [Advice("nannyctl status --watch", "watch it go; the ladder ends by itself")]
        case "running" if failures:
            age = duration(float(worker.get("age_s") or 0.0))
            return [*look, Advice("nannyctl history", f"what went wrong before: it is ready for only {age}")]
        case _:
            return []


def _by_conditions(status: dict[str, Any]) -> list[Advice]:
    port = str(status.get("healthz") or "").rpartition(":")[2]
    state_dir = status.get("state_dir", "the state directory")
    known = {
        "GpuDriverUnresponsive": (
            Advice(
                "dmesg -T | grep -i -e xid -e nvrm",
                "the driver hangs: a restart of the worker would hang too",
            ),
            Advice('nannyctl drain --reason "gpu driver"', "take no new work; then a GPU reset or a reboot"),
        ),
        "HealthSocketLost": (
            Advice(f"ss -ltnp 'sport = :{port}'" if port else "ss -ltnp", "who has the port of /healthz"),
        ),
        "JournalDegraded": (
            Advice(f"df -h {state_dir}; dmesg -T | tail", "the disk is full, read-only or hangs"),
        ),
        "LinkFailing": (
            Advice("nannyctl logs -n 100", "why link dies; the node is supervised without it all the same"),
        ),
        "NodeStarved": (
            Advice("head /proc/pressure/*; top -b -n 1 | head -20", "who takes the time or the memory"),
        ),
        "ProbeResidue": (
            Advice("ps -eo pid,stat,wchan:30,args | grep ' D'", "what its stuck children wait for"),
        ),
        "SettingsStale": (
            Advice(
                "nannyctl check-config --origins",
                "what is wrong with the settings, and where each comes from",
            ),
            Advice("nannyctl reexec", "apply what a reload cannot, without touching the worker"),
        ),
        "WorkerUnkillable": (
            Advice('nannyctl drain --reason "unkillable"', "the kernel keeps it: drain, then plan a reboot"),
        ),
    }
    return [
        advice
        for condition in status.get("conditions") or []
        for advice in known.get(str(condition.get("type")), ())
    ]
