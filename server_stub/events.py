"""The event log: what may happen, and how it is appended in the transaction of the change that it tells of.

`EVENT_TYPES` names every type with its occasion and what its data hold; the documents are made from it, and a
test finds what is appended and not named. Outside the server an event is a CloudEvent 1.0, its type with
`TYPE_PREFIX` in front. Reading, retention and the sinks' cursors are in `store/events.py`.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert

from server_stub.store.tables import EventRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

TYPE_PREFIX: Final = "io.nodenanny."

EVENT_TYPES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "node.created": ("A node said hello for the first time.", ("name",)),
    "node.registered": (
        "A worker of a new life, or at a new address, registered.",
        ("incarnation", "address", "port"),
    ),
    "node.maintenance": (
        "A node was put into maintenance, the order was changed, or it ended.",
        ("on", "reason", "by", "until"),
    ),
    "node.state": ("A node's word changed.", ("before", "after", "reason", "message")),
    "brake.on": (
        "A brake stops the server from going on.",
        ("brake", "reason", "turned", "in_reach", "fleet", "nodes"),
    ),
    "brake.off": ("Its ground is gone.", ("brake", "turned", "in_reach", "fleet")),
    "brake.lifted": (
        "Somebody took a brake off for a while.",
        ("brake", "reason", "actor", "for_s", "was_on"),
    ),
    "brake.lift-ended": ("That while is over.", ("brake", "turned", "in_reach", "fleet")),
    "repair.ordered": (
        "The repair policy has ordered a restart.",
        ("command", "incarnation", "reason"),
    ),
    "repair.dry-run": ("The repair policy would have ordered a restart.", ("incarnation", "reason")),
    "repair.withheld": (
        "A worker needs repair, and something else than before speaks against it.",
        ("why", "reason", "incarnation", "until"),
    ),
    "node.labels": ("People changed a node's labels; `labels` are all that they have set.", ("labels", "by")),
    "node.deleted": ("A node was taken off the list.", ("name", "by", "reason")),
    "node.evidence": (
        "A node announced an evidence bundle.",
        ("bundle", "incarnation", "reason", "size_bytes", "stalled_at", "signature"),
    ),
    "command.queued": ("A command was stored.", ("command", "kind", "actor", "reason")),
    "command.sent": ("A command is about to be sent to its node.", ("command", "kind", "detail")),
    "command.accepted": ("The nanny has it in its ledger.", ("command", "kind", "detail")),
    "command.done": ("The nanny did it.", ("command", "kind", "detail")),
    "command.already-satisfied": ("There was nothing left to do.", ("command", "kind", "detail")),
    "command.rejected": ("The nanny refused it.", ("command", "kind", "detail")),
    "command.expired": ("Its time was over before it was done.", ("command", "kind", "detail")),
    "command.superseded": ("A later command took its place.", ("command", "kind", "detail")),
    "command.failed": ("The nanny tried and could not.", ("command", "kind", "detail")),
    "rollout.started": (
        "A rollout was stored.",
        ("rollout", "kind", "nodes", "concurrency", "actor", "reason"),
    ),
    "rollout.step": ("A node's turn in a rollout came to a new state.", ("rollout", "state", "detail")),
    "rollout.aborting": (
        "A rollout orders nothing any more; what is in flight is followed to its end.",
        ("rollout", "state", "detail"),
    ),
    "rollout.ended": ("A rollout is over, done or aborted.", ("rollout", "state", "detail")),
}
"""Type to its occasion and the names in its data."""


def append(session: AsyncSession, wall_at: float, type_: str, node_id: str | None, **detail: Any) -> None:
    """Add an event to the session's transaction."""
    session.add(EventRow(wall_at=wall_at, type=type_, node_id=node_id, detail=detail))


async def append_many(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Add events, as the columns of their rows, to the session's transaction by one statement."""
    if rows:
        await session.execute(insert(EventRow), rows)
