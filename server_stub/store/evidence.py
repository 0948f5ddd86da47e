"""Evidence in the database: summaries as they came, which bundles are here, and hangs grouped by their stack.

Every function takes the caller's session. Knows no files and no connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from server_stub.store.tables import EvidenceRow, NodeRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

NODES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """A summary's row at one moment, free of any session."""

    bundle_id: str
    node_id: str
    wall_at: float
    incarnation: str
    reason: str
    stalled_at: str
    signature: str
    stack: Sequence[str]
    size_bytes: int
    wanted_wall_at: float | None
    file: str | None
    node_name: str | None = None


@dataclass(frozen=True, slots=True)
class Hang:
    """All evidence of one stack."""

    signature: str
    stack: Sequence[str]
    stalled_at: str
    """Where the newest stood."""
    reasons: Sequence[str]
    nodes: int
    bundles: int
    first_seen_wall_at: float
    last_seen_wall_at: float
    node_names: Sequence[str]
    """The newest, at most NODES_SHOWN."""


_OWN = [name for name in EvidenceRecord.__slots__ if name != "node_name"]
_COLUMNS = [*(getattr(EvidenceRow, name) for name in _OWN), NodeRow.name]
_OF_NODE = NodeRow.id == EvidenceRow.node_id


async def keep(session: AsyncSession, new: EvidenceRecord) -> bool:
    """Store a summary; False if it came before."""
    if await session.get(EvidenceRow, (new.bundle_id, new.node_id)) is not None:
        return False
    session.add(
        EvidenceRow(**{name: getattr(new, name) for name in _OWN if name != "stack"}, stack=list(new.stack))
    )
    return True


async def find(session: AsyncSession, node_id: str, bundle_id: str) -> EvidenceRecord | None:
    """Give one summary."""
    query = select(*_COLUMNS).outerjoin(NodeRow, _OF_NODE)
    query = query.where(EvidenceRow.node_id == node_id, EvidenceRow.bundle_id == bundle_id)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else EvidenceRecord(*row)


async def count_since(session: AsyncSession, node_id: str, wall_at: float) -> int:
    """Give how many summaries a node has told since an instant."""
    query = select(func.count()).where(EvidenceRow.node_id == node_id, EvidenceRow.wall_at >= wall_at)
    return await session.scalar(query) or 0


async def newest(
    session: AsyncSession, *, node_id: str | None, signature: str | None, limit: int
) -> list[EvidenceRecord]:
    """Give summaries, newest first."""
    query = select(*_COLUMNS).outerjoin(NodeRow, _OF_NODE)
    query = query.order_by(EvidenceRow.wall_at.desc(), EvidenceRow.bundle_id.desc()).limit(limit)
    if node_id is not None:
        query = query.where(EvidenceRow.node_id == node_id)
    if signature is not None:
        query = query.where(EvidenceRow.signature == signature)
    return [EvidenceRecord(*row) for row in await session.execute(query)]


async def hangs(session: AsyncSession, *, since_wall_at: float, limit: int) -> list[Hang]:
    """Give the kinds of hangs seen since an instant, those of the most nodes first."""
    nodes = func.count(func.distinct(EvidenceRow.node_id))
    last = func.max(EvidenceRow.wall_at)
    query = (
        select(EvidenceRow.signature, nodes, func.count(), func.min(EvidenceRow.wall_at), last)
        .where(EvidenceRow.signature != "", EvidenceRow.wall_at >= since_wall_at)
        .group_by(EvidenceRow.signature)
        .order_by(nodes.desc(), last.desc())
        .limit(limit)
    )
    found = []
    for signature, node_count, bundles, first_at, last_at in (await session.execute(query)).all():
        newest_ones = await newest(session, node_id=None, signature=signature, limit=NODES_SHOWN)
        names = dict.fromkeys(one.node_name or one.node_id for one in newest_ones)
        reasons = await session.scalars(
            select(EvidenceRow.reason)
            .where(EvidenceRow.signature == signature, EvidenceRow.wall_at >= since_wall_at)
            .distinct()
            .order_by(EvidenceRow.reason)
            .limit(NODES_SHOWN)
        )
        found.append(
            Hang(
                signature=signature,
                stack=newest_ones[0].stack,
                stalled_at=newest_ones[0].stalled_at,
                reasons=list(reasons),
                nodes=node_count,
                bundles=bundles,
                first_seen_wall_at=first_at,
                last_seen_wall_at=last_at,
                node_names=list(names),
            )
        )
    return found


async def want(session: AsyncSession, node_id: str, bundle_id: str, wall_at: float) -> None:
    """Note that somebody asked for the bundle."""
    row = await session.get_one(EvidenceRow, (bundle_id, node_id))
    row.wanted_wall_at = wall_at


async def arrived(session: AsyncSession, node_id: str, bundle_id: str, file: str) -> None:
    """Note that the bundle is here."""
    row = await session.get_one(EvidenceRow, (bundle_id, node_id))
    row.file = file


async def forget_files(session: AsyncSession, files: Sequence[str]) -> None:
    """Note that these files are here no more."""
    for row in await session.scalars(select(EvidenceRow).where(EvidenceRow.file.in_(files))):
        row.file = None


async def drop_older(session: AsyncSession, before_wall_at: float, limit: int) -> int:
    """Delete summaries from before an instant, oldest first, at most `limit`; give how many."""
    old = (
        select(EvidenceRow.bundle_id, EvidenceRow.node_id)
        .where(EvidenceRow.wall_at < before_wall_at)
        .order_by(EvidenceRow.wall_at)
        .limit(limit)
    )
    keys = (await session.execute(old)).all()
    for bundle_id, node_id in keys:
        await session.execute(
            delete(EvidenceRow).where(EvidenceRow.bundle_id == bundle_id, EvidenceRow.node_id == node_id)
        )
    return len(keys)
