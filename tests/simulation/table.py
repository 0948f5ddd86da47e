"""The figures of a run for people: a line while it runs, a table at its end.

Uses rich where it is installed and somebody looks; plain text otherwise. Knows nothing of how the figures came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.fleet import Told

_DAY_S = 86400.0


def span(seconds: float) -> str:
    """A time in two units: "3 y 12 d", "2 d 4 h", "1 h 12 min", "8.3 s"."""
    for unit_s, unit, part_s, part in (
        (365 * _DAY_S, "y", _DAY_S, "d"),
        (_DAY_S, "d", 3600.0, "h"),
        (3600.0, "h", 60.0, "min"),
        (60.0, "min", 1.0, "s"),
    ):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} {int(seconds % unit_s // part_s)} {part}"
    return f"{seconds:.1f} s"


def line(told: Told, faults: int) -> str:
    """How far it is."""
    done = told.faults.total()
    share = 100.0 * done / faults if faults else 100.0
    return (
        f"{share:5.1f} %  {done:,} faults  {span(told.node_s)} of nodes' time  "
        f"{told.events:,} events  {told.wall_s:.0f} s"
    )


def rows(told: Told) -> list[tuple[str, str]]:
    """What the table says."""
    wall_s = max(told.wall_s, 1e-9)
    node_time_s = told.node_s
    light = 100.0 * (1.0 - told.dark_s / node_time_s) if node_time_s else 100.0
    return [
        ("nodes", f"{told.nodes:,}"),
        ("virtual time", f"{span(told.virtual_s)}; of all nodes together {span(node_time_s)}"),
        ("wall time", f"{told.wall_s:.1f} s, {node_time_s / wall_s:,.0f} times as fast"),
        ("events", f"{told.events:,}, {told.events / wall_s:,.0f} a second"),
        ("steps of the core", f"{told.steps:,}"),
        ("checks against rules", f"{told.checks:,}"),
        ("faults injected", f"{told.faults.total():,}, {told.faults.total() / wall_s:,.0f} a second"),
        ("workers started", f"{told.lives:,}"),
        ("nannies started", f"{told.restarts:,}, {told.crashes:,} of them after a crash"),
        ("orders ended", ", ".join(f"{count:,} {name}" for name, count in sorted(told.commands.items()))),
        ("longest dark time", f"{span(told.longest_dark_s)} (under faults)"),
        ("serving while wanted up", f"{light:.2f} % of the nodes' time"),
        ("violations", (told.violation and f"{told.broken_by}: {told.violation}") or "none"),
    ]


def text(told: Told) -> str:
    """The table in plain text."""
    lines = [f"{name:<26}{value}" for name, value in rows(told)]
    lines.append("faults by kind")
    kinds = sorted(told.faults.items(), key=lambda one: (-one[1], one[0]))
    lines += [f"  {name:<24}{count:>10,}" for name, count in kinds]
    return "\n".join(lines)
