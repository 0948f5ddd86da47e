"""The connections that are open now, by node and role, and how to send on one.

At most one of each role for a node: a newer one takes the older one's place. What a connection is made of,
this file doesn't know; `links.py` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nanny.protocol.messages import Role, ServerMessage


class Connection(Protocol):
    """One end of an open session."""

    @property
    def session_id(self) -> str:
        """The session that it carries."""
        ...

    def send(self, message: ServerMessage) -> bool:
        """Queue a message; False if so much is unacknowledged already that none can be promised."""
        ...


class OpenConnections:
    """Which nodes can be spoken to."""

    def __init__(self) -> None:
        self._open: dict[tuple[Role, str], Connection] = {}
        self._counts: dict[Role, int] = {}

    def add(self, role: Role, node_id: str, connection: Connection) -> Connection | None:
        """Put a connection in its place; gives the older one that had it."""
        older = self._open.get((role, node_id))
        if older is None:
            self._counts[role] = self.count(role) + 1
        self._open[role, node_id] = connection
        return older

    def remove(self, role: Role, node_id: str, connection: Connection) -> bool:
        """Take a connection out; False if a newer one has its place already."""
        if self._open.get((role, node_id)) is not connection:
            return False
        del self._open[role, node_id]
        self._counts[role] -= 1
        return True

    def find(self, role: Role, node_id: str) -> Connection | None:
        """Give the open connection."""
        return self._open.get((role, node_id))

    def count(self, role: Role) -> int:
        """Give how many of a role are open."""
        return self._counts.get(role, 0)
