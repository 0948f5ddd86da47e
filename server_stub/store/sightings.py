"""When nodes were last seen, in the database: one statement for however many nodes.

A row's times only ever grow: what comes late, or from another server, overwrites nothing newer. A node that
was deleted meanwhile gets no row. Knows no clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select, text

from server_stub.store.tables import SightingRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class Sighting:
    """When a node was last seen by each way, in seconds since 1970 by the server's clock."""

    node_id: str
    probe_wall_at: float | None = None
    worker_wall_at: float | None = None
    link_wall_at: float | None = None

    @property
    def last_wall_at(self) -> float | None:
        """The newest of the three."""
        seen = (self.probe_wall_at, self.worker_wall_at, self.link_wall_at)
        return max((at for at in seen if at is not None), default=None)


_COLUMNS: Final = [getattr(SightingRow, name) for name in Sighting.__slots__]
_STORE: Final = {
    "sqlite": text(
        """
        INSERT INTO sightings (node_id, probe_wall_at, worker_wall_at, link_wall_at)
        SELECT nodes.id, json_extract(seen.value, '$[1]'), json_extract(seen.value, '$[2]'),
            json_extract(seen.value, '$[3]')
        FROM json_each(:seen) AS seen JOIN nodes ON nodes.id = json_extract(seen.value, '$[0]')
        WHERE true -- else ON would be read as the join's
        ON CONFLICT (node_id) DO UPDATE SET
            probe_wall_at = max(
                coalesce(sightings.probe_wall_at, excluded.probe_wall_at),
                coalesce(excluded.probe_wall_at, sightings.probe_wall_at)
            ),
            worker_wall_at = max(
                coalesce(sightings.worker_wall_at, excluded.worker_wall_at),
                coalesce(excluded.worker_wall_at, sightings.worker_wall_at)
            ),
            link_wall_at = max(
                coalesce(sightings.link_wall_at, excluded.link_wall_at),
                coalesce(excluded.link_wall_at, sightings.link_wall_at)
            )
        """
    ),
    "postgresql": text(
        """
        INSERT INTO sightings (node_id, probe_wall_at, worker_wall_at, link_wall_at)
        SELECT nodes.id, seen.probe, seen.worker, seen.link
        FROM (
            SELECT one ->> 0 AS id, CAST(one ->> 1 AS double precision) AS probe,
                CAST(one ->> 2 AS double precision) AS worker, CAST(one ->> 3 AS double precision) AS link
            FROM json_array_elements(CAST(:seen AS json)) AS each(one)
        ) AS seen JOIN nodes ON nodes.id = seen.id
        ON CONFLICT (node_id) DO UPDATE SET
            probe_wall_at = greatest(sightings.probe_wall_at, excluded.probe_wall_at),
            worker_wall_at = greatest(sightings.worker_wall_at, excluded.worker_wall_at),
            link_wall_at = greatest(sightings.link_wall_at, excluded.link_wall_at)
        """
    ),
}


async def store(session: AsyncSession, seen: Sequence[Sighting]) -> None:
    """Write these times where they are newer than what is there."""
    parameter = json.dumps(
        [(one.node_id, one.probe_wall_at, one.worker_wall_at, one.link_wall_at) for one in seen]
    )
    await session.execute(_STORE[session.get_bind().dialect.name], {"seen": parameter})


async def read(session: AsyncSession, node_ids: Iterable[str] | None = None) -> dict[str, Sighting]:
    """Give the stored times by node, of all nodes or of these; a node that was never seen has none."""
    query = select(*_COLUMNS)
    if node_ids is not None:
        query = query.where(SightingRow.node_id.in_(set(node_ids)))
    found = (Sighting(*row) for row in await session.execute(query))
    return {one.node_id: one for one in found}
