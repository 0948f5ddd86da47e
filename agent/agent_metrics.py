"""Prometheus text of the agent's own parts: services, server connection, log, plugins.

Host and GPU figures are in `agent.core.metrics_text`, the vitals' own in `agent.vitals`. Exposition format 0.0.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.server_link import ServerLink
    from agent.services import ServiceRecord


def agent_metrics(
    *,
    services: Mapping[str, ServiceRecord],
    link: ServerLink | None,
    log_lines_dropped: int,
    plugins_failed: int,
) -> str:
    """The text; what is absent has no series."""
    failures = [(f'{{service="{name}"}}', record.failures_total) for name, record in services.items()]
    parts = [
        _family("service_failures_total", "counter", "Times a service failed and was restarted.", failures),
        _family("log_lines_dropped_total", "counter", "Log lines never written.", [("", log_lines_dropped)]),
        _family("plugins_failed", "gauge", "Plugins that could not be used.", [("", plugins_failed)]),
    ]
    if link is not None:
        counts = [(f'{{event="{event}"}}', count) for event, count in sorted(link.counts.items())]
        parts += [
            _family("server_registered", "gauge", "1 while registered.", [("", int(link.is_registered))]),
            _family("server_connection_events_total", "counter", "What became of connections.", counts),
        ]
    return "".join(parts)


def _family(name: str, kind: str, text: str, series: Iterable[tuple[str, int]]) -> str:
    lines = [f"nodenanny_{name}{labels} {value}\n" for labels, value in series]
    if not lines:
        return ""
    return f"# HELP nodenanny_{name} {text}\n# TYPE nodenanny_{name} {kind}\n" + "".join(lines)
