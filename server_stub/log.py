"""The server's log: JSON lines on stderr, one event each, with what never changes bound to all of them.

Knows nothing of what is logged. https://www.structlog.org
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str, **bound: Any) -> FilteringBoundLogger:
    """Give the server's logger.

    Args:
        level: one of LEVELS; what is below is dropped.
        bound: said in every line.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
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
