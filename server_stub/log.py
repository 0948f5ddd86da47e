"""The server's log: JSON lines on stderr, one event each, with what never changes bound to all of them.

Knows nothing of what is logged. https://www.structlog.org
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LEVELS = ("debug", "info", "warning", "error")


class _Outlet:
    """Stderr, or nowhere once nobody reads it: a line that cannot be written must end no loop of the server."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Have it out."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure(level: str, **bound: Any) -> FilteringBoundLogger:
    """Give the server's logger.

    Args:
        level: one of LEVELS; what is below is dropped.
        bound: said in every line.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(_Outlet(sys.stderr)),  # type: ignore[arg-type]
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        **bound,
    )
    return logger
