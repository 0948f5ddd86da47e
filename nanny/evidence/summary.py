"""The two files of a bundle that tell what it is about: ``summary.txt`` for people, ``reason.json`` for programs.

Pure: turns what was found into text. A fleet groups its bundles by ``signature`` and counts by ``stalled_at``.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from nanny.core import stack_text

if TYPE_CHECKING:
    from nanny.core.stack_text import ThreadStack
    from nanny.evidence.order import Order

SHOWN_FRAMES: Final = 8
SHOWN_OUTPUT_LINES: Final = 5


@dataclass(frozen=True, slots=True)
class Findings:
    """Where it hung, as far as the stacks, the beats and the kernel tell."""

    thread: ThreadStack | None
    stalled_at: str
    signature: str
    source: str
    """Who says so: the stacks, the last beat, the kernel, the exit; or why nobody does."""


NOTHING_FOUND: Final = Findings(None, "", "", "")


def findings(order: Order, stacks: str, no_stacks: str, wchan: str) -> Findings:
    """Judge by the best witness: the stacks, then the worker's own last words, then the kernel.

    Args:
        order: the order.
        stacks: faulthandler's text, may be empty.
        no_stacks: why there is none.
        wchan: kernel function in which the main thread sleeps uninterruptibly; empty if it does not.
    """
    dumps = stack_text.parse(stacks)
    thread = stack_text.culprit(dumps[-1]) if dumps else None
    if thread is not None and thread.frames:
        fatal = dumps[-1].fatal
        kind = stack_text.signature(thread)
        return Findings(
            thread, stack_text.stalled_at(thread), f"{fatal}: {kind}" if fatal else kind, fatal or "stacks"
        )
    if wchan:
        return Findings(None, f"kernel:{wchan}", f"kernel:{wchan}", f"the kernel; {no_stacks}")
    if order.post_mortem:
        return Findings(None, "", order.exit_status, f"the exit; {no_stacks}")
    told = next((beat.stalled_at for _, beat in reversed(order.beats) if beat.stalled_at), None)
    if told is not None:
        return Findings(None, told, told.rpartition(":")[0], f"the last beats; {no_stacks}")
    return Findings(None, "", "", no_stacks)


def reason_fields(order: Order, found: Findings, boot_id: str) -> dict[str, Any]:
    """Give the fields of ``reason.json``."""
    last_at, last = order.beats[-1] if order.beats else (None, None)
    uname = os.uname()
    nanny = order.status.get("nanny")
    return {
        "format": 1,
        "bundle": order.name,
        "verdict": order.reason,
        "reason": order.reason,
        "because": order.status.get("because", []),
        "post_mortem": order.post_mortem,
        "exit_status": order.exit_status,
        "incarnation": str(order.incarnation),
        "pid": order.pid,
        "command_id": order.command_id,
        "stalled_at": found.stalled_at,
        "signature": found.signature,
        "stalled_at_by": found.source,
        "beat_age_s": None if last_at is None else round(order.monotonic_s - last_at, 3),
        "loop_lag_s": None if last is None else last.loop_lag_s,
        "wall_at": iso(order.wall_s),
        "monotonic_s": round(order.monotonic_s, 6),
        "boot_id": boot_id,
        "hostname": uname.nodename,
        "node": order.node_name or uname.nodename,
        "versions": {
            "nanny": str(nanny.get("version", "")) if isinstance(nanny, dict) else "",
            "python": ".".join(map(str, sys.version_info[:3])),
            "kernel": uname.release,
            "machine": uname.machine,
        },
        "baseline": asdict(order.baseline),
    }


def summary(order: Order, fields: dict[str, Any], found: Findings, troubles: list[str]) -> str:
    """Give ``summary.txt``: what, why, where, and what is missing."""
    fate = f"ended: {order.exit_status}" if order.post_mortem else f"pid {order.pid}"
    because = "; ".join(str(line) for line in fields["because"]) or "(the status does not say)"
    beat = "no beat ever" if fields["beat_age_s"] is None else f"last beat {fields['beat_age_s']} s before"
    lag = "" if fields["loop_lag_s"] is None else f", loop lag {fields['loop_lag_s']:.1f} s then"
    lines = [
        f"{order.name} on {fields['node']}",
        f"WHAT   worker {order.incarnation} ({fate}): {order.reason}",
        f"WHY    {because} ({beat}{lag})",
        f"WHERE  {found.stalled_at or 'unknown'}   [by {found.source or 'nobody'}]",
    ]
    if found.thread is not None:
        shown = found.thread.frames[:SHOWN_FRAMES]
        lines += [f"         {frame.module}:{frame.function}:{frame.line}" for frame in shown]
        if len(found.thread.frames) > SHOWN_FRAMES:
            lines.append(f"         ({len(found.thread.frames) - SHOWN_FRAMES} more)")
    if order.command_id:
        lines.append(f"ASKED  by command {order.command_id}")
    tail = order.output_tail[-4096:].decode("utf-8", "replace").rstrip("\n")
    if tail:
        lines.append("OUTPUT, its end:")
        lines += [f"         {line[:200]}" for line in tail.split("\n")[-SHOWN_OUTPUT_LINES:]]
    lines += [f"MISSING  {trouble}" for trouble in troubles]
    return "\n".join(lines) + "\n"


def iso(wall_s: float) -> str:
    """Give UTC as ISO 8601 with milliseconds."""
    milliseconds = round(wall_s * 1000)
    whole_s, fraction = divmod(milliseconds, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole_s))}.{fraction:03d}Z"
