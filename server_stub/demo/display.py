"""What the demo shows on the terminal: the node live, and the table of faults. Renders values, asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server_stub.demo.faults import Healed

_COLOURS = {
    "READY": "green",
    "running": "green",
    "degraded": "yellow",
    "starting": "yellow",
    "DEGRADED": "yellow",
}


def node_table(node: dict[str, Any] | None, nanny: dict[str, Any] | None, url: str) -> Table:
    """One node, a fact a row."""
    table = Table(
        title=f"nodenanny demo   {url}/v1/nodes", show_header=False, title_justify="left", min_width=72
    )
    table.add_column(style="bold")
    table.add_column()
    if node is None or nanny is None:
        table.add_row("node", "[yellow]not there yet" if node is None else "[red]the nanny does not answer")
        return table
    state, phase = node["state"], nanny["phase"]
    worker, last = nanny["worker"], nanny["last_restart"]
    table.add_row(
        "node", f"{node['name']}  [{_COLOURS.get(state, 'red')}]{state}[/] {node['state_message'] or ''}"
    )
    table.add_row("phase", f"[{_COLOURS.get(phase, 'red')}]{phase}[/]  {nanny['because'][0]}")
    table.add_row("incarnation", f"{nanny['incarnation']}  pid {worker['pid']}")
    beat = "-" if worker["beat_age_s"] is None else f"{worker['beat_age_s']:.1f} s ago"
    table.add_row("last beat", f"{beat}   loop lag {worker['loop_lag_s'] * 1000:.0f} ms")
    table.add_row("CPU", _cpu(node))
    table.add_row("memory", _memory(node))
    for row in _gpus(node):
        table.add_row("GPU", row)
    restart = "none" if last is None else f"{last['age_s']:.0f} s ago: {last['reason']}, {last['detail']}"
    table.add_row("last restart", restart)
    table.add_row("next step", f"{nanny['next_step']}")
    for one in nanny["conditions"]:
        table.add_row("condition", f"[yellow]{one['type']}[/] {one['message']}")
    return table


def _cpu(node: dict[str, Any]) -> str:
    cpu = node["cpu"] or {}
    busy = cpu.get("busy_ratio")
    return "-" if busy is None else f"{busy * 100:.0f} % of {cpu.get('cores')} cores"


def _memory(node: dict[str, Any]) -> str:
    memory = node["memory"] or {}
    total, used = memory.get("total_bytes"), memory.get("used_bytes")
    return "-" if not total or used is None else f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB used"


def _gpus(node: dict[str, Any]) -> list[str]:
    return [_gpu(gpu) for gpu in (node["gpus"] or []) if isinstance(gpu, dict)]


def _gpu(gpu: dict[str, Any]) -> str:
    if "state" in gpu:
        return f"{gpu.get('index')}  [red]{gpu['state']}[/] {gpu.get('error', '')}"
    busy, used = gpu.get("utilization_ratio"), gpu.get("memory_used_bytes")
    parts = [f"{gpu.get('index')}  {gpu.get('name')}"]
    if busy is not None:
        parts.append(f"{busy * 100:.0f} %")
    if used is not None:
        parts.append(f"{used / 2**30:.1f} GiB used")
    return "  ".join(parts)


def fault_table(healed: Iterable[Healed]) -> Table:
    """One line for each fault done."""
    table = Table(title="faults", title_justify="left")
    for column in ("what was done", "time", "how it was detected", "by whom", "READY after", "verdict"):
        table.add_column(column, overflow="fold")
    for one in healed:
        colour = "green" if one.ready_after_s is not None else "red"
        after = "-" if one.ready_after_s is None else f"{one.ready_after_s:.2f} s"
        table.add_row(
            one.fault, str(one.time), one.detected, one.detected_by, after, f"[{colour}]{one.verdict}[/]"
        )
    return table
