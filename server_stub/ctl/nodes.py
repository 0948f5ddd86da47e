"""Verbs that look at nodes: `nodes`, `node`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server_stub.ctl.nodes_shown import shown_node, shown_nodes
from server_stub.ctl.verb import Verb, newer

if TYPE_CHECKING:
    import argparse

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder


def add(verbs: Adder) -> None:
    """Add the verbs."""
    verbs.add("nodes", Verb(_nodes, shown_nodes), "all nodes, a line each", may_watch=True)
    one = verbs.add("node", Verb(_node, shown_node), "one node", may_watch=True)
    one.add_argument("node", help="its name or id")


def _nodes(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return newer(client, arguments, "v1", "nodes")


def _node(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return newer(client, arguments, "v1", "nodes", arguments.node)
