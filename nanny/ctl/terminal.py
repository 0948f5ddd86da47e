"""Where nannyctl writes: answers to stdout, progress and errors to stderr, colour only for a terminal.

NO_COLOR (https://no-color.org) and TERM=dumb are honoured, CLICOLOR_FORCE too. `visible` takes the power from
characters that would steer the terminal: much of what is shown was written by a worker or a server.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_CODES: Final = {
    "good": "32",
    "warn": "33",
    "bad": "1;31",
    "strong": "1",
    "faint": "2",
    "stopped": "1;35",
    "name": "36",
}
PHASE_STYLES: Final = {
    "running": "good",
    "starting": "name",
    "stopping": "warn",
    "degraded": "warn",
    "backoff": "warn",
    "failed": "bad",
    "down": "stopped",
}


class Paint:
    """Puts a style on a text, or leaves it alone."""

    def __init__(self, *, is_coloured: bool) -> None:
        self.is_coloured = is_coloured

    def __call__(self, style: str, text: str) -> str:
        """The text in a style of the table above; unknown and empty styles leave it as it is."""
        code = _CODES.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_coloured and code and text else text

    def phase(self, phase: str) -> str:
        """A phase in its colour; in capitals, so that it is seen without one."""
        return self(PHASE_STYLES.get(phase, ""), phase.upper())


PLAIN: Final = Paint(is_coloured=False)


class Terminal:
    """stdout and stderr of one call of nannyctl."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self._environ = os.environ if environ is None else environ
        self.paint = Paint(is_coloured=self._wants_colour(self._out))
        self.paint_err = Paint(is_coloured=self._wants_colour(self._err))
        self.is_quiet = False
        """No progress: a program listens."""
        self._transient = 0

    @property
    def is_tty(self) -> bool:
        """Whether a person reads the answers."""
        return self._out.isatty()

    def lines(self, lines: Iterable[str]) -> None:
        """Write lines of the answer."""
        self.clear_transient()
        for line in lines:
            self._out.write(line + "\n")
        self._out.flush()

    def text(self, text: str) -> None:
        """Write text of the answer as it is."""
        self.clear_transient()
        self._out.write(text)
        self._out.flush()

    def json(self, value: Any) -> None:
        """Write a value for programs, on one line where it is one of a stream."""
        import json  # noqa: PLC0415  # loaded already wherever a nanny was asked

        self.lines([json.dumps(value)])

    def progress(self, text: str) -> None:
        """Write a line about what goes on."""
        if not self.is_quiet:
            self.clear_transient()
            self._err.write(text + "\n")
            self._err.flush()

    def transient(self, text: str) -> None:
        """Show a line until the next one comes; only on a terminal."""
        if not self.is_quiet and self._err.isatty():
            shown = text[: self.width(self._err) - 1]
            self._err.write("\r" + shown + " " * max(self._transient - len(shown), 0))
            self._err.flush()
            self._transient = len(shown)

    def clear_transient(self) -> None:
        """Take the transient line away."""
        if self._transient:
            self._err.write("\r" + " " * self._transient + "\r")
            self._err.flush()
            self._transient = 0

    def error(self, message: str, advice: str = "") -> None:
        """Write what went wrong, and what to do next."""
        self.clear_transient()
        self._err.write(f"{self.paint_err('bad', 'nannyctl:')} {visible(message)}\n")
        if advice:
            self._err.write(f"  {self.paint_err('strong', 'next:')} {visible(advice)}\n")
        self._err.flush()

    def give_up_output(self) -> None:
        """Whoever read the answer has enough (| head): what Python still holds back goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, self._out.fileno())
        os.close(nowhere)

    def fresh_screen(self, lines: Sequence[str]) -> None:
        """Show these lines alone: from the top of the screen, what was below gone."""
        self.lines(["\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[K\x1b[J"])

    def width(self, stream: TextIO | None = None) -> int:
        """Columns of the terminal; 100 where there is none."""
        try:
            return os.get_terminal_size((stream or self._out).fileno()).columns or 100
        except (OSError, ValueError):
            return 100

    def _wants_colour(self, stream: TextIO) -> bool:
        environ = self._environ
        if environ.get("NO_COLOR"):
            return False
        if environ.get("CLICOLOR_FORCE", "0") != "0":
            return True
        return stream.isatty() and environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """The text on one line, with a replacement character for each that is not printable."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def visible_lines(text: str) -> str:
    """Many lines, made visible one by one; tabs stay."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for c in text.replace("\r\n", "\n")
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], paint: Paint, indent: str = ""
) -> list[str]:
    """A table without rules: each cell a (style, text); columns as wide as their widest, the last one free."""
    shown = [[(style, visible(text)) for style, text in row] for row in rows]
    widths = [max([len(title), *(len(row[at][1]) for row in shown)]) for at, title in enumerate(head)]
    lines = [indent + paint("faint", _padded(head, widths))]
    for row in shown:
        cells = [
            paint(style, text) + " " * (0 if at == len(row) - 1 else widths[at] - len(text))
            for at, (style, text) in enumerate(row)
        ]
        lines.append(indent + "  ".join(cells).rstrip())
    return lines


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
