"""What automatic repairs may still cost: so many of a node in minutes and in a day, so many of the fleet.

Counted on the server's monotonic seconds, so no step of any wall clock opens or closes a budget of a running
server. What an earlier process spent comes back through `age_of_stored`. Knows no clock and no rows, and
decides nothing about need.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """How much may be spent, and in what time."""

    node_interval_s: float = 900.0
    node_daily: int = 3
    fleet_window_s: float = 600.0
    fleet_share: float = 0.01


@dataclass(frozen=True, slots=True)
class Refusal:
    """A budget is spent."""

    until_at: float | None
    """When there is something in it again, if nobody spends more; None: never, it is zero."""
    detail: str


def fleet_limit(fleet_size: int, settings: BudgetSettings) -> int:
    """Give how many repairs the fleet may have within its window: its share, one at least."""
    return max(1, int(fleet_size * settings.fleet_share))


def age_of_stored(wall_at: float, wall_now: float) -> float:
    """Give how long ago a repair of an earlier process is to count as made, in seconds.

    One that lies in the future was written before the wall clock was set back: it counts as made now, and is to
    be stored so, that it ages from here on. A clock set forward makes old ones look older than they are: that
    opens the budgets once, at the server's next start, and no more, for what is spent then is counted anew.
    """
    return max(0.0, wall_now - wall_at)


class RepairBudget:
    """What was spent within the last day."""

    def __init__(self, settings: BudgetSettings) -> None:
        self._settings = settings
        self._of_node: dict[str, deque[float]] = {}
        self._of_fleet: deque[float] = deque()
        """Both in order of time."""

    def spend(self, node_id: str, at: float) -> None:
        """A repair was decided. Later ones never come before earlier ones."""
        self._of_node.setdefault(node_id, deque()).append(at)
        self._of_fleet.append(at)

    def refuses_node(self, node_id: str, now: float) -> Refusal | None:
        """Say why this node may have no repair now; None: it may."""
        spent = self._of_node.get(node_id, deque())
        while spent and spent[0] + DAY_S <= now:
            spent.popleft()
        if not spent:
            self._of_node.pop(node_id, None)
        limit, interval_s = self._settings.node_daily, self._settings.node_interval_s
        refusals = []
        if len(spent) >= limit:
            until_at = spent[len(spent) - limit] + DAY_S if limit else None
            refusals.append(Refusal(until_at, f"{len(spent)} of {limit} repairs a day made"))
        if spent and now < spent[-1] + interval_s:
            refusals.append(Refusal(spent[-1] + interval_s, f"one repair in {interval_s:g} s"))
        return max(
            refusals,
            key=lambda refusal: float("inf") if refusal.until_at is None else refusal.until_at,
            default=None,
        )

    def refuses_fleet(self, fleet_size: int, now: float) -> Refusal | None:
        """Say why no node may have a repair now; None: one may."""
        spent, limit = self.spent_by_fleet(now), fleet_limit(fleet_size, self._settings)
        if spent < limit:
            return None
        until_at = self._of_fleet[spent - limit] + self._settings.fleet_window_s
        window = f"{self._settings.fleet_window_s:g} s"
        return Refusal(until_at, f"{spent} of {limit} repairs of the fleet within {window} made")

    def spent_by_fleet(self, now: float) -> int:
        """Give how many repairs were made within the fleet's window."""
        while self._of_fleet and self._of_fleet[0] + self._settings.fleet_window_s <= now:
            self._of_fleet.popleft()
        return len(self._of_fleet)
