"""The verb `events`: what happened, newest last; watching appends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from server_stub.ctl.tables import instant, table
from server_stub.ctl.verb import LONG_POLL_S, Verb

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder

TYPE_PREFIX: Final = "io.nodenanny."


def add(verbs: Adder) -> None:
    """Add the verb."""
    parser = verbs.add(
        "events", Verb(_events, shown_events, is_stream=True), "what happened, newest last", may_watch=True
    )
    parser.add_argument("--type", help="only types that begin so, comma-separated: node.state,command")
    parser.add_argument("--node", help="only of this node, by name or id")
    parser.add_argument("--since", help="only since this instant, such as 2026-11-21T14:02:11Z")
    parser.add_argument("--limit", type=int, default=50, help="at most so many (default: 50)")


def _events(client: ServerClient, arguments: argparse.Namespace) -> Any:
    query = {"limit": str(arguments.limit)}
    for name in ("type", "node", "since"):
        if getattr(arguments, name) is not None:
            query[name] = getattr(arguments, name)
    if arguments.seen is not None:
        return client.get("v1", "events", after=str(arguments.seen["after"]), wait_s=LONG_POLL_S, query=query)
    answer = client.get("v1", "events", order="desc", query=query)
    answer["events"].reverse()
    return answer


def shown_events(answer: Any) -> list[RenderableType]:
    """Give events, a line each."""
    made = table()
    for width in (19, 24, 16, None):
        made.add_column(width=width, overflow="fold")
    for event in answer["events"]:
        made.add_row(
            instant(event["time"]),
            Text(event["type"].removeprefix(TYPE_PREFIX)),
            Text(event.get("nodename") or event.get("subject") or ""),
            Text(_told(event["data"])),
        )
    return [made] if answer["events"] else []


def _told(data: dict[str, Any]) -> str:
    if {"before", "after", "message"} <= data.keys():
        return f"{data['before']} → {data['after']}: {data['message']}"
    return "  ".join(f"{name}={value}" for name, value in data.items() if value not in (None, ""))
