"""Verbs for the brakes: `brake status|lift`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.text import Text

from server_stub.ctl.tables import instant, plain, table, word
from server_stub.ctl.verb import WATCH_INTERVAL_S, Verb, actor_of, add_reason, seconds_argument

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder


def add(verbs: Adder) -> None:
    """Add the verbs."""
    group = verbs.add_group("brake", "what holds the server back when it suspects itself")
    group.add("status", Verb(_status, shown_brakes), "both brakes", may_watch=True)
    lift = group.add("lift", Verb(_lift, shown_brakes), "take a brake off for a while")
    lift.add_argument("brake", choices=["demotions", "commands"], help="which")
    lift.add_argument(
        "--for", dest="for_s", type=seconds_argument, default=3600.0, help="for so long (default: 1h)"
    )
    add_reason(lift)


def _status(client: ServerClient, arguments: argparse.Namespace) -> Any:
    if arguments.seen is not None:
        time.sleep(WATCH_INTERVAL_S)
    return client.get("v1", "brakes")


def _lift(client: ServerClient, arguments: argparse.Namespace) -> Any:
    body = {"reason": arguments.reason, "actor": actor_of(arguments), "for_s": arguments.for_s}
    return client.post("v1", "brakes", arguments.brake, "lift", body=body)


def shown_brakes(answer: Any) -> list[RenderableType]:
    """Give both brakes, and what the one for demotions holds back."""
    made = table("BRAKE", "STATE", "SINCE", "REASON", "LIFTED BY", "UNTIL", folding={"REASON", "LIFTED BY"})
    footer = Text("")
    for brake in answer["brakes"]:
        state = "lifted" if brake["lifted_until"] else "on" if brake["is_on"] else "off"
        made.add_row(
            brake["name"],
            word(state),
            instant(brake["since"]),
            plain(brake["reason"]),
            plain(brake["lifted_by"]),
            instant(brake["lifted_until"]),
        )
        if brake.get("withheld"):
            footer = Text(
                f"{brake['withheld']} demotions withheld: {brake['turned']} of {brake['fleet']} nodes turned bad; "
                "if they really did, server-stub brake lift demotions --reason …"
            )
    return [made, footer] if footer else [made]
