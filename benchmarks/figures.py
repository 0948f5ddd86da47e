"""What a measurement gives: figures as plain values, so that table, JSON and plots need to know no measurement.

A figure belongs to one line (what was measured, in which unit) and to one program (ours, or a peer). It holds a
summary of samples, a single value, or words where there is nothing to measure ("cannot", "not installed"). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

OURS: Final = "nodenanny"


@dataclass(frozen=True, slots=True)
class Summary:
    """Order statistics of samples, in the figure's unit."""

    p50: float
    p99: float
    least: float
    most: float
    n: int


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound of design.md section 11: `statistic` of a figure is at most `limit`."""

    statistic: str
    """``p50``, ``p99`` or ``most``."""
    limit: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One cell of the table."""

    line: str
    """What was measured."""
    unit: str
    whose: str = OURS
    summary: Summary | None = None
    words: str = ""
    """Where there is nothing to measure: why; elsewhere a remark."""
    limits: tuple[Limit, ...] = ()
    part: str = ""
    """The measurement that gave it; set by the runner."""

    def misses(self) -> list[str]:
        """The bounds that are not kept, in words."""
        if self.summary is None:
            return ["not measured"] if self.limits else []
        return [
            f"{one.statistic} {shown(getattr(self.summary, one.statistic))} > {shown(one.limit)}"
            for one in self.limits
            if getattr(self.summary, one.statistic) > one.limit
        ]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    quick: bool = False
    seed: int = 1
    tell: Callable[[str], None] = field(default=lambda _: None)
    """Progress for people."""

    def count(self, full: int, quick: int) -> int:
        """One of the two."""
        return quick if self.quick else full


Measurement = Callable[[Effort], Iterator[Figure]]


def summary(samples: list[float], scale: float = 1.0) -> Summary:
    """Order statistics of at least one sample, each times `scale` (1e3: seconds in, milliseconds out).

    Raises:
        ValueError: no sample.
    """
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(sample * scale for sample in samples)

    def at(quantile: float) -> float:
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]

    return Summary(at(0.5), at(0.99), ordered[0], ordered[-1], len(ordered))


def measured(line: str, unit: str, samples: list[float], scale: float = 1.0, **rest: Any) -> Figure:
    """A figure of samples; words where there are none."""
    if not samples:
        return Figure(line, unit, **{**rest, "words": rest.get("words") or "nothing was measured"})
    return Figure(line, unit, summary=summary(samples, scale), **rest)


def single(line: str, unit: str, value: float, **rest: Any) -> Figure:
    """A figure of one value."""
    return Figure(line, unit, summary=summary([value]), **rest)


def p50(limit: float) -> Limit:
    """The median is at most this."""
    return Limit("p50", limit)


def p99(limit: float) -> Limit:
    """The 99th percentile is at most this."""
    return Limit("p99", limit)


def most(limit: float) -> Limit:
    """No sample is above this."""
    return Limit("most", limit)


def as_json(figure: Figure) -> dict[str, Any]:
    """For the JSON file, with the verdict."""
    return {**asdict(figure), "misses": figure.misses()}


def from_json(fields: dict[str, Any]) -> Figure:
    """A figure of a JSON file."""
    known = {name: value for name, value in fields.items() if name != "misses"}
    known["summary"] = None if known["summary"] is None else Summary(**known["summary"])
    known["limits"] = tuple(Limit(**one) for one in known["limits"])
    return Figure(**known)


def shown(value: float) -> str:
    """A number with three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
