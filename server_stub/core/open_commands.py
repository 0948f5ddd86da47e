"""The commands that no nanny has confirmed, by node, and when which node is to be looked at again.

All that is asked for costs as much as the node in question has commands: what is due when is in heaps, whose
entries are dropped when they come up and no longer count. Invariant: a node without open commands is in
neither dictionary. Instants are monotonic seconds. Knows no clock, no database and no connection.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class OpenCommands:
    """Which commands are under way, from being stored until their nanny has them."""

    def __init__(self) -> None:
        self._expires_at: dict[str, dict[str, float]] = {}
        """Node id to command id to when its time is over."""
        self._unsent: set[str] = set()
        """Those that were never sent: they alone may expire here."""
        self._sent_on: dict[str, tuple[str, float]] = {}
        """Command id to the session that carries it, and since when."""
        self._expiries: list[tuple[float, str, str]] = []
        """A heap of (when, command id, node id) of all that were ever unsent."""
        self._looks: list[tuple[float, str]] = []
        """A heap of (when, node id)."""
        self._look_at: dict[str, float] = {}
        """Node id to the one entry of that heap that counts, its earliest."""

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._expires_at

    def nodes(self) -> Iterator[str]:
        """Give all nodes that have any."""
        return iter(self._expires_at)

    def of(self, node_id: str) -> list[str]:
        """Give a node's commands."""
        return list(self._expires_at.get(node_id, ()))

    def count(self, node_id: str) -> int:
        """Give how many a node has."""
        return len(self._expires_at.get(node_id, ()))

    def unsent_of(self, node_id: str) -> list[str]:
        """Give those of a node's commands that were never sent."""
        return [command_id for command_id in self.of(node_id) if command_id in self._unsent]

    def expires_at(self, node_id: str, command_id: str) -> float | None:
        """Give when a command's time is over; None: it is not among these."""
        return self._expires_at.get(node_id, {}).get(command_id)

    def keep(self, node_id: str, command_id: str, expires_at: float, *, is_unsent: bool) -> None:
        """Take a command in."""
        self._expires_at.setdefault(node_id, {})[command_id] = expires_at
        if is_unsent:
            self._unsent.add(command_id)
            heapq.heappush(self._expiries, (expires_at, command_id, node_id))

    def marked_sent(self, command_id: str) -> None:
        """It may reach its node from now on."""
        self._unsent.discard(command_id)

    def drop(self, node_id: str, command_id: str) -> None:
        """Its nanny has it, or it is over."""
        self._unsent.discard(command_id)
        self._sent_on.pop(command_id, None)
        commands = self._expires_at.get(node_id)
        if commands is not None:
            commands.pop(command_id, None)
            if not commands:
                del self._expires_at[node_id]

    def carried_by(self, command_id: str, session_id: str, now: float) -> None:
        """This session has it."""
        self._sent_on[command_id] = (session_id, now)

    def is_under_way(self, command_id: str, session_id: str, now: float, within_s: float) -> bool:
        """Tell whether this session carries it, and not for so long that its nanny should have confirmed."""
        carried = self._sent_on.get(command_id)
        return carried is not None and carried[0] == session_id and now < carried[1] + within_s

    def look_again(self, node_id: str, at: float) -> None:
        """Have the node come up at this instant, or earlier if that was said before."""
        if self._look_at.get(node_id, at) >= at:
            self._look_at[node_id] = at
            heapq.heappush(self._looks, (at, node_id))

    def next_at(self) -> float | None:
        """Give when something comes up; None: not by time alone. It may turn out to count no longer."""
        return min((heap[0][0] for heap in (self._expiries, self._looks) if heap), default=None)

    def come_up(self, now: float) -> set[str]:
        """Give the nodes whose time has come: an unsent command's is over, or they are to be looked at again."""
        nodes = set()
        while self._expiries and self._expiries[0][0] <= now:
            _, command_id, node_id = heapq.heappop(self._expiries)
            if command_id in self._unsent:
                nodes.add(node_id)
        while self._looks and self._looks[0][0] <= now:
            at, node_id = heapq.heappop(self._looks)
            if self._look_at.get(node_id) == at:
                del self._look_at[node_id]
                if node_id in self._expires_at:
                    nodes.add(node_id)
        return nodes
