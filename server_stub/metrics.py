"""Counts and gauges of the server, as Prometheus text.

A metric is declared here with its help or doesn't exist; counting another is a KeyError in the tests. Small
on purpose: the server's depth brings prometheus_client behind the same calls.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "nodenanny_server_"

DECLARED: Final[Mapping[str, tuple[str, str]]] = {
    "probes_total": ("counter", "Checks of /healthz, by result class."),
    "probe_tries_total": ("counter", "Single tries within checks."),
    "sync_rounds_total": ("counter", "Rounds of the connectivity syncer."),
    "sync_round_failures_total": ("counter", "Rounds that failed as a whole and were left to the next."),
    "sync_node_failures_total": ("counter", "Nodes left out of a round because judging them raised."),
    "sync_round_seconds": ("gauge", "Duration of the last round."),
    "verdicts_written_total": ("counter", "Rows changed by the syncer."),
    "verdict_conflicts_total": ("counter", "Rows that another writer had changed, judged again."),
    "nodes": ("gauge", "Nodes, by state."),
    "connections": ("gauge", "Open connections, by role."),
    "connections_refused_total": ("counter", "Connections ended by the server, by reason."),
    "protocol_violations_total": ("counter", "Frames that broke the contract, by role."),
    "messages_received_total": ("counter", "Messages delivered, by type."),
    "commands_total": ("counter", "Changes of commands, by new state."),
    "command_contradictions_total": ("counter", "Outcomes that differed from the one already stored."),
    "waiting_clients": ("gauge", "Requests that wait for a change."),
    "http_requests_total": ("counter", "Requests to the API, by status."),
}


class Metrics:
    """The values of this process."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, float]] = {name: {} for name in DECLARED}

    def count(self, name: str, by: float = 1, **label: str) -> None:
        """Add to a counter."""
        series = self._values[name]
        key = _labels(label)
        series[key] = series.get(key, 0) + by

    def set(self, name: str, value: float, **label: str) -> None:
        """Set a gauge."""
        self._values[name][_labels(label)] = value

    def value(self, name: str, **label: str) -> float:
        """Give one value, 0 if it was never touched."""
        return self._values[name].get(_labels(label), 0)

    def render(self) -> str:
        """Give all values as text in the exposition format 0.0.4."""
        lines = []
        for name, (kind, help_text) in DECLARED.items():
            lines += [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {kind}"]
            series = sorted(self._values[name].items())
            lines += [f"{PREFIX}{name}{labels} {value:g}" for labels, value in series]
        return "\n".join(lines) + "\n"


def _labels(label: Mapping[str, str]) -> str:
    if not label:
        return ""
    escaped = (
        (key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for key, value in sorted(label.items())
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"
