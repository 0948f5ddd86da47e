"""Commands for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from server_stub.ctl.tables import instant, plain, seconds, table, word

if TYPE_CHECKING:
    from rich.console import RenderableType


def shown_commands(answer: Any) -> list[RenderableType]:
    """Give commands, newest first; of one, a list of itself."""
    commands = answer.get("commands", [answer])
    made = table(
        "CREATED",
        "NODE",
        "KIND",
        "STATE",
        "TOOK",
        "DETAIL",
        "REASON",
        "ACTOR",
        "COMMAND",
        folding={"DETAIL", "REASON", "ACTOR", "NODE"},
    )
    for command in commands:
        made.add_row(
            instant(command["created"]),
            plain(command.get("node") or command["node_id"]),
            command["kind"],
            word(command["state"]),
            seconds(command["took_s"]),
            Text(command["detail"]),
            Text(command["reason"]),
            Text(command["actor"]),
            command["id"],
        )
    return [made] if commands else [Text("no commands")]


def shown_command(command: Any) -> list[RenderableType]:
    """Give one command with each of its times."""
    made = table("COMMAND", command["id"])
    for name in ("node_id", "kind", "reason", "actor", "target_incarnation", "incarnation_after"):
        made.add_row(name.replace("_", " "), plain(command[name]))
    made.add_row("state", word(command["state"]))
    made.add_row("detail", Text(command["detail"]))
    for name in ("created", "sent", "accepted", "finished", "expires"):
        made.add_row(name, plain(command[name]))
    return [made]
