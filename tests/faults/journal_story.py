"""The journal of a node as the oracles read it: since when, what was detected, what recovered, who had which outcome.

Instants are CLOCK_MONOTONIC seconds, as the nanny wrote them. What a torn or degraded journal lacks is not here; the
cases that break the disk are judged without it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nanny.ctl.history_text import story_line
from nanny.ctl.journal_files import read_journal
from nanny.ctl.terminal import PLAIN
from nanny.errors import HostError
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from tests.support.real_nanny import RealNanny

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """All records, and those of the case."""

    whole: tuple[Record, ...]
    last_n_before: int

    @property
    def of_case(self) -> list[Record]:
        """What was written since the case began."""
        return [one for one in self.whole if one["n"] > self.last_n_before]

    def of_type(self, *types: str) -> list[Record]:
        """Those of the case that have one of these types."""
        return [one for one in self.of_case if one["type"] in types]

    def detected_at(self, condition: str | None) -> float | None:
        """When the nanny first acted on something, or first said this condition."""
        for one in self.of_case:
            is_condition = (
                one["type"] == "condition-changed" and one["status"] and one["condition"] == condition
            )
            if is_condition or (condition is None and one["type"] in {"stop-decided", "incarnation-ended"}):
                return float(one["at"])
        return None

    def recovered_at(self) -> float | None:
        """When the last worker became ready."""
        ready = self.of_type("incarnation-ready")
        return float(ready[-1]["at"]) if ready else None

    def told(self) -> str:
        """The case as ``nannyctl history`` tells it."""
        return "\n".join(story_line(one, PLAIN) for one in self.of_case)

    def wrong_commands(self) -> list[str]:
        """Commands that have no outcome, or more than one, in words."""
        accepted = {str(one["command"]["id"]) for one in self.whole if one["type"] == "command-accepted"}
        finished = Counter(str(one["command_id"]) for one in self.whole if one["type"] == "command-finished")
        wrong = [f"command {one} has no outcome" for one in sorted(accepted - set(finished))]
        return wrong + [f"command {one} has {times} outcomes" for one, times in finished.items() if times > 1]

    def wrong_incarnations(self) -> list[str]:
        """Incarnations that did not grow, in words."""
        started = [
            Incarnation.parse(one["incarnation"])
            for one in self.whole
            if one["type"] == "incarnation-started"
        ]
        return [
            f"incarnation {after} follows {before}" for before, after in pairwise(started) if after <= before
        ]


def read_story(node: RealNanny, last_n_before: int = 0) -> Story:
    """Read the journal's files; a directory without one is an empty story."""
    try:
        return Story(tuple(read_journal(str(node.state_dir)).records), last_n_before)
    except HostError:
        return Story((), last_n_before)
