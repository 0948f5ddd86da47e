"""Verbs that order and look at orders: `restart`, `order`, `commands`, `command`, `cancel`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.messages import CommandKind
from server_stub.ctl.commands_shown import shown_command, shown_commands
from server_stub.ctl.verb import WATCH_INTERVAL_S, Verb, actor_of, add_reason, seconds_argument

if TYPE_CHECKING:
    import argparse

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder

LONGEST_WAIT_S: Final = 60.0
_BAD: Final = frozenset({"rejected", "expired", "superseded", "failed"})


def add(verbs: Adder) -> None:
    """Add the verbs."""
    ordering = Verb(_order, shown_commands, _ended_well)
    restart = verbs.add("restart", ordering, "restart a node's worker")
    restart.set_defaults(kind="restart")
    _add_order(restart)
    restart.add_argument(
        "--any",
        action="store_true",
        help="whatever incarnation runs when it arrives, not only the present one",
    )
    order = verbs.add("order", ordering, "any other command to a node's nanny")
    order.add_argument("kind", choices=[str(kind) for kind in CommandKind], help="what it is to do")
    _add_order(order)
    order.set_defaults(any=True)
    order.add_argument(
        "--for", dest="for_s", type=seconds_argument, help="of a hold: for so long, such as 30m"
    )

    listing = verbs.add("commands", Verb(_commands, shown_commands), "the newest commands", may_watch=True)
    listing.add_argument("node", nargs="?", help="only this node's")
    listing.add_argument("--state", help="only in these states, comma-separated; open, unfinished")
    listing.add_argument("--kind", help="only of this kind")
    listing.add_argument("--limit", type=int, default=50, help="at most so many (default: 50)")
    one = verbs.add("command", Verb(_command, shown_command), "one command, with its times", may_watch=True)
    one.add_argument("command", help="its id")
    one.add_argument("--wait", dest="wait_s", type=seconds_argument, default=0.0, help="for its outcome")
    cancel = verbs.add("cancel", Verb(_cancel, shown_command), "take back a command that was never sent")
    cancel.add_argument("command", help="its id")
    cancel.add_argument("--actor", default=None, help="who does it (default: your login name)")


def _add_order(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", help="its name or id")
    add_reason(parser)
    parser.add_argument(
        "--time-to-live",
        dest="time_to_live_s",
        type=seconds_argument,
        default=300.0,
        help="not after so long (default: 5m)",
    )
    parser.add_argument(
        "--wait",
        dest="wait_s",
        type=seconds_argument,
        default=30.0,
        help="wait for the outcome (default: 30s)",
    )


def _order(client: ServerClient, arguments: argparse.Namespace) -> Any:
    order: dict[str, Any] = {
        "kind": arguments.kind,
        "reason": arguments.reason,
        "actor": actor_of(arguments),
        "time_to_live_s": arguments.time_to_live_s,
        "target_incarnation": None if arguments.any else "current",
    }
    if getattr(arguments, "for_s", None) is not None:
        order["parameters"] = {"for_s": arguments.for_s}
    command = client.post("v1", "nodes", arguments.node, "commands", body=order)
    return _waited(client, command["id"], arguments.wait_s)


def _waited(client: ServerClient, command_id: str, wait_s: float) -> Any:
    ends_at = time.monotonic() + wait_s
    while True:
        left_s = min(max(ends_at - time.monotonic(), 0.0), LONGEST_WAIT_S)
        command = client.get("v1", "commands", command_id, wait_s=left_s)
        if command["is_finished"] or time.monotonic() >= ends_at:
            return command


def _commands(client: ServerClient, arguments: argparse.Namespace) -> Any:
    if arguments.seen is not None:
        time.sleep(WATCH_INTERVAL_S)
    where = ("v1", "nodes", arguments.node, "commands") if arguments.node else ("v1", "commands")
    query = {"limit": str(arguments.limit)}
    query |= {name: told for name in ("state", "kind") if (told := getattr(arguments, name))}
    return client.get(*where, query=query)


def _command(client: ServerClient, arguments: argparse.Namespace) -> Any:
    if arguments.seen is not None:
        time.sleep(WATCH_INTERVAL_S)
    return _waited(client, arguments.command, arguments.wait_s)


def _cancel(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return client.delete("v1", "commands", arguments.command, actor=actor_of(arguments))


def _ended_well(command: Any) -> bool:
    return command["state"] not in _BAD
