"""The server's metrics, declared in one table and kept by prometheus_client in a registry of the server's own.

A metric is declared here with its kind, help and label names, or doesn't exist: counting another, or with
other labels, is an error in the tests. Names follow Prometheus' rules (`promtool check metrics`).
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from server_stub.process_metrics import ProcessMetrics
from server_stub.store.engine import WriteEnd

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "nodenanny_server_"

SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets of what takes milliseconds, in seconds."""
LONG_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Buckets of what people and restarts take."""

DECLARED: Final[Mapping[str, tuple[str, ...]]] = {
    "probes_total": ("counter", "Checks of /healthz, by result class.", "result"),
    "probe_tries_total": ("counter", "Single tries within checks."),
    "probes_late_total": ("counter", "Checks that began more than a second after their turn."),
    "probes_under_way": ("gauge", "Checks that have not ended, at the last round."),
    "probe_duration_seconds": ("histogram", "How long a check took, its tries together.", "result"),
    "sync_rounds_total": ("counter", "Rounds of the connectivity syncer."),
    "sync_round_failures_total": ("counter", "Rounds that failed as a whole and were left to the next."),
    "sync_round_overruns_total": ("counter", "Rounds that took longer than the interval."),
    "sync_node_failures_total": ("counter", "Nodes left out of a round because judging them raised."),
    "sync_round_duration_seconds": ("histogram", "How long a round took."),
    "verdicts_written_total": ("counter", "Rows changed by the syncer."),
    "verdict_conflicts_total": ("counter", "Rows that another writer had changed, judged again."),
    "sightings_written_total": ("counter", "Last-seen times written, one for each node and flush."),
    "sighting_failures_total": ("counter", "Flushes of last-seen times that failed; their times come again."),
    "loop_lag_seconds": ("gauge", "How late the server's event loop last was."),
    "database_writes_total": ("counter", "Transactions that were committed, by operation.", "operation"),
    "database_write_failures_total": ("counter", "Transactions that failed, by operation.", "operation"),
    "database_write_conflicts_total": (
        "counter",
        "Transactions in which another writer was faster, by operation; tried again.",
        "operation",
    ),
    "brake_on": ("gauge", "1 while a brake is on, by brake.", "brake"),
    "demotions_withheld_total": ("counter", "Nodes that the demotion brake kept at their word."),
    "repairs_total": ("counter", "Repairs ordered, or in a dry run only said, by mode.", "mode"),
    "repairs_withheld_total": ("counter", "Repairs that something spoke against, by what.", "why"),
    "repair_failures_total": ("counter", "Turns of the repair policy that failed and are taken again."),
    "nodes": ("gauge", "Nodes, by state.", "state"),
    "connections": ("gauge", "Open connections, by role.", "role"),
    "connections_refused_total": ("counter", "Connections ended by the server, by reason.", "reason"),
    "protocol_violations_total": ("counter", "Frames that broke the contract, by role.", "role"),
    "messages_received_total": ("counter", "Messages delivered, by type.", "type"),
    "commands_total": ("counter", "Changes of commands, by new state.", "state"),
    "command_duration_seconds": ("histogram", "From order to outcome, by outcome.", "outcome"),
    "events_dropped_total": ("counter", "Events that were too old or too many for the log."),
    "event_retention_failures_total": ("counter", "Times that old events could not be dropped."),
    "sink_events_total": (
        "counter",
        "Events that a sink has taken, or refused for good, by outcome.",
        "outcome",
        "sink",
    ),
    "sink_failures_total": ("counter", "Deliveries that a sink did not take, and that are repeated.", "sink"),
    "sink_events_missed_total": (
        "counter",
        "Events dropped from the log before the sink took them.",
        "sink",
    ),
    "sink_events_behind": ("gauge", "How far a sink's cursor is behind the newest event.", "sink"),
    "command_contradictions_total": ("counter", "Outcomes that differed from the one already stored."),
    "command_delivery_failures_total": (
        "counter",
        "Deliveries that failed in the server and are tried again.",
    ),
    "evidence_refused_total": ("counter", "Summaries of evidence above what one node may tell in an hour."),
    "waiting_clients": ("gauge", "Requests that wait for a change."),
    "http_requests_total": ("counter", "Requests to the API, by status.", "status"),
}
"""By name: kind, help, and the names of its labels."""

_BUCKETS: Final[Mapping[str, tuple[float, ...]]] = {"command_duration_seconds": LONG_S}


class Metrics:
    """The values of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._registry.register(ProcessMetrics())
        self._by_name = {name: _made(name, declared, self._registry) for name, declared in DECLARED.items()}
        self._series: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}

    def count(self, name: str, by: float = 1, **label: str) -> None:
        """Add to a counter."""
        counter = self._labelled(name, label) if label else self._by_name[name]
        assert isinstance(counter, Counter), name
        counter.inc(by)

    def set(self, name: str, value: float, **label: str) -> None:
        """Set a gauge."""
        gauge = self._labelled(name, label) if label else self._by_name[name]
        assert isinstance(gauge, Gauge), name
        gauge.set(value)

    def observe(self, name: str, value: float, **label: str) -> None:
        """Add one value to a histogram."""
        histogram = self._labelled(name, label) if label else self._by_name[name]
        assert isinstance(histogram, Histogram), name
        histogram.observe(value)

    def _labelled(self, name: str, label: dict[str, str]) -> Counter | Gauge | Histogram:
        """Give the series of these labels; looked up here, for the library's own way costs several times as much."""
        key = (name, *label.items())
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = self._by_name[name].labels(**label)
        return found

    def write_ended(self, end: WriteEnd, operation: str) -> None:
        """Count a transaction of the database."""
        match end:
            case WriteEnd.COMMITTED:
                self.count("database_writes_total", operation=operation)
            case WriteEnd.CONFLICT:
                self.count("database_write_conflicts_total", operation=operation)
            case WriteEnd.FAILED:
                self.count("database_write_failures_total", operation=operation)

    def value(self, name: str, **label: str) -> float:
        """Give one value, 0 if it was never touched; of a histogram, the number of its observations."""
        sample = f"{name}_count" if DECLARED[name][0] == "histogram" else name
        return self._registry.get_sample_value(PREFIX + sample, label) or 0.0

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Give all values in the format that the scraper's Accept header asks for, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


def _made(name: str, declared: tuple[str, ...], registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    kind, help_text, *labels = declared
    match kind:
        case "counter":
            return Counter(PREFIX + name, help_text, labels, registry=registry)
        case "gauge":
            return Gauge(PREFIX + name, help_text, labels, registry=registry)
        case "histogram":
            buckets = _BUCKETS.get(name, SHORT_S)
            return Histogram(PREFIX + name, help_text, labels, registry=registry, buckets=buckets)
        case _:
            raise ValueError(f"{name}: no such kind of metric as {kind}")
