"""Verbs for nodes: `nodes`, `node`, `explain`, `label`, `delete`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.text import Text

from server_stub.client import RequestFailed
from server_stub.ctl.nodes_shown import shown_node, shown_nodes
from server_stub.ctl.verb import WATCH_INTERVAL_S, Verb, actor_of, add_reason, newer
from server_stub.explanation_shown import explanation_lines

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder


def add(verbs: Adder) -> None:
    """Add the verbs."""
    verbs.add("nodes", Verb(_nodes, shown_nodes), "all nodes, a line each", may_watch=True)
    one = verbs.add("node", Verb(_node, shown_node), "one node", may_watch=True)
    one.add_argument("node", help="its name or id")
    why = verbs.add(
        "explain", Verb(_explain, shown_explanation), "why a node is in its state", may_watch=True
    )
    why.add_argument("node", help="its name or id")
    label = verbs.add("label", Verb(_label, shown_labels), "set a node's labels, or take some away")
    label.add_argument("node", help="its name or id")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE|KEY-", help="rack=r1 sets, rack- takes away")
    label.add_argument("--actor", default=None, help="who does it (default: your login name)")
    delete = verbs.add("delete", Verb(_delete, shown_deleted), "take a node that is gone off the list")
    delete.add_argument("node", help="its name or id")
    delete.add_argument("--force", action="store_true", help="although it is connected")
    add_reason(delete)


def _explain(client: ServerClient, arguments: argparse.Namespace) -> Any:
    if arguments.seen is not None:
        time.sleep(WATCH_INTERVAL_S)
    return client.get("v1", "nodes", arguments.node, "explain")


def shown_explanation(answer: Any) -> list[RenderableType]:
    """Give why a node is in its state, what would change it, and what happens by itself."""
    return [Text(line, overflow="fold") for line in explanation_lines(answer)]


def _label(client: ServerClient, arguments: argparse.Namespace) -> Any:
    patch: dict[str, str | None] = {}
    for text in arguments.labels:
        key, equals, value = text.partition("=")
        if not equals and not text.endswith("-"):
            raise RequestFailed(
                f"{text!r} is no label: write {text}=VALUE to set it, {text}- to take it away"
            )
        patch[key if equals else text.removesuffix("-")] = value if equals else None
    return client.patch("v1", "nodes", arguments.node, "labels", body=patch, actor=actor_of(arguments))


def _delete(client: ServerClient, arguments: argparse.Namespace) -> Any:
    query = {"force": "true"} if arguments.force else {}
    return client.delete(
        "v1", "nodes", arguments.node, actor=actor_of(arguments), reason=arguments.reason, **query
    )


def shown_labels(answer: Any) -> list[RenderableType]:
    """Give a node's labels."""
    return [Text(f"{answer['name']}: " + ", ".join(f"{k}={v}" for k, v in sorted(answer["labels"].items())))]


def shown_deleted(answer: Any) -> list[RenderableType]:
    """Say what was deleted."""
    return [Text(f"{answer['name']} ({answer['id']}) is deleted")]


def _nodes(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return newer(client, arguments, "v1", "nodes")


def _node(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return newer(client, arguments, "v1", "nodes", arguments.node)
