"""A replayed recording as a story: what happened, what was decided, what it changed. Pure.

Events that changed nothing that a person would ask about are folded into one line.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from nanny.common.quantities import duration
from nanny.core import events as e
from nanny.core.records import to_json
from nanny.ctl.history_text import story_line
from nanny.ctl.status_text import short
from nanny.ctl.terminal import visible
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nanny.core.actions import Action
    from nanny.core.recording_reader import Played
    from nanny.ctl.terminal import Paint

_INDENT: Final = " " * 26
_HIDDEN: Final = frozenset({"ConfirmNumbers", "ReportAccepted", "ReportOutcome"})
"""Actions that only pass on what a record tells already."""
_ALWAYS: Final = (
    e.NannyStarted,
    e.ShutdownRequested,
    e.WorkerExited,
    e.SpawnFailed,
    e.CommandReceived,
    e.NannyWasLate,
    e.NodeResumed,
    e.JournalDegraded,
    e.JournalRecovered,
    e.HealthSocketLost,
    e.HealthSocketRestored,
    e.LinkExited,
    e.LinkSpawnFailed,
    e.ConfigReloaded,
    e.ConfigRejected,
)


def story(moments: Iterable[Played], paint: Paint, *, tells_all: bool = False) -> Iterator[str]:
    """The lines of the story, oldest first."""
    quiet: list[Played] = []
    for one in moments:
        if not tells_all and _is_quiet(one):
            quiet.append(one)
            continue
        yield from _folded(quiet, paint)
        quiet.clear()
        yield from _told(one, paint)
    yield from _folded(quiet, paint)


def clock(wall_s: float) -> str:
    """``2026-05-01 12:00:00.123Z``."""
    from time import gmtime, strftime  # noqa: PLC0415  # a conversion, not a clock

    return f"{strftime('%Y-%m-%d %H:%M:%S', gmtime(wall_s))}.{int(wall_s % 1 * 1000):03d}Z"


def _is_quiet(one: Played) -> bool:
    return (
        not one.differs
        and not one.violations
        and not one.step.records
        and not one.step.actions
        and one.before.phase is one.step.state.phase
        and not isinstance(one.moment.event, _ALWAYS)
    )


def _folded(quiet: list[Played], paint: Paint) -> Iterator[str]:
    if not quiet:
        return
    counts: dict[str, int] = {}
    for one in quiet:
        name = _words(type(one.moment.event).__name__)
        counts[name] = counts.get(name, 0) + 1
    told = ", ".join(f"{count} x {name}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))
    for_s = quiet[-1].wall_s - quiet[0].wall_s
    yield _INDENT + paint("faint", f"· nothing to decide for {duration(for_s)}: {told}")


def _told(one: Played, paint: Paint) -> Iterator[str]:
    event = one.moment.event
    told = " ".join(_fields(event))
    when = paint("faint", clock(one.wall_s))
    yield f"{when}  {paint('strong', _words(type(event).__name__))} {visible(told)}".rstrip()
    before, after = one.before.phase, one.step.state.phase
    if before is not after:
        yield f"{_INDENT}{paint.phase(str(before))} -> {paint.phase(str(after))}"
    for record in one.step.records:
        line = story_line({**to_json(record), "at": one.moment.at, "wall": ""}, paint)
        yield _INDENT + line.split("  ", 1)[1].strip()
    shown = [_action(action) for action in one.step.actions if type(action).__name__ not in _HIDDEN]
    if shown:
        yield f"{_INDENT}{paint('name', 'does')}        {', '.join(shown)}"
    if one.differs:
        yield f"{_INDENT}{paint('bad', 'DECIDED OTHERWISE')} {visible(one.differs)}"
    for violation in one.violations:
        yield f"{_INDENT}{paint('bad', 'RULE BROKEN')} {visible(violation)}"


def _action(action: Action) -> str:
    return " ".join([_words(type(action).__name__), *_fields(action)])


def _fields(value: Any) -> Iterator[str]:
    for field in fields(value):
        one = getattr(value, field.name)
        if one == field.default or one in {"", None}:
            continue
        if isinstance(one, e.Command):
            yield f"{one.kind} by {one.actor}: {one.reason}"
        elif isinstance(one, Incarnation):
            yield short(str(one))
        elif isinstance(one, float):
            yield f"{field.name}={one:.3f}"
        elif isinstance(one, tuple):
            yield f"{field.name}={','.join(map(str, one))}"
        elif isinstance(one, bool):
            yield field.name
        else:
            yield f"{field.name}={one}"


def _words(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
