"""What all tables of the terminal share: their frame, the colour of a word, figures that may not be known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from nanny.common.quantities import duration

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

COLOURS: Final[Mapping[str, str]] = {
    "READY": "green",
    "PENDING": "cyan",
    "DEGRADED": "yellow",
    "STALLED": "red",
    "UNREACHABLE": "red",
    "UNKNOWN": "magenta",
    "NOT_READY": "bold red",
    "DRAINING": "blue",
    "MAINTENANCE": "blue",
    "queued": "cyan",
    "sent": "cyan",
    "accepted": "cyan",
    "running": "cyan",
    "done": "green",
    "already-satisfied": "green",
    "failed": "bold red",
    "aborted": "bold red",
    "rejected": "red",
    "expired": "yellow",
    "superseded": "yellow",
    "skipped": "yellow",
    "on": "bold red",
    "off": "green",
    "lifted": "yellow",
}


def table(*columns: str, folding: Collection[str] = ()) -> Table:
    """Give a table without lines; where the terminal is too narrow, columns that fold give way first."""
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(Text(column), overflow="fold", no_wrap=bool(folding) and column not in folding)
    return made


def word(text: str) -> Text:
    """Give a state in its colour."""
    return Text(text, style=COLOURS.get(text, ""))


def plain(value: Any) -> Text:
    """Give a value as it is; nothing where it isn't known."""
    return Text("" if value is None else str(value))


def instant(text: str | None) -> Text:
    """Give an instant without its fraction of a second."""
    return Text("" if text is None else text.partition(".")[0].removesuffix("Z").replace("T", " "))


def seconds(value: float | None) -> Text:
    """Give a duration in the units that people use."""
    return Text("" if value is None else duration(value))
