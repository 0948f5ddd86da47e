"""What a sink raises when it doesn't take events: never, or not now.

Any other exception means "not now", too. Knows nothing of sinks or events.
"""

from __future__ import annotations


class EventsRefused(Exception):  # noqa: N818 (what it is, not what it does)
    """These events will not be taken, however often they come."""


class SinkUnavailable(Exception):  # noqa: N818 (likewise)
    """They could not be taken now."""

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        """What the receiver asked for."""
