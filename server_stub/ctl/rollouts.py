"""Verbs for rollouts: `rollout start|show|list|abort`: a restart of many nodes, a few at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from server_stub.ctl.tables import instant, plain, table, word
from server_stub.ctl.verb import LONG_POLL_S, Verb, actor_of, add_reason, newer, seconds_argument

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from server_stub.client import ServerClient
    from server_stub.ctl.verb import Adder

STEPS_SHOWN: Final = 40
_QUIET: Final = frozenset({"waiting", "done"})


def add(verbs: Adder) -> None:
    """Add the verbs."""
    group = verbs.add_group(
        "rollout", "a restart of many nodes, a few at a time, on only while they come back"
    )
    start = group.add("start", Verb(_start, shown_rollout, _went_well), "begin one, and follow it")
    which = start.add_mutually_exclusive_group(required=True)
    which.add_argument("--selector", help="labels, such as rack=r1,role!=canary")
    which.add_argument("--node", dest="nodes", action="append", help="a node by name or id; may be repeated")
    start.add_argument("--kind", choices=["restart", "reload"], default="restart", help="(default: restart)")
    start.add_argument("--concurrency", default="1", help='at a time: a number, or a share such as "10%%"')
    start.add_argument("--failures-allowed", type=int, default=0, help="more failures abort it (default: 0)")
    start.add_argument(
        "--health-timeout",
        dest="health_timeout_s",
        type=seconds_argument,
        default=300.0,
        help="so long a node may take to be READY again (default: 5m)",
    )
    start.add_argument("--dry-run", action="store_true", help="say which nodes it would be")
    start.add_argument("--no-wait", action="store_true", help="do not follow it")
    add_reason(start)
    show = group.add("show", Verb(_show, shown_rollout), "one rollout with its steps", may_watch=True)
    show.add_argument("rollout", help="its id")
    group.add("list", Verb(_list, shown_rollouts), "the newest rollouts")
    abort = group.add("abort", Verb(_abort, shown_rollout), "have it order nothing any more")
    abort.add_argument("rollout", help="its id")
    add_reason(abort)


def _start(client: ServerClient, arguments: argparse.Namespace) -> Any:
    concurrency = arguments.concurrency
    body: dict[str, Any] = {
        "kind": arguments.kind,
        "reason": arguments.reason,
        "actor": actor_of(arguments),
        "concurrency": int(concurrency) if concurrency.isdecimal() else concurrency,
        "failures_allowed": arguments.failures_allowed,
        "health_timeout_s": arguments.health_timeout_s,
        "dry_run": arguments.dry_run,
    }
    body |= {"selector": arguments.selector} if arguments.selector else {"nodes": arguments.nodes}
    begun = client.post("v1", "rollouts", body=body)
    if arguments.dry_run or arguments.no_wait:
        return begun
    return _followed(client, begun["id"], is_quiet=arguments.json)


def _followed(client: ServerClient, rollout_id: str, *, is_quiet: bool) -> Any:
    """Give the rollout once it has ended, showing how it goes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=is_quiet) as progress:
        task = progress.add_task("rollout", total=None, told="")
        seen: str | None = None
        while True:
            query = {} if seen is None else {"revision": seen}
            page = client.get(
                "v1", "rollouts", rollout_id, wait_s=LONG_POLL_S if seen is not None else 0.0, query=query
            )
            seen = str(page["revision"])
            progress.update(task, completed=page["ended"], total=page["nodes"], told=page["detail"])
            if page["is_finished"]:
                return page


def _show(client: ServerClient, arguments: argparse.Namespace) -> Any:
    if arguments.seen is not None and arguments.seen["is_finished"]:
        time.sleep(LONG_POLL_S)
    return newer(client, arguments, "v1", "rollouts", arguments.rollout)


def _list(client: ServerClient, _arguments: argparse.Namespace) -> Any:
    return client.get("v1", "rollouts")


def _abort(client: ServerClient, arguments: argparse.Namespace) -> Any:
    body = {"reason": arguments.reason, "actor": actor_of(arguments)}
    return client.post("v1", "rollouts", arguments.rollout, "abort", body=body)


def _went_well(page: Any) -> bool:
    return page.get("state") in {None, "done", "running"}


def shown_rollouts(answer: Any) -> list[RenderableType]:
    """Give rollouts, newest first."""
    if not answer["rollouts"]:
        return [Text("no rollouts")]
    folding = {"DETAIL", "REASON", "ACTOR"}
    made = table("CREATED", "STATE", "ENDED", "DETAIL", "REASON", "ACTOR", "ROLLOUT", folding=folding)
    for one in answer["rollouts"]:
        made.add_row(
            instant(one["created"]),
            word(one["state"]),
            f"{one['ended']} of {one['nodes']}",
            Text(one["detail"]),
            Text(one["reason"]),
            Text(one["actor"]),
            one["id"],
        )
    return [made]


def shown_rollout(page: Any) -> list[RenderableType]:
    """Give one rollout: how far it is, and the steps that are not simply waiting or done; or who would be in it."""
    if page.get("dry_run"):
        made = table("NODE", "STATE")
        for node in page["nodes"]:
            made.add_row(Text(node["name"]), word(node["state"]))
        return [made, Text(f"{page['count']} nodes, {page['concurrency']} at a time")]
    head = table("ROLLOUT", page["id"])
    head.add_row("state", word(page["state"]))
    head.add_row("detail", Text(page["detail"]))
    counts = ", ".join(f"{state} {number}" for state, number in page["by_state"].items() if number)
    head.add_row(
        "nodes", Text(f"{page['ended']} of {page['nodes']} ended, {page['concurrency']} at a time: {counts}")
    )
    head.add_row("reason", Text(f"{page['reason']} ({page['actor']})"))
    told = [step for step in page["steps"] if step["state"] not in _QUIET][:STEPS_SHOWN]
    if not told:
        return [head]
    steps = table("NODE", "STATE", "BEGAN", "FINISHED", "DETAIL", folding={"DETAIL"})
    for step in told:
        steps.add_row(
            Text(step["node_name"] or step["node_id"]),
            word(step["state"]),
            instant(step["began"]),
            instant(step["finished"]),
            plain(step["detail"]),
        )
    return [head, steps]
