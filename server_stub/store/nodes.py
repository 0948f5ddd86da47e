"""Nodes in the database: who they are, where they are, what was judged of them.

Every function takes the caller's session and does no more than its transaction. `store_verdicts` writes a
whole round as one statement that changes only rows whose version is the one that was read, and says which
rows it won: the others are to be read again and judged again. Knows no network and no thresholds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select, text

from server_stub import events
from server_stub.core.node_facts import Lifecycle, Stored, Word
from server_stub.core.shards import ALL_SHARDS, shard_of
from server_stub.store.columns import storable
from server_stub.store.tables import NodeRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from nanny.protocol.messages import Hello, Registration


MANY: Final = 2000
"""Above this a statement that names them costs more than one that reads all."""


_LIFECYCLES: Final = frozenset(map(str, Lifecycle))
_WORDS: Final = frozenset(map(str, Word))


class IdentityConflict(Exception):  # noqa: N818 (what it is, not what it does)
    """Two machines claim one node id: the message names both."""


class TooManyNodes(Exception):  # noqa: N818 (what it is, not what it does)
    """The server keeps no more; whoever makes up node ids must not fill its disk."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node's row at one moment, free of any session."""

    id: str
    name: str
    machine_id: str
    has_link: bool
    first_seen_wall_at: float
    address: str | None
    healthz_port: int
    incarnation: str | None
    software_version: str
    labels: Mapping[str, str]
    """As the worker registered them."""
    labels_set: Mapping[str, str]
    """As people set them."""
    capacity: Mapping[str, Any]
    registered_wall_at: float | None
    lifecycle: str
    unreachable: bool
    state: str
    state_reason: str
    state_detail: str
    state_message: str
    state_since_wall_at: float
    maintenance_reason: str | None
    maintenance_by: str | None
    maintenance_since_wall_at: float | None
    maintenance_until_wall_at: float | None
    version_id: int

    @property
    def healthz(self) -> tuple[str, int] | None:
        """Address and port to probe, None if the node has none or has not said."""
        return (self.address, self.healthz_port) if self.address and self.healthz_port else None

    @property
    def effective_labels(self) -> dict[str, str]:
        """What selectors see: people's labels stand before the node's own."""
        return {**self.labels, **self.labels_set}

    @property
    def stored(self) -> Stored:
        """What the row says, as the verdict's functions want it; words of a newer version are no error."""
        return Stored(
            lifecycle=Lifecycle(self.lifecycle) if self.lifecycle in _LIFECYCLES else Lifecycle.ACTIVE,
            unreachable=self.unreachable,
            word=Word(self.state) if self.state in _WORDS else Word.UNKNOWN,
            reason=self.state_reason,
            detail=self.state_detail,
            is_registered=self.registered_wall_at is not None,
            has_healthz=self.healthz is not None,
            has_link=self.has_link,
            maintenance=self._maintenance,
        )

    @property
    def _maintenance(self) -> str:
        if self.maintenance_by is None:
            return ""
        return f"in maintenance by {self.maintenance_by}: {self.maintenance_reason}"


_COLUMNS: Final = [getattr(NodeRow, name) for name in NodeRecord.__slots__]


@dataclass(frozen=True, slots=True)
class StateChange:
    """One node's new state, made from the row of version `version_id`."""

    id: str
    version_id: int
    lifecycle: str
    unreachable: bool
    state: str
    state_reason: str
    state_detail: str
    state_message: str
    state_since_wall_at: float
    state_before: str


async def read(
    session: AsyncSession, ids: Iterable[str] | None = None, *, shards: frozenset[int] = ALL_SHARDS
) -> list[NodeRecord]:
    """Give all nodes of these shards by name, or those of `ids` among them that exist."""
    query = select(*_COLUMNS).order_by(NodeRow.name, NodeRow.id)
    if shards != ALL_SHARDS:
        query = query.where(NodeRow.shard.in_(sorted(shards)))
    wanted = None if ids is None else set(ids)
    if wanted is not None and len(wanted) <= MANY:
        query = query.where(NodeRow.id.in_(wanted))
    found = [NodeRecord(*row) for row in await session.execute(query)]
    return found if wanted is None else [record for record in found if record.id in wanted]


async def find(session: AsyncSession, name_or_id: str) -> NodeRecord | None:
    """Give the node of this id or, if exactly one has it, of this name."""
    by_id = await read(session, [name_or_id])
    if by_id:
        return by_id[0]
    found = (await session.execute(select(*_COLUMNS).where(NodeRow.name == name_or_id).limit(2))).all()
    return NodeRecord(*found[0]) if len(found) == 1 else None


async def count(session: AsyncSession) -> int:
    """Give the number of nodes."""
    return (await session.scalar(select(func.count()).select_from(NodeRow))) or 0


async def meet(
    session: AsyncSession, hello: Hello, *, is_link: bool, wall_at: float, limit: int = 100_000
) -> bool:
    """Give a new node its row, or compare a known one with what it says now; tells whether it was new.

    Raises:
        IdentityConflict: another machine has this id already.
        TooManyNodes: it would be one more than `limit`.
    """
    row = await session.get(NodeRow, hello.node_id)
    if row is None:
        if await count(session) >= limit:
            raise TooManyNodes(f"this server keeps {limit} nodes; nodes_limit raises that")
        session.add(
            NodeRow(
                id=hello.node_id,
                name=hello.node_name or hello.node_id,
                machine_id=hello.machine_id,
                has_link=is_link,
                first_seen_wall_at=wall_at,
                shard=shard_of(hello.node_id),
                software_version=hello.software_version,
                lifecycle=Lifecycle.ACTIVE,
                state=Word.PENDING,
                state_reason="New",
                state_message="has said hello for the first time",
                state_since_wall_at=wall_at,
            )
        )
        events.append(session, wall_at, "node.created", hello.node_id, name=hello.node_name)
        return True
    if row.machine_id != hello.machine_id:
        raise IdentityConflict(
            f"node id {hello.node_id} belongs to machine {row.machine_id} ({row.name}); "
            f"machine {hello.machine_id} ({hello.node_name}) has a copy of its identity"
        )
    if hello.node_name and row.name != hello.node_name:
        row.name = hello.node_name
    if is_link and not row.has_link:
        row.has_link = True
    return False


