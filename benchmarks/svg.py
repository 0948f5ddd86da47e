"""Bars with whiskers as SVG: p50 as the bar, p99 as the whisker, the target as a line; for light and dark pages.

One file needs nothing else: its own style follows the reader's colour scheme, its background is transparent. The
scale is linear, or logarithmic where the figures differ by more than a factor of thirty. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from benchmarks.figures import OURS, Figure, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH: Final = 760
_LABEL_WIDTH: Final = 250
_RIGHT: Final = 120
_ROW: Final = 26
_TOP: Final = 56
_FOOT: Final = 34
_LOG_FROM: Final = 30.0

_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 } .note { fill: #57606a; font-size: 11px }
.ours { fill: #1a7f64 } .peer { fill: #8c959f } .whisker, .axis { stroke: #57606a; stroke-width: 1.2; fill: none }
.grid { stroke: #8c959f; stroke-opacity: .35; stroke-width: 1 }
.target { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 5 3 } .targettext { fill: #cf222e; font-size: 11px }
@media (prefers-color-scheme: dark) {
 text { fill: #e6edf3 } .note { fill: #9198a1 } .ours { fill: #3fb98f } .peer { fill: #6e7681 }
 .whisker, .axis { stroke: #9198a1 } .target { stroke: #ff7b72 } .targettext { fill: #ff7b72 }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a chart."""

    label: str
    value: float | None
    """None: there is nothing to draw, and `words` say why."""
    high: float | None = None
    words: str = ""
    is_ours: bool = True
    target: float | None = None


def bars(title: str, unit: str, rows: Sequence[Bar], note: str = "") -> str:
    """A chart as the text of an SVG file.

    Raises:
        ValueError: no row has a value.
    """
    values = [one for row in rows for one in (row.value, row.high, row.target) if one is not None and one > 0]
    if not values:
        raise ValueError("nothing to draw")
    scale = _Scale(min(values), max(values))
    bottom = _TOP + _ROW * len(rows)
    height = bottom + _FOOT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" role="img" aria-label="{escape(title)}">'
        ),
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
        f'<text class="note" x="10" y="40">{escape(note)}</text>',
    ]
    for tick in scale.ticks:
        x = scale.x(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP - 4}V{bottom + 2}"/>')
        parts.append(
            f'<text class="note" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{shown(tick)}</text>'
        )
    scale_words = f"{unit}, logarithmic" if scale.is_log else unit
    parts.append(
        f'<text class="note" x="{_WIDTH - 10}" y="{bottom + 30}" text-anchor="end">{escape(scale_words)}</text>'
    )
    for number, row in enumerate(rows):
        parts += _row(row, _TOP + _ROW * number, scale)
    parts.append(f'<path class="axis" d="M{_LABEL_WIDTH} {_TOP - 4}V{bottom + 2}"/></svg>\n')
    return "\n".join(parts)


def bar_of(figure: Figure, label: str = "") -> Bar:
    """A figure as a row: its median, its 99th percentile, its first bound."""
    found = figure.summary
    return Bar(
        label or (figure.line if figure.whose == OURS else figure.whose),
        None if found is None else found.p50,
        None if found is None or found.n == 1 else found.p99,
        figure.words if found is None else "",
        figure.whose == OURS,
        figure.limits[0].limit if figure.limits else None,
    )


class _Scale:
    """Values to pixels."""

    def __init__(self, least: float, most: float) -> None:
        self.is_log = most / least > _LOG_FROM
        self._low = 10 ** math.floor(math.log10(least)) if self.is_log else 0.0
        # An axis from one decade below: the shortest bar is still a bar.
        if self.is_log and least < self._low * 1.5:
            self._low /= 2
        self._high = most * 1.05
        self.ticks = self._decades() if self.is_log else self._steps()

    def _decades(self) -> list[float]:
        first, last = math.ceil(math.log10(self._low)), math.floor(math.log10(self._high))
        return [10.0**power for power in range(first, last + 1)]

    def _steps(self) -> list[float]:
        rough = self._high / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [step * number for number in range(int(self._high / step) + 1)]

    def x(self, value: float) -> float:
        """Where a value lies; what is below the axis lies on it."""
        if self.is_log:
            share = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        else:
            share = value / self._high
        return _LABEL_WIDTH + max(share, 0.0) * (_WIDTH - _LABEL_WIDTH - _RIGHT)


def _row(row: Bar, top: float, scale: _Scale) -> list[str]:
    middle = top + _ROW / 2
    label = f'<text x="{_LABEL_WIDTH - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.label)}</text>'
    if row.value is None:
        words = f'<text class="note" x="{_LABEL_WIDTH + 8}" y="{middle + 4:.1f}">{escape(row.words)}</text>'
        return [label, words]
    kind = "ours" if row.is_ours else "peer"
    end = scale.x(row.value)
    width = max(end - _LABEL_WIDTH, 1.0)
    parts = [
        label,
        f'<rect class="{kind}" x="{_LABEL_WIDTH}" y="{top + 5}" width="{width:.1f}" height="{_ROW - 10}" rx="2"/>',
    ]
    said = shown(row.value)
    if row.high is not None:
        high = scale.x(row.high)
        parts.append(
            f'<path class="whisker" d="M{end:.1f} {middle}H{high:.1f}M{high:.1f} {top + 8}v{_ROW - 16}"/>'
        )
        said += f" ({shown(row.high)})"
        end = max(end, high)
    if row.target is not None:
        x = scale.x(row.target)
        parts.append(f'<path class="target" d="M{x:.1f} {top + 2}v{_ROW - 4}"/>')
        end = max(end, x)
    parts.append(f'<text class="note" x="{end + 7:.1f}" y="{middle + 4:.1f}">{said}</text>')
    return parts
