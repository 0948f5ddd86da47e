"""The nanny's counters by name: what happened since it started, as plain numbers for whoever renders them.

Fed by the records that the core makes, so nothing is counted that is not on record. Link renders them as
Prometheus text on an endpoint of its own, so that they exist while no worker lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanny.core.records import (
    CommandFinished,
    EvidenceSaved,
    IncarnationEnded,
    IncarnationFenced,
    IncarnationStarted,
)

if TYPE_CHECKING:
    from nanny.core.records import Record
    from nanny.core.state import NannyState


class Counters:
    """Counts records and steps."""

    def __init__(self) -> None:
        self.incarnations = 0
        self.ends: dict[str, int] = {}
        self.outcomes: dict[str, int] = {}
        self.evidence = {"saved": 0, "failed": 0}
        self.fenced = 0

    def observe(self, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:  # noqa: ARG002
        """Take one step's records in."""
        for record in records:
            match record:
                case IncarnationStarted():
                    self.incarnations += 1
                case IncarnationEnded(_, reason):
                    self.ends[reason] = self.ends.get(reason, 0) + 1
                case IncarnationFenced():
                    self.fenced += 1
                case CommandFinished(outcome=outcome):
                    self.outcomes[str(outcome)] = self.outcomes.get(str(outcome), 0) + 1
                case EvidenceSaved(bundle=bundle):
                    self.evidence["saved" if bundle else "failed"] += 1
                case _:
                    pass

    def as_json(self) -> dict[str, Any]:
        """All counters."""
        return {
            "incarnations_total": self.incarnations,
            "ends_total": self.ends,
            "command_outcomes_total": self.outcomes,
            "evidence_total": self.evidence,
            "fenced_total": self.fenced,
        }
