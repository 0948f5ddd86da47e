"""What has come from each node since this process started, with the monotonic time of its coming.

One place in memory that the connections and the prober write and the syncer and the API read: reports, the
state of both connections, the newest probe. Nothing here survives the process, and nothing has to: what
must is in the database. Ages that nodes report become instants of the server's clock at their arrival.
Knows no thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nanny.protocol.messages import ConditionStatus, Desired, NannyReport, Role, WorkerReport
from server_stub.core.connectivity import FAILED, GOOD_AGAIN
from server_stub.core.node_facts import ANSWERED, ConnectionFact, NannyFact, NodeFacts, ProbeFact, Stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nanny.protocol.incarnation import Incarnation
    from nanny.protocol.messages import Condition


@dataclass(slots=True)
class Arrivals:
    """Of one node. Invariant: every instant is <= now."""

    listening_since_at: float
    link: ConnectionFact | None = None
    worker: ConnectionFact | None = None
    probe: ProbeFact | None = None
    nanny: NannyFact | None = None
    nanny_report: NannyReport | None = None
    worker_report: WorkerReport | None = None
    worker_report_at: float | None = None
    worker_conditions: tuple[str, ...] = ()
    registered_incarnation: Incarnation | None = None
    reborn_at: float | None = None
    answered_at: float | None = None
    failed_at: float | None = None

    def opened(self, role: Role, now: float) -> None:
        """One of the node's connections is open and has spoken."""
        self._set(role, ConnectionFact(is_open=True, changed_at=now, heard_at=now))

    def heard(self, role: Role, now: float) -> None:
        """Something came on a connection."""
        connection = self.worker if role is Role.WORKER else self.link
        if connection is not None:
            self._set(role, replace(connection, heard_at=now))

    def closed(self, role: Role, now: float) -> None:
        """A connection is gone."""
        connection = self.worker if role is Role.WORKER else self.link
        if connection is not None:
            self._set(role, replace(connection, is_open=False, changed_at=now))

    def _set(self, role: Role, connection: ConnectionFact) -> None:
        if role is Role.WORKER:
            self.worker = connection
        else:
            self.link = connection

    def registered(self, incarnation: Incarnation | None, now: float, *, is_reborn: bool) -> None:
        """A registration was stored."""
        self.registered_incarnation = incarnation
        if is_reborn:
            self.reborn_at = now

    def probed(self, probe: ProbeFact) -> None:
        """A check has ended; `since_at` is kept while its class stays the same, good ones in a row are counted."""
        before = self.probe
        since_at, good_in_row, good_before_at = probe.since_at, int(probe.is_good), None
        if before is not None:
            since_at = before.since_at if before.result is probe.result else since_at
            if probe.is_good and before.good_in_row:
                good_in_row, good_before_at = before.good_in_row + 1, before.at
        self.probe = replace(probe, since_at=since_at, good_in_row=good_in_row, good_before_at=good_before_at)
        if probe.result in ANSWERED:
            self.answered_at = probe.at
        if self.probe.good_in_row >= GOOD_AGAIN:
            self.failed_at = None

    def nanny_reported(self, report: NannyReport, now: float) -> None:
        """The nanny's view came by link."""
        before = self.nanny
        same = before is not None and (before.phase, before.incarnation) == (report.phase, report.incarnation)
        if report.phase == FAILED:
            self.failed_at = now
            if self.probe is not None:
                self.probe = replace(self.probe, good_in_row=0)
        self.nanny_report = report
        self.nanny = NannyFact(
            phase=report.phase,
            desired_down=report.desired is Desired.DOWN,
            desired_by=report.desired_by,
            desired_reason=report.desired_reason,
            desired_since_at=_since_at(now - report.desired_since_s, before, report),
            draining=report.draining,
            incarnation=report.incarnation,
            conditions=_that_hold(report.conditions, journal_degraded=report.journal_degraded),
            at=now,
            phase_since_at=before.phase_since_at if before is not None and same else now,
            reborn_at=_reborn_at(before, report, now),
        )

    def worker_reported(self, report: WorkerReport, now: float) -> None:
        """The worker's view came by its own connection."""
        self.worker_report, self.worker_report_at = report, now
        self.worker_conditions = _that_hold(report.conditions)

    def facts(self, stored: Stored, maintenance_until_at: float | None = None) -> NodeFacts:
        """Give all that a verdict is made from.

        Args:
            stored: what the database says.
            maintenance_until_at: when its maintenance ends by itself, by the monotonic clock.
        """
        return NodeFacts(
            stored=stored,
            listening_since_at=self.listening_since_at,
            probe=self.probe,
            worker=self.worker,
            link=self.link,
            nanny=self.nanny,
            registered_incarnation=self.registered_incarnation,
            reborn_at=self.reborn_at,
            worker_conditions=self.worker_conditions,
            answered_at=self.answered_at,
            failed_at=self.failed_at,
            maintenance_until_at=maintenance_until_at,
        )


def _since_at(reported_at: float, before: NannyFact | None, report: NannyReport) -> float:
    """Keep the first instant told for an unchanged order: ages jitter on their way, since-times must not."""
    told = (report.desired is Desired.DOWN, report.desired_by, report.desired_reason)
    if before is not None and told == (before.desired_down, before.desired_by, before.desired_reason):
        return before.desired_since_at
    return reported_at


def _reborn_at(before: NannyFact | None, report: NannyReport, now: float) -> float | None:
    if before is None or report.incarnation is None:
        return None if before is None else before.reborn_at
    if before.incarnation == report.incarnation:
        return before.reborn_at
    return now


def _that_hold(conditions: Iterable[Condition], *, journal_degraded: bool = False) -> tuple[str, ...]:
    """Give the types of the conditions that are True; True is trouble, as with node-problem-detector."""
    holding = {condition.type for condition in conditions if condition.status is ConditionStatus.TRUE}
    if journal_degraded:
        holding.add("JournalDegraded")
    return tuple(sorted(holding))


class ArrivalsByNode:
    """The fleet's arrivals. A node first met now is listened to from now on."""

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._by_node: dict[str, Arrivals] = {}

    def of(self, node_id: str) -> Arrivals:
        """Give the node's arrivals; a node known from the database was listened for since the start."""
        found = self._by_node.get(node_id)
        if found is None:
            found = self._by_node[node_id] = Arrivals(self._started_at)
        return found

    def excuse(self, now: float, lag_s: float, offline_timeout_s: float) -> None:
        """We ourselves stood still for so long: the silence of whoever was there before counts for nothing."""
        for one in self._by_node.values():
            signs = [connection.heard_at for connection in (one.worker, one.link) if connection is not None]
            if one.answered_at is not None:
                signs.append(one.answered_at)
            if signs and max(signs) >= now - lag_s - offline_timeout_s:
                one.listening_since_at = now

    def all(self) -> list[tuple[str, Arrivals]]:
        """Give every node that anything came from, as of now."""
        return list(self._by_node.items())

    def forget(self, node_id: str) -> None:
        """Keep nothing of a node that was deleted."""
        self._by_node.pop(node_id, None)
