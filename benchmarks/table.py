"""Figures as a table, for a terminal or in Markdown: ours, each peer's and the ratio, targets, misses. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures import OURS, Figure, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEAD = ("what", "who", "p50", "p99", "max", "n", "ratio", "target", "")


def rows(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """One row a figure, lines kept together in the order of their first figure; the head is not among them."""
    by_line: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        by_line.setdefault((figure.line, figure.unit), []).append(figure)
    found = []
    for (line, unit), group in by_line.items():
        ours = next((one for one in group if one.whose == OURS), None)
        for number, figure in enumerate(sorted(group, key=lambda one: one.whose != OURS)):
            what = f"{line}, {unit}" if number == 0 else ""
            found.append((what, figure.whose, *_cells(figure), ratio(figure, ours), *_verdict(figure)))
    return found


def ratio(figure: Figure, ours: Figure | None) -> str:
    """A peer's median over ours; empty where there is no such thing."""
    if figure is ours or ours is None or ours.summary is None or figure.summary is None:
        return ""
    return f"{figure.summary.p50 / ours.summary.p50:.1f} x" if ours.summary.p50 > 0 else ""


def text(figures: Iterable[Figure]) -> str:
    """For a terminal."""
    table = [HEAD, *rows(figures)]
    widths = [
        max(len(row[column]) for row in table if column < 2 or row[2] != _SAID) for column in range(len(HEAD))
    ]
    lines = []
    for row in table:
        if row[2] == _SAID:
            lines.append(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[3]}  {row[8]}".rstrip())
            continue
        cells = [
            f"{cell:{width}}" if column in {0, 1, 7, 8} else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(figures: Iterable[Figure]) -> str:
    """For a document."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for row in rows(figures):
        cells = (row[0], row[1], row[3], *[""] * 5, row[8]) if row[2] == _SAID else row
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def missed(figures: Iterable[Figure]) -> list[str]:
    """What is over its target, in words."""
    return [f"{one.line}: {why} {one.unit}" for one in figures for why in one.misses()]


_SAID = "\0"  # a row of words in place of numbers


def _cells(figure: Figure) -> Sequence[str]:
    found = figure.summary
    if found is None:
        return (_SAID, figure.words or "-", "", "")
    if found.n == 1:
        return (shown(found.p50), "", "", "1")
    return (shown(found.p50), shown(found.p99), shown(found.most), str(found.n))


def _verdict(figure: Figure) -> tuple[str, str]:
    target = ", ".join(f"{one.statistic} <= {shown(one.limit)}" for one in figure.limits)
    if not figure.limits:
        return "", figure.words if figure.summary is not None else ""
    missed_words = figure.misses()
    verdict = f"MISSED: {'; '.join(missed_words)}" if missed_words else "kept"
    remark = f" ({figure.words})" if figure.words and figure.summary is not None else ""
    return target, verdict + remark
