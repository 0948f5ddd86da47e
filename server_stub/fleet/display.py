"""What a simulation shows on the terminal: the second that passed while it runs, what it came to at its end.

Renders values, asks nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server_stub.fleet.conductor import Moment, Results
    from server_stub.fleet.plan import FleetPlan

_COLOURS: Final = {"READY": "green", "PENDING": "cyan", "DEGRADED": "yellow", "MAINTENANCE": "cyan"}


def moment_table(plan: FleetPlan, moment: Moment, url: str) -> Table:
    """One second, a fact a row."""
    table = Table(
        title=f"{plan.nodes} simulated nodes, {plan.connected} connected, {plan.processes} processes   {url}",
        title_justify="left",
        show_header=False,
        min_width=78,
    )
    table.add_column(style="bold")
    table.add_column()
    left = f" of {plan.seconds:.0f} s" if moment.phase == "running" else ""
    table.add_row("phase", f"{moment.phase}, {moment.at_s:.0f} s{left}")
    table.add_row("registered", f"{moment.arrived}   connections {moment.connections}")
    table.add_row("nodes", words(moment.words))
    table.add_row("probes", f"{moment.probes_per_s:.0f}/s   reports {moment.reports_per_s:.0f}/s")
    table.add_row("checks", _rates(moment.results_per_s))
    table.add_row(
        "server",
        f"CPU {_number(moment.server_cpu_percent, ' %')}   RSS {_number(moment.server_rss_mib, ' MiB')}   "
        f"/livez p99 {_number(moment.wait_p99_ms, ' ms')}   round {_milliseconds(moment.round_s)}",
    )
    table.add_row("fleet", f"CPU {moment.fleet_cpu_percent:.0f} %")
    if moment.failures:
        worst = sorted(moment.failures.items(), key=lambda item: -item[1])[:4]
        table.add_row("connections lost", ", ".join(f"{number} x {why}" for why, number in worst))
    return table


def results_table(plan: FleetPlan, results: Results) -> Table:
    """What it came to, a figure a row."""
    table = Table(
        title=f"{plan.nodes} nodes, {plan.connected} connected, over {results.seconds:.0f} s",
        title_justify="left",
        show_header=False,
        min_width=78,
    )
    table.add_column(style="bold")
    table.add_column()
    table.add_row("nodes", words(results.words))
    registering = f"{results.registering_s:.1f} s"
    if results.registering_cpu_s is not None:
        registering += (
            f", {1000 * results.registering_cpu_s / plan.nodes:.2f} ms of the server's CPU for each node"
        )
    table.add_row("registering", registering)
    table.add_row("probes", f"{results.probes}   reports {results.reports}")
    table.add_row(
        "checks", ", ".join(f"{name} {number:.0f}" for name, number in results.checks.items() if number)
    )
    if results.server_cpu_s is not None and results.seconds:
        table.add_row("server CPU", f"{100 * results.server_cpu_s / results.seconds:.1f} % of a core")
    if results.server_rss_mib is not None and results.server_rss_before_mib is not None:
        per_node = (results.server_rss_mib - results.server_rss_before_mib) * 1024 / plan.nodes
        table.add_row("server RSS", f"{results.server_rss_mib:.0f} MiB, {per_node:.1f} KiB for each node")
    table.add_row(
        "answer of /livez",
        f"p50 {_number(results.wait_p50_ms, ' ms')}   p99 {_number(results.wait_p99_ms, ' ms')}",
    )
    table.add_row("round", _milliseconds(results.round_s))
    table.add_row("rows written", _number(results.rows_written, ""))
    table.add_row("fleet CPU", f"{100 * results.fleet_cpu_s / max(results.seconds, 0.001):.1f} % of a core")
    for why, number in sorted(results.failures.items(), key=lambda item: -item[1])[:6]:
        table.add_row("connections lost", f"{number} x {why}")
    return table


def words(found: Mapping[str, float]) -> str:
    """Nodes by word, the empty ones left out."""
    shown = [
        f"[{_COLOURS.get(word, 'red')}]{word}[/] {number:.0f}" for word, number in found.items() if number
    ]
    return "   ".join(shown) or "-"


def _rates(found: Mapping[str, float]) -> str:
    return "   ".join(f"{name} {rate:.1f}/s" for name, rate in sorted(found.items())) or "-"


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f}{unit}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
