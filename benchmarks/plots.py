"""Which figures go into which chart of the README. Pure: figures in, files' names and texts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.figures import OURS, Figure
from benchmarks.svg import Bar, bar_of, bars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SHORT: Final[Mapping[str, str]] = {
    "SIGKILL -> /livez 200, cold": "/livez 200, cold",
    "SIGKILL -> /livez 200, standby": "/livez 200, standby",
    "SIGKILL -> READY at the server, cold": "READY at server, cold",
    "SIGKILL -> READY at the server, standby": "READY at server, standby",
    "missed beat -> verdict, idle": "idle",
    "missed beat -> verdict, every core busy": "every core busy",
}
_OWN_CHARTS: Final = (
    ("restart", "From SIGKILL of the worker to its successor", "SIGKILL -> "),
    ("detection", "How late a missed heartbeat is noticed", "missed beat -> "),
    ("healthz", "/healthz while the program does what it must not", "/healthz, "),
)
_PEER_CHARTS: Final = (
    (
        "peers-restart",
        "SIGKILL of the same tiny worker until it answers again",
        "SIGKILL of a tiny worker",
        "ms",
    ),
    ("peers-memory", "Memory of the supervisor (PSS)", "supervisor of a tiny worker: PSS", "MiB"),
    ("peers-hang", "SIGSTOP of the worker until it answers again", "SIGSTOP of a tiny worker", "ms"),
    ("dask-restart", "SIGKILL of a Dask worker until it listens again", "SIGKILL of a Dask worker", "ms"),
)
_NOTE: Final = "bar: median, whisker: 99th percentile, dashed: target"


def plots(figures: Iterable[Figure]) -> dict[str, str]:
    """File name -> SVG; charts without a value are left out."""
    found = list(figures)
    charts: dict[str, str] = {}
    for name, title, prefix in _OWN_CHARTS:
        rows = [
            bar_of(one, _SHORT.get(one.line, one.line.removeprefix(prefix)))
            for one in found
            if one.line.startswith(prefix) and one.whose == OURS and "kept" not in one.line
        ]
        _add(charts, name, title, "ms", rows, _NOTE)
    for name, title, prefix, unit in _PEER_CHARTS:
        rows = [bar_of(one, one.whose) for one in found if one.line.startswith(prefix)]
        rows.sort(key=lambda row: (not row.is_ours, row.value is None, row.value or 0))
        _add(charts, name, title, unit, rows, "bar: median, whisker: 99th percentile; one run, side by side")
    return charts


def _add(charts: dict[str, str], name: str, title: str, unit: str, rows: list[Bar], note: str) -> None:
    if any(row.value for row in rows):
        charts[f"{name}.svg"] = bars(title, unit, rows, note)
