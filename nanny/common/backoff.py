"""How long to wait before the next attempt: exponential, with full jitter and a ceiling.

A fleet that lost its server together must not come back together: the wait is drawn evenly from the whole
window, and a server that names a time is obeyed and spread *after* it, never before.

Pure: no clock, no randomness of its own; the caller passes a float in [0, 1). Retry-After: RFC 9110 10.2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RETRY_AFTER_LIMIT_S: Final = 3600.0
"""The longest time that a server can send us away for: a wrong header must not lose a node for a week."""

_RETRY_AFTER_SPREAD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that grow from `base_s` by `factor` up to `ceiling_s`.

    Raises:
        ValueError: The numbers describe no growth: a base of 0 or less, a ceiling below it, a factor below 1.
    """

    base_s: float
    ceiling_s: float
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.base_s <= self.ceiling_s and self.factor >= 1):
            raise ValueError(f"backoff needs 0 < base_s <= ceiling_s and factor >= 1, not {self}")

    def window_s(self, attempt: int) -> float:
        """The longest wait after this many failures in a row, counted from 1."""
        try:
            grown_s = self.base_s * self.factor ** max(attempt - 1, 0)
        except OverflowError:
            return self.ceiling_s
        return min(grown_s, self.ceiling_s)

    def next(self, attempt: int, unit_random: float, retry_after_s: float | None = None) -> float:
        """The seconds to wait after the failure number `attempt` (from 1).

        Args:
            attempt: Failures in a row, this one included.
            unit_random: Drawn evenly from [0, 1).
            retry_after_s: What the server asked for. Counted up to an hour; the wait is then that time and up
                to half of it more, or the window more where that is longer. A time that is none (negative,
                NaN) is disregarded.
        """
        window_s = self.window_s(attempt)
        if retry_after_s is None or not retry_after_s >= 0:
            return window_s * unit_random
        asked_s = min(retry_after_s, RETRY_AFTER_LIMIT_S)
        return asked_s + max(asked_s * _RETRY_AFTER_SPREAD, window_s) * unit_random
