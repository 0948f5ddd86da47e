"""The answer of `GET /v1/nodes/{node}/explain` as lines for a terminal.

Knows the shape of that answer (`Views.explanation`), nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, Any]


def explanation_lines(answer: Mapping[str, Any]) -> list[str]:
    """Give the explanation as plain lines, nothing wrapped."""
    return [line.rstrip() for line in _lines(answer)]


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{answer['name']} is {answer['state']}: {answer['state_message']}"
    for name, axis in answer["axes"].items():
        yield ""
        yield f"{name}: {axis['state']}{_because(axis)}"
        for one in answer["evidence"]:
            if one["axis"] == name:
                yield f"  {one['source']:<7} {one['what']}{_times(one)}"
    if answer["clock_skew_s"] is not None:
        yield ""
        yield f"its wall clock is {_skew(answer['clock_skew_s'])}; nothing is decided by it"
    yield ""
    yield "what would change it"
    for change in answer["would_change"]:
        yield f"  {_at(change['at'])}{change['what']}"
    yield ""
    yield "what happens by itself"
    for step in answer["next_steps"]:
        why = f" ({step['why']})" if step["why"] else ""
        yield f"  {_at(step['at'])}{step['what']}{why}"
    if not answer["next_steps"]:
        yield "  nothing"


def _because(axis: Json) -> str:
    if not axis["detail"] or axis["detail"] == axis["state"]:
        return f" since {_clock(axis['since'])}" if axis["since"] else ""
    what, _, more = axis["detail"].partition(": ")
    since = f" since {_clock(axis['since'])}" if axis["since"] else ""
    told = "" if what == axis["state"] else f", {what}"
    return f"{told}{since}{f': {more}' if more and not more.startswith('in ') else f' {more}'}".rstrip()


def _times(evidence: Json) -> str:
    since, at = evidence["since"], evidence["at"]
    told = f", since {_clock(since)}" if since else ""
    return told + (f", last {_clock(at)}" if at and at != since else "")


def _at(instant: str | None) -> str:
    return "" if instant is None else f"{_clock(instant)}  "


def _clock(instant: str) -> str:
    return instant.replace("T", " ")


def _skew(skew_s: float) -> str:
    if abs(skew_s) < 1.0:
        return "right"
    return f"{abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
