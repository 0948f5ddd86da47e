"""What the worker tells: samples in; conditions, the vitals' snapshot and reports to the server out.

Two services. `run_telemetry` samples, judges and publishes; `run_reports` sends each `report_interval_s`, and at
once when something changed: a condition, an incident in the kernel log, a new connection. A report is always
made of the newest that is known, so whatever a dead server missed costs nothing later.

Doesn't know how a sample is taken, what conditions mean, or how reports travel.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from agent.core.conditions import Conditions, observe
from agent.core.metrics_text import render_metrics
from agent.core.readings import driver_children_stuck, readings_of
from agent.services import pause
from agent.vitals.snapshot import ActiveCondition, Check, Snapshot
from nanny.protocol.messages import ConditionStatus, WorkerReport, shown_wall_clock_s
from nanny.protocol.session_events import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.kernel_log import KernelIncident
    from agent.registration import RegistrationSource
    from agent.server_link import ServerLink
    from agent.services import Progress
    from agent.telemetry.collector import Collector
    from agent.vitals.thread import Vitals

_INCIDENTS_KEPT: Final = 16
_SECOND_SAMPLE_S: Final = 1.0
"""After the first: shares of time need two."""
_CHANGE_GAP_S: Final = 0.2
"""Between two reports, however much changes."""
_INCIDENTS: Final = (
    "# HELP nodenanny_kernel_incidents_total Incidents read in the kernel log.\n"
    "# TYPE nodenanny_kernel_incidents_total counter\n"
    "nodenanny_kernel_incidents_total {}\n"
)


class Reporter:
    """Holds the newest sample and the conditions drawn from all of them."""

    def __init__(
        self,
        *,
        vitals: Vitals,
        collector: Collector,
        registration: RegistrationSource,
        link: ServerLink | None,
        sample_interval_s: float,
        is_supervised_by_nanny: bool,
        more_metrics: Callable[[], str],
    ) -> None:
        """Report nothing yet.

        Args:
            vitals: gets the snapshots.
            collector: takes samples.
            registration: learns from them what the node has.
            link: where reports go; None for a node that works alone.
            sample_interval_s: between samples.
            is_supervised_by_nanny: beats that reach nobody are a condition.
            more_metrics: Prometheus text of what else there is.
        """
        self._vitals = vitals
        self._collector = collector
        self._registration = registration
        self._link = link
        self._sample_interval_s = sample_interval_s
        self._is_supervised = is_supervised_by_nanny
        self._more_metrics = more_metrics
        self._log = structlog.get_logger()
        self._conditions = Conditions()
        self._sample: dict[str, Any] | None = None
        self._incidents: deque[dict[str, Any]] = deque(maxlen=_INCIDENTS_KEPT)
        self._incidents_total = 0
        self._changed = asyncio.Event()
        self._seq = 0
        self._started = False
        if link is not None:
            link.on_change = self._on_link_change

    def started(self) -> None:
        """The services run: READY=1 goes to the supervisor."""
        self._started = True
        self._publish()

    def note(self, incident: KernelIncident) -> None:
        """Take an incident of the kernel log; called in the loop, returns at once."""
        self._incidents_total += 1
        facts = {
            "kind": incident.kind.value,
            "code": incident.code,
            "pci_bus_id": incident.pci_bus_id,
            "pid": incident.pid,
            "task": incident.task,
            "since_boot_s": incident.record.since_boot_s,
            "text": incident.record.text,
        }
        self._incidents.append({key: value for key, value in facts.items() if value is not None})
        self._log.warning("kernel log", kind=incident.kind.value, text=incident.record.text)
        self._changed.set()

    async def run_telemetry(self, progress: Progress) -> None:
        """Sample at each interval, for ever."""
        while True:
            began_at = time.monotonic()
            sample = await self._collector.sample()
            progress.touch()
            self._take(sample)
            interval_s = self._sample_interval_s
            if sample["samples_total"] == 1:
                interval_s = min(interval_s, _SECOND_SAMPLE_S)
            await pause(interval_s - (time.monotonic() - began_at), progress)

    async def run_reports(self, progress: Progress) -> None:
        """Send reports at each interval and on change, for ever."""
        while True:
            progress.touch()
            self._changed.clear()
            interval_s = self._sample_interval_s
            if self._link is not None:
                interval_s = self._link.report_interval_s
                self._link.refresh_registration()
                self._report(self._link)
            if await pause(interval_s, progress, self._changed):
                await pause(_CHANGE_GAP_S, progress)

    # Samples

    def _take(self, sample: dict[str, Any]) -> None:
        self._sample = sample
        self._registration.learn(sample)
        unheard = self._vitals.beats_unheard if self._is_supervised else None
        readings = readings_of(sample, nanny_beat_failures=unheard)
        now = time.monotonic()
        self._conditions, changes = observe(
            self._conditions, readings, now, time.clock_gettime(time.CLOCK_BOOTTIME)
        )
        for change in changes:
            self._log.warning(
                "condition changed",
                type=change.after.type.value,
                status=change.after.status.value,
                reason=change.after.reason,
                message=change.after.message,
            )
        self._publish()
        if changes or sample["samples_total"] <= 2:
            self._changed.set()

    def _publish(self) -> None:
        sample = self._sample
        metrics, stuck = self._vitals.snapshot.metrics_text, 0
        if sample is not None:
            metrics = render_metrics(sample) + _INCIDENTS.format(self._incidents_total) + self._more_metrics()
            stuck = driver_children_stuck(sample["probes"]["stuck"])
        readiness = [Check("sampled", sample is not None, "" if sample is not None else "no sample yet")]
        is_registered = True
        if self._link is not None:
            is_registered = self._link.is_registered
            readiness.append(
                Check("registered", is_registered, "" if is_registered else "not registered with the server")
            )
        holding = tuple(
            ActiveCondition(condition.type.value, condition.message)
            for condition in self._conditions.current.values()
            if condition.status is ConditionStatus.TRUE
        )
        status_text = "registered" if is_registered and self._link is not None else "running"
        if not is_registered:
            status_text = "not connected to the server"
        if holding:
            status_text += "; " + ", ".join(condition.type for condition in holding)
        self._vitals.publish(
            Snapshot(
                started=self._started,
                readiness=tuple(readiness),
                conditions=holding,
                metrics_text=metrics,
                stuck_probes=stuck,
                status_text=status_text if self._started else "starting",
                phase="running" if self._started else "starting",
            )
        )

    # Reports

    def _on_link_change(self) -> None:
        self._publish()
        self._changed.set()

    def _report(self, link: ServerLink) -> None:
        if not link.is_open:
            return
        self._seq += 1
        now = time.monotonic()
        telemetry = dict(self._sample or {})
        if self._incidents:
            telemetry["incidents"] = list(self._incidents)
            telemetry["incidents_total"] = self._incidents_total
        report = WorkerReport(
            seq=self._seq,
            loop_lag_s=self._vitals.take_worst_loop_lag_s(),
            telemetry=telemetry,
            conditions=tuple(condition.to_wire_part(now) for condition in self._conditions.current.values()),
            wall_clock_s=shown_wall_clock_s(time.time()),
        )
        try:
            link.send_report(report)
        except LocalError as error:
            # One figure that the contract has no room for must not silence the node.
            self._log.error("telemetry cannot be sent", reason=str(error)[:256])
            link.send_report(replace(report, telemetry={"unsendable": str(error)[:256]}))
