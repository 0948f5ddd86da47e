"""Which version each node's row is of: what a round reads instead of the rows themselves.

Two columns of ten thousand rows cost a twentieth of the whole rows, and tell exactly which of them another
writer has changed. Read in pages by id, each in a short session of its own, so that no reader holds the
event loop for long. Knows nothing of what is in the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from server_stub.store.tables import NodeRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

PAGE: Final = 1000


async def page(session: AsyncSession, after_id: str) -> list[tuple[str, int]]:
    """Give ids and versions of the next PAGE nodes by id; fewer: these were the last ones."""
    query = (
        select(NodeRow.id, NodeRow.version_id).where(NodeRow.id > after_id).order_by(NodeRow.id).limit(PAGE)
    )
    return [(node_id, version_id) for node_id, version_id in await session.execute(query)]