@dataclass(frozen=True, slots=True)
class Greeting:
    """A node's Hello, as it came."""

    hello: Hello
    is_link: bool
    wall_at: float
    limit: int
    """Of nodes that the server keeps."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A worker's registration, as it came."""

    node_id: str
    registration: Registration
    address: str
    wall_at: float


async def is_met(session: AsyncSession, hello: Hello, *, is_link: bool) -> bool:
    """Tell whether to meet this node again would change nothing: a fleet that returns is to cost no writes."""
    found = await session.execute(
        select(NodeRow.machine_id, NodeRow.name, NodeRow.has_link).where(NodeRow.id == hello.node_id)
    )
    row = found.first()
    return (
        row is not None
        and row.machine_id == hello.machine_id
        and (not hello.node_name or row.name == hello.node_name)
        and (row.has_link or not is_link)
    )


async def meet_all(session: AsyncSession, greetings: Sequence[Greeting]) -> list[bool]:
    """Meet each, in order; raises as `meet` does, for the first that it raises for."""
    return [
        await meet(session, one.hello, is_link=one.is_link, wall_at=one.wall_at, limit=one.limit)
        for one in greetings
    ]


async def register_all(session: AsyncSession, arrivals: Sequence[Arrival]) -> list[bool]:
    """Register each, in order; tells of each what `register` does."""
    return [
        await register(session, one.node_id, one.registration, one.address, one.wall_at) for one in arrivals
    ]


async def register(
    session: AsyncSession, node_id: str, registration: Registration, address: str, wall_at: float
) -> bool:
    """Store what a worker says of itself; tells whether its life or its address is a new one.

    The node's state isn't touched: a registration alone makes no node READY.
    """
    row = await session.get_one(NodeRow, node_id)
    incarnation = None if registration.incarnation is None else str(registration.incarnation)
    port = registration.healthz_port
    is_reborn = (
        row.registered_wall_at is None
        or incarnation is None
        or (row.incarnation, row.address, row.healthz_port) != (incarnation, address, port)
    )
    if is_reborn:
        row.incarnation, row.address, row.healthz_port = incarnation, address, port
        row.registered_wall_at = wall_at
        events.append(
            session, wall_at, "node.registered", node_id, incarnation=incarnation, address=address, port=port
        )
    if row.software_version != registration.software_version:
        row.software_version = registration.software_version
    if row.labels != registration.labels:
        row.labels = dict(registration.labels)
    if row.capacity != registration.capacity:
        row.capacity = dict(registration.capacity)
    return is_reborn


_CHANGE_FIELDS: Final = tuple(name for name in StateChange.__slots__ if name != "state_before")
_STORE_VERDICTS: Final = {
    "sqlite": text(
        """
        UPDATE nodes SET
            version_id = nodes.version_id + 1,
            lifecycle = json_extract(change.value, '$.lifecycle'),
            unreachable = json_extract(change.value, '$.unreachable'),
            state = json_extract(change.value, '$.state'),
            state_reason = json_extract(change.value, '$.state_reason'),
            state_detail = json_extract(change.value, '$.state_detail'),
            state_message = json_extract(change.value, '$.state_message'),
            state_since_wall_at = json_extract(change.value, '$.state_since_wall_at')
        FROM json_each(:changes) AS change
        WHERE nodes.id = json_extract(change.value, '$.id')
            AND nodes.version_id = json_extract(change.value, '$.version_id')
        RETURNING nodes.id
        """
    ),
    "postgresql": text(
        """
        UPDATE nodes SET
            version_id = nodes.version_id + 1,
            lifecycle = change.lifecycle,
            unreachable = change.unreachable,
            state = change.state,
            state_reason = change.state_reason,
            state_detail = change.state_detail,
            state_message = change.state_message,
            state_since_wall_at = change.state_since_wall_at
        FROM json_to_recordset(CAST(:changes AS json)) AS change(
            id text, version_id integer, lifecycle text, unreachable boolean, state text, state_reason text,
            state_detail text, state_message text, state_since_wall_at double precision
        )
        WHERE nodes.id = change.id AND nodes.version_id = change.version_id
        RETURNING nodes.id
        """
    ),
}


def _plain(change: StateChange) -> dict[str, Any]:
    plain = {name: getattr(change, name) for name in _CHANGE_FIELDS}
    for name in ("state_detail", "state_message"):  # with words of the node
        plain[name] = storable(plain[name])
    return plain


async def store_verdicts(session: AsyncSession, changes: Sequence[StateChange], wall_at: float) -> set[str]:
    """Write the changes whose row is still of the version that they were made from; give the ids of those."""
    statement = _STORE_VERDICTS[session.get_bind().dialect.name]
    parameter = json.dumps([_plain(change) for change in changes])
    won = set(await session.scalars(statement, {"changes": parameter}))
    told = [
        {
            "wall_at": wall_at,
            "type": "node.state",
            "node_id": change.id,
            "detail": {
                "before": change.state_before,
                "after": change.state,
                "reason": change.state_reason,
                "message": change.state_message,
            },
        }
        for change in changes
        if change.id in won and change.state != change.state_before
    ]
    await events.append_many(session, told)
    return won
