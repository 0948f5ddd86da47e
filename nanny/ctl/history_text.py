"""The journal as a story: one record, one line. Pure, and total: any JSON object gives a line.

Works on the records' JSON, not on the nanny's types, so that records of other versions can be told too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from nanny.common.quantities import duration
from nanny.ctl.status_text import short
from nanny.ctl.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.ctl.terminal import Paint

Record = dict[str, Any]
BOOKKEEPING: Final = frozenset({"numbers-reserved", "outcome-delivered", "epoch-minted"})
"""Of use to the nanny, seldom to people: shown with --all."""
_ENVELOPE: Final = frozenset({"n", "type", "at", "wall", "boot"})


def story_line(record: Record, paint: Paint) -> str:
    """``2026-05-01 12:00:00.123Z  started      worker …6632/7, pid 4711``."""
    style, verb, words = _told(record)
    wall = str(record.get("wall") or "?").replace("T", " ", 1)
    when, what = paint("faint", visible(wall).ljust(24)), paint(style, visible(verb).ljust(10))
    return f"{when}  {what}  {visible(words)}".rstrip()


def boot_line(paint: Paint) -> str:
    """Between records of different boots."""
    return paint("faint", f"{'':24}  -- the node was booted --")


def note_line(text: str, paint: Paint) -> str:
    """What has to be said about the journal itself."""
    return paint("warn", f"{'':24}  -- {visible(text)} --")


def _told(record: Record) -> tuple[str, str, str]:
    """Style, verb, words."""
    kind = str(record.get("type"))
    tell = _TELLERS.get(kind)
    if tell is not None:
        try:
            return tell(record)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            pass  # A field is missing or of another type: show what there is.
    rest = {key: value for key, value in record.items() if key not in _ENVELOPE}
    return "", kind[:40], json.dumps(rest)


def _worker(record: Record) -> str:
    return f"worker {short(str(record['incarnation']))}"


def _ready(record: Record) -> tuple[str, str, str]:
    return "good", "ready", f"{_worker(record)}, {duration(float(record['after_s']))} after its birth"


def _decided(record: Record) -> tuple[str, str, str]:
    is_ordered = record["reason"] in {"restart-ordered", "stop-ordered", "nanny-shutdown"}
    then = {"restart": "the next one follows", "down": "then down", "exit": "then the nanny ends"}
    words = f"{_worker(record)} ({record['reason']}): {record['detail']}; {then.get(record['then'], record['then'])}"
    return "name" if is_ordered else "warn", "ending", words


def _ended(record: Record) -> tuple[str, str, str]:
    failures = int(record["failures"])
    in_a_row = f"; failure {failures} in a row" if failures else ""
    return (
        "bad" if failures else "",
        "ended",
        f"{_worker(record)} ({record['reason']}): {record['status']}{in_a_row}",
    )


def _evidence(record: Record) -> tuple[str, str, str]:
    bundle, message = str(record["bundle"]), str(record["message"])
    words = f"{_worker(record)}: {bundle or 'none'}" + (f" ({message})" if message else "")
    return "name" if bundle else "warn", "evidence", words


def _desired(record: Record) -> tuple[str, str, str]:
    value = str(record["desired"])
    style = "stopped" if value == "down" else "good"
    return style, "wanted", f"{value.upper()} by {record['actor']}: {record['reason']}"


def _drain(record: Record) -> tuple[str, str, str]:
    what = "no new work" if record["draining"] else "new work is welcome again"
    return (
        "warn",
        "drain" if record["draining"] else "undrain",
        f"{what}, by {record['actor']}: {record['reason']}",
    )


def _hold(record: Record) -> tuple[str, str, str]:
    until, by = record["until"], f"by {record['actor']}: {record['reason']}"
    if until is None:
        return "", "released", f"involuntary kills are possible again, {by}"
    for_s = max(float(until) - float(record["at"]), 0.0)
    return "warn", "held", f"no involuntary kills for {duration(for_s)}, {by}"


def _accepted(record: Record) -> tuple[str, str, str]:
    command = record["command"]
    aim = f" of {short(str(command['target']))}" if command.get("target") else ""
    whose = "the server's " if command.get("source") == "server" else ""
    words = f"{command['kind']}{aim} by {whose}{command['actor']}: {command['reason']}  [{command['id']}]"
    return "strong", "ordered", words


def _finished(record: Record) -> tuple[str, str, str]:
    outcome = str(record["outcome"])
    style = "good" if outcome in {"done", "already-satisfied"} else "bad"
    detail = f": {record['detail']}" if record["detail"] else ""
    return style, "outcome", f"{record['kind']} {outcome}{detail}  [{record['command_id']}]"


def _condition(record: Record) -> tuple[str, str, str]:
    if record["status"]:
        return "bad", "condition", f"{record['condition']} began ({record['reason']}): {record['message']}"
    return "good", "condition", f"{record['condition']} is over ({record['reason']})"


_TELLERS: Final[dict[str, Callable[[Record], tuple[str, str, str]]]] = {
    "epoch-minted": lambda r: ("warn", "epoch", f"incarnations count anew in {r['epoch']}"),
    "numbers-reserved": lambda r: ("faint", "reserved", f"numbers up to {r['until']}"),
    "incarnation-started": lambda r: ("", "started", f"{_worker(r)}, pid {r['pid']}"),
    "incarnation-ready": _ready,
    "stop-decided": _decided,
    "incarnation-ended": _ended,
    "incarnation-fenced": lambda r: (
        "bad",
        "fenced",
        f"{_worker(r)} would not die ({r['reason']}); it is replaced",
    ),
    "evidence-saved": _evidence,
    "desired-set": _desired,
    "drain-set": _drain,
    "hold-set": _hold,
    "command-accepted": _accepted,
    "command-finished": _finished,
    "outcome-delivered": lambda r: ("faint", "delivered", f"the server has the outcome of {r['command_id']}"),
    "condition-changed": _condition,
}
