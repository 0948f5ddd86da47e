"""The server's answers as tables for people, by rich. Programs take `--json`.

Figures that a worker has not told stay empty. Knows the shape of the answers (`views.py`), nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

COLOURS: Final[Mapping[str, str]] = {
    "READY": "green",
    "PENDING": "cyan",
    "DEGRADED": "yellow",
    "STALLED": "red",
    "UNREACHABLE": "red",
    "UNKNOWN": "magenta",
    "NOT_READY": "bold red",
    "DRAINING": "blue",
    "MAINTENANCE": "blue",
    "done": "green",
    "already-satisfied": "green",
    "failed": "bold red",
    "rejected": "red",
    "expired": "yellow",
}


def show(verb: str, answer: Any) -> None:
    """Print an answer for people."""
    console = Console()
    match verb:
        case "nodes":
            console.print(nodes_table(answer["nodes"]))
        case "node":
            console.print(node_table(answer))
        case "commands":
            console.print(commands_table(answer["commands"]))
        case _:
            console.print(commands_table([answer]))


def nodes_table(lines: list[dict[str, Any]]) -> Table:
    """Give the fleet, a line each."""
    table = _table("NODE", "STATE", "WHY", "INCARNATION", "PHASE", "LOOP LAG", "LAST RESTART")
    for line in lines:
        table.add_row(
            Text(line["name"]),
            _word(line["state"]),
            Text(line["state_message"]),
            _number_of(line["incarnation"]),
            line["phase"] or "",
            _seconds(line["loop_lag_s"]),
            _restart(line["last_restart"]),
        )
    return table


def node_table(page: dict[str, Any]) -> Table:
    """Give one node, a line for each thing that is known."""
    table = _table("NODE", page["name"])
    table.add_row("state", _word(page["state"]))
    table.add_row("because", Text(page["state_message"]))
    for reason in page["reasons"]:
        since = f" since {reason['since']}" if reason["since"] else ""
        table.add_row("reason", Text(f"{reason['code']}: {reason['detail']}{since}"))
    table.add_row("axes", f"{page['lifecycle']}, {page['reachability']}, {page['health']}")
    table.add_row("id", Text(page["id"]))
    table.add_row("incarnation", Text(page["incarnation"] or ""))
    table.add_row("loop lag", _seconds(page["loop_lag_s"]))
    table.add_row("last restart", _restart(page["last_restart"]))
    table.add_row("address", Text(f"{page['address'] or ''} port {page['healthz_port']}"))
    if page["probe"]:
        table.add_row("probe", f"{page['probe']['result']} at {page['probe']['at']}")
    for role, connection in page["connections"].items():
        if connection:
            how = "open" if connection["is_open"] else "closed"
            table.add_row(role, f"{how} since {connection['since']}")
    nanny = page["nanny"]
    if nanny:
        desired = f"{nanny['desired']} by {nanny['desired_by']} since {nanny['desired_since']}"
        table.add_row("desired", Text(desired))
        table.add_row("phase", Text(f"{nanny['phase']} since {nanny['phase_since']}"))
        table.add_row("next step", Text(f"{nanny['next_step']} {nanny['next_step_at'] or ''}".strip()))
        restarts = ", ".join(f"{why} {count}" for why, count in sorted(nanny["restarts"].items()))
        table.add_row("restarts", Text(restarts))
    return table


def commands_table(commands: list[dict[str, Any]]) -> Table:
    """Give commands, newest first."""
    table = _table("CREATED", "COMMAND", "KIND", "STATE", "DETAIL", "REASON", "ACTOR", "TOOK")
    for command in commands:
        table.add_row(
            command["created"],
            command["id"],
            command["kind"],
            _word(command["state"]),
            Text(command["detail"]),
            Text(command["reason"]),
            Text(command["actor"]),
            _seconds(command["took_s"]),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _word(word: str) -> Text:
    return Text(word, style=COLOURS.get(word, ""))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f} s"


def _number_of(incarnation: str | None) -> str:
    return "" if incarnation is None else incarnation.rpartition("/")[2]


def _restart(last: dict[str, Any] | None) -> Text:
    return Text("") if last is None else Text(f"{last['reason']} at {last['at']}")
