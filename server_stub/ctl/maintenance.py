"""Verbs for maintenance: `maintenance on|off`, of one node, of several, or of a selection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.text import Text

from server_stub.ctl.tables import instant, plain, table, word
from server_stub.ctl.verb import Verb, actor_of, seconds_argument

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder


def add(verbs: Adder) -> None:
    """Add the verbs."""
    group = verbs.add_group("maintenance", "nodes that are probed, and neither alarmed about nor repaired")
    on = group.add("on", Verb(_on, shown), "put nodes into maintenance; it outlives restarts of everything")
    _add_nodes(on)
    on.add_argument("--reason", required=True, help="why; everyone will read it")
    until = on.add_mutually_exclusive_group()
    until.add_argument("--for", dest="for_s", type=seconds_argument, help="for so long, such as 2h")
    until.add_argument("--until", help="until this instant, such as 2026-11-21T18:00:00Z (default: no end)")
    off = group.add("off", Verb(_off, shown), "take nodes out of maintenance")
    _add_nodes(off)


def _add_nodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="names or ids")
    parser.add_argument("--selector", help="labels instead, such as rack=r1")
    parser.add_argument("--actor", default=None, help="who orders it (default: your login name)")


def _on(client: ServerClient, arguments: argparse.Namespace) -> Any:
    order: dict[str, Any] = {"on": True, "reason": arguments.reason}
    if arguments.for_s is not None:
        ends = datetime.now(UTC) + timedelta(seconds=arguments.for_s)
        order["until"] = ends.isoformat(timespec="seconds").replace("+00:00", "Z")
    elif arguments.until is not None:
        order["until"] = arguments.until
    return _ordered(client, arguments, order)


def _off(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return _ordered(client, arguments, {"on": False})


def _ordered(client: ServerClient, arguments: argparse.Namespace, order: dict[str, Any]) -> Any:
    which = {"selector": arguments.selector} if arguments.selector else {"nodes": arguments.nodes}
    return client.put("v1", "maintenance", body={**order, **which, "actor": actor_of(arguments)})


def shown(answer: Any) -> list[RenderableType]:
    """Give the nodes as they are now."""
    made = table("NODE", "STATE", "REASON", "BY", "UNTIL", "", folding={"REASON", "BY"})
    for node in answer["nodes"]:
        now = node["maintenance"] or {}
        made.add_row(
            Text(node["name"]),
            word(node["state"]),
            plain(now.get("reason")),
            plain(now.get("by")),
            instant(now.get("until")),
            "" if node["changed"] else "as before",
        )
    return [made]
