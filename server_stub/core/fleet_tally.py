"""How many of the fleet are in reach, and how many have gone out of reach lately: counted as nodes are judged.

One entry for each node, changed when that node is judged, so that the brake's question costs nothing at ten
thousand nodes. Going out of reach is an edge: a node that was so already when this server first looked has
not *turned*. Knows no clock and no thresholds.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from server_stub.core.brakes import Counts, Standing, standing_of, standing_of_stored

if TYPE_CHECKING:
    from server_stub.core.node_facts import Stored, Verdict


class FleetTally:
    """Standings of all nodes, and when each of the turned ones turned."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._number: Counter[Standing] = Counter()
        self._turned_at: dict[str, float] = {}
        """In the order of turning. Invariant: each of these is OUT_OF_REACH."""

    def note(self, node_id: str, stored: Stored, verdict: Verdict, now: float) -> bool:
        """A node was judged; tells whether it counts otherwise than before."""
        before = self._standings.get(node_id)
        known = before if before is not None else standing_of_stored(stored)
        after = standing_of(verdict, known)
        is_changed = before is not after
        if is_changed:
            if before is not None:
                self._number[before] -= 1
            self._number[after] += 1
            self._standings[node_id] = after
        if after is not Standing.OUT_OF_REACH:
            self._turned_at.pop(node_id, None)
        elif known is Standing.IN_REACH:
            self._turned_at[node_id] = now
        return is_changed

    def forget(self, node_id: str) -> None:
        """The node is not the fleet's any more."""
        before = self._standings.pop(node_id, None)
        if before is not None:
            self._number[before] -= 1
        self._turned_at.pop(node_id, None)

    def accept(self) -> None:
        """What is out of reach now is so in truth: it has not turned, it is gone."""
        self._turned_at.clear()

    def age_out(self, before_at: float) -> None:
        """Forget the turning of those that turned before an instant; they stay out of reach."""
        while self._turned_at:
            node_id = next(iter(self._turned_at))
            if self._turned_at[node_id] >= before_at:
                return
            del self._turned_at[node_id]

    def counts(self) -> Counts:
        """Give the fleet's numbers."""
        return Counts(
            fleet=sum(self._number.values()) - self._number[Standing.ASIDE],
            in_reach=self._number[Standing.IN_REACH],
            turned=len(self._turned_at),
        )

    def turned(self) -> tuple[str, ...]:
        """Give the ids of those that turned, first ones first."""
        return tuple(self._turned_at)
