"""Nodes for people: the fleet, a line each; one node, a line for each thing that is known.

Figures that a worker has not told stay empty. Knows the shape of the answers (`views.py`), nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from server_stub.ctl.tables import instant, plain, seconds, table, word

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def shown_nodes(answer: Any) -> list[RenderableType]:
    """Give the fleet and how many are in which state."""
    lines = answer["nodes"]
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["state"]] = counts.get(line["state"], 0) + 1
    footer = Text(
        f"{len(lines)} node{'s' * (len(lines) != 1)}: "
        if lines
        else "no nodes yet: start a nanny with server_url set here"
    )
    for position, (state, count) in enumerate(sorted(counts.items())):
        footer.append(", " if position else "").append_text(word(state)).append(f" {count}")
    return [nodes_table(lines), footer] if lines else [footer]


def nodes_table(lines: list[dict[str, Any]]) -> Table:
    """Give the fleet, a line each."""
    made = table(
        "NODE", "STATE", "WHY", "INCARNATION", "PHASE", "LOOP LAG", "LAST RESTART", folding={"WHY", "NODE"}
    )
    for line in lines:
        made.add_row(
            Text(line["name"]),
            _state(line),
            Text(line["state_message"]),
            _number_of(line["incarnation"]),
            plain(line["phase"]),
            seconds(line["loop_lag_s"]),
            _restart(line["last_restart"]),
        )
    return made


def shown_node(page: Any) -> list[RenderableType]:
    """Give one node, a line for each thing that is known."""
    made = table("NODE", page["name"])
    made.add_row("state", _state(page))
    made.add_row("because", Text(page["state_message"]))
    for reason in page["reasons"]:
        since = f" since {reason['since']}" if reason["since"] else ""
        made.add_row("reason", Text(f"{reason['code']}: {reason['detail']}{since}"))
    made.add_row("axes", f"{page['lifecycle']}, {page['reachability']}, {page['health']}")
    made.add_row("id", Text(page["id"]))
    made.add_row("incarnation", plain(page["incarnation"]))
    made.add_row("loop lag", seconds(page["loop_lag_s"]))
    made.add_row("last restart", _restart(page["last_restart"]))
    made.add_row("labels", Text(", ".join(f"{key}={value}" for key, value in sorted(page["labels"].items()))))
    made.add_row("address", Text(f"{page['address'] or ''} port {page['healthz_port']}"))
    if page["probe"]:
        made.add_row("probe", Text(f"{page['probe']['result']} at {page['probe']['at']}"))
    for role, connection in page["connections"].items():
        if connection:
            how = "open" if connection["is_open"] else "closed"
            made.add_row(role, Text(f"{how} since {connection['since']}"))
    nanny = page["nanny"]
    if nanny:
        desired = f"{nanny['desired']} by {nanny['desired_by']} since {nanny['desired_since']}"
        made.add_row("desired", Text(desired))
        made.add_row("phase", Text(f"{nanny['phase']} since {nanny['phase_since']}"))
        made.add_row("next step", Text(f"{nanny['next_step']} {nanny['next_step_at'] or ''}".strip()))
        restarts = ", ".join(f"{why} {count}" for why, count in sorted(nanny["restarts"].items()))
        made.add_row("restarts", Text(restarts))
    return [made]


def _state(line: dict[str, Any]) -> Text:
    """Give the word, and beside it the one that the brake keeps the server from saying."""
    shown = word(line["state"])
    return (
        shown
        if line["withheld"] is None
        else shown.append(" (withheld: ").append(word(line["withheld"])).append(")")
    )


def _number_of(incarnation: str | None) -> str:
    return "" if incarnation is None else incarnation.rpartition("/")[2]


def _restart(last: dict[str, Any] | None) -> Text:
    return Text("") if last is None else Text(f"{last['reason']} at ").append_text(instant(last["at"]))
