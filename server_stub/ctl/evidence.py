"""Verbs for evidence: `evidence list|fetch`, `hangs`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from nanny.common.quantities import size
from server_stub.client import RequestFailed
from server_stub.ctl.tables import instant, plain, table
from server_stub.ctl.verb import Verb, seconds_argument

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder

FETCH_S: Final = 150.0
STACK_SHOWN: Final = 4


def add(verbs: Adder) -> None:
    """Add the verbs."""
    hangs = verbs.add(
        "hangs", Verb(_hangs, shown_hangs), "hangs over the fleet, grouped by the stack that hung"
    )
    hangs.add_argument(
        "--within",
        dest="within_s",
        type=seconds_argument,
        default=7 * 86400.0,
        help="so recent (default: 7d)",
    )
    group = verbs.add_group("evidence", "what nodes saved of workers before they were ended")
    listing = group.add("list", Verb(_evidence, shown_evidence), "summaries, newest first")
    listing.add_argument("node", nargs="?", help="only this node's")
    listing.add_argument("--signature", help="only of this kind of hang, as `hangs` names it")
    listing.add_argument("--limit", type=int, default=50, help="at most so many (default: 50)")
    fetch = group.add("fetch", Verb(_fetch, shown_fetched), "a bundle, from its node to a file here")
    fetch.add_argument("node", help="its name or id")
    fetch.add_argument("bundle", help="the bundle's name")
    fetch.add_argument("--output", "-o", help="the file (default: BUNDLE.tar.gz)")


def _hangs(client: ServerClient, arguments: argparse.Namespace) -> Any:
    return client.get("v1", "hangs", within_s=f"{arguments.within_s:.0f}")


def _evidence(client: ServerClient, arguments: argparse.Namespace) -> Any:
    if arguments.node:
        return client.get("v1", "nodes", arguments.node, "evidence", limit=str(arguments.limit))
    query = {} if arguments.signature is None else {"signature": arguments.signature}
    return client.get("v1", "evidence", limit=str(arguments.limit), query=query)


def _fetch(client: ServerClient, arguments: argparse.Namespace) -> Any:
    path = ("v1", "nodes", arguments.node, "evidence", arguments.bundle)
    target = arguments.output or f"{arguments.bundle}.tar.gz"
    try:
        content = client.get_bytes(*path, "content")
    except RequestFailed as failed:
        if failed.status != 404:
            raise
        content = _asked(client, path)
    unfinished = f"{target}.{os.getpid()}"
    try:
        with open(unfinished, "xb") as file:  # noqa: PTH123 (beside os.replace, plain names)
            file.write(content)
        os.replace(unfinished, target)  # noqa: PTH105
    except OSError as error:
        raise RequestFailed(f"cannot write {target}: {error.strerror}; choose another --output") from error
    return {"file": target, "size_bytes": len(content)}


def _asked(client: ServerClient, path: tuple[str, ...]) -> bytes:
    command = client.post(*path, "request", body=None)
    ends_at = time.monotonic() + FETCH_S
    while not command["is_finished"] and time.monotonic() < ends_at:
        command = client.get("v1", "commands", command["id"], wait_s=20.0)
    if command["state"] != "done":
        said = command["detail"] or "its link has not answered; is it connected? (server-stub node NODE)"
        raise RequestFailed(f"the node did not send it: {command['state']}: {said}")
    return client.get_bytes(*path, "content")


def shown_hangs(answer: Any) -> list[RenderableType]:
    """Give the kinds of hangs, those of the most nodes first."""
    if not answer["hangs"]:
        return [Text("no hangs: no node has told of evidence with a stack")]
    made = table("NODES", "TIMES", "FIRST SEEN", "LAST SEEN", "WHERE", "SIGNATURE", folding={"WHERE"})
    for hang in answer["hangs"]:
        where = "\n  < ".join(hang["stack"][:STACK_SHOWN])
        names = ", ".join(hang["node_names"][:5]) + ("…" if hang["nodes"] > 5 else "")
        made.add_row(
            str(hang["nodes"]),
            str(hang["bundles"]),
            instant(hang["first_seen"]),
            instant(hang["last_seen"]),
            Text(f"{where}\n{names}"),
            Text(hang["signature"]),
        )
    return [made]


def shown_evidence(answer: Any) -> list[RenderableType]:
    """Give summaries, newest first."""
    if not answer["evidence"]:
        return [Text("no evidence: no worker had to be ended while its server listened")]
    made = table(
        "TIME", "NODE", "REASON", "WHERE", "SIZE", "HERE", "BUNDLE", folding={"REASON", "WHERE", "NODE"}
    )
    for one in answer["evidence"]:
        made.add_row(
            instant(one["time"]),
            Text(one["node"]),
            Text(one["reason"]),
            plain(one["stalled_at"]),
            size(one["size_bytes"]),
            "yes" if one["is_here"] else "",
            Text(one["bundle"]),
        )
    return [made]


def shown_fetched(answer: Any) -> list[RenderableType]:
    """Say where the bundle is."""
    return [Text(f"{answer['file']}  {size(answer['size_bytes'])}   tar -xzf {answer['file']}")]
