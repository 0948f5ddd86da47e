"""The body of POST /v1/rollouts, checked.

`{nodes | selector, kind, reason, actor, concurrency, failures_allowed, health_timeout_s, time_to_live_s,
parameters, dry_run}`; only the nodes and a reason are required. A rollout waits for each node to be READY
again, so it takes the kinds after which a node can be. Knows neither nodes nor the database.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.messages import CommandKind
from server_stub.command_request import fingerprint_of, invalid, parse_order, parse_selection
from server_stub.core.rollout import concurrency_of
from server_stub.problems import Problem

if TYPE_CHECKING:
    from server_stub.command_request import CommandRequest, Selection

KINDS: Final = (CommandKind.RESTART, CommandKind.RELOAD)
DEFAULT_HEALTH_TIMEOUT_S: Final = 300.0
MAX_HEALTH_TIMEOUT_S: Final = 86400.0
MAX_NODES: Final = 1_000_000

_ORDER_FIELDS: Final = frozenset({"kind", "reason", "actor", "time_to_live_s", "parameters"})
_FIELDS: Final = _ORDER_FIELDS | {
    "nodes",
    "selector",
    "concurrency",
    "failures_allowed",
    "health_timeout_s",
    "dry_run",
}


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What a client wants rolled out."""

    order: CommandRequest
    selection: Selection
    concurrency: int | str
    """As it came: a number of nodes, or a share such as "10%"."""
    failures_allowed: int
    health_timeout_s: float
    dry_run: bool


def parse(body: Any, default_actor: str) -> RolloutRequest:
    """Give the request that a JSON body makes.

    Raises:
        Problem: `malformed`, or `invalid`, naming the field and what would be right.
    """
    if not isinstance(body, dict):
        raise Problem("malformed", "expected a JSON object")
    order = parse_order({"kind": CommandKind.RESTART.value, **body}, default_actor, _FIELDS)
    if order.kind not in KINDS:
        raise invalid("kind", f"expected one of {', '.join(KINDS)}: each node is to be READY afterwards")
    selection = parse_selection(body)
    concurrency = body.get("concurrency", 1)
    try:
        if not isinstance(concurrency, int | str):
            raise TypeError
        concurrency_of(concurrency, 1)
    except (TypeError, ValueError):
        expected = f'expected a whole number from 1 to {MAX_NODES}, or a share from "1%" to "100%"'
        raise invalid("concurrency", expected) from None
    failures = body.get("failures_allowed", 0)
    if isinstance(failures, bool) or not isinstance(failures, int) or not 0 <= failures <= MAX_NODES:
        raise invalid("failures_allowed", f"expected a whole number from 0 to {MAX_NODES}")
    timeout = body.get("health_timeout_s", DEFAULT_HEALTH_TIMEOUT_S)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        timeout = 0
    if not 0 < timeout <= MAX_HEALTH_TIMEOUT_S:
        raise invalid("health_timeout_s", f"expected seconds, more than 0, at most {MAX_HEALTH_TIMEOUT_S:g}")
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise invalid("dry_run", "expected true or false")
    fingerprint = fingerprint_of(
        [selection.text, *sorted(selection.names or ())],
        [order.kind, order.reason, order.actor, order.time_to_live_s, order.parameters],
        [concurrency, failures, float(timeout)],
    )
    return RolloutRequest(
        order=replace(order, fingerprint=fingerprint),
        selection=selection,
        concurrency=concurrency,
        failures_allowed=failures,
        health_timeout_s=float(timeout),
        dry_run=dry_run,
    )
