"""Whether the peer of an open connection is still there: pings after silence, given up after three intervals.

Any frame is a sign of life. Silence alone condemns nobody: the peer is dead only once a ping has been out
for an interval, so an end that was itself late (starved, stopped) asks before it judges.

Knows nothing of sessions, states or frames. Instants are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nanny.protocol.messages import Ping, Pong

DEAD_AFTER_INTERVALS: Final = 3


@dataclass(slots=True)
class KeepAlive:
    """The signs of life on one connection."""

    interval_s: float
    heard_at: float
    """When the last frame came."""
    _ping_at: float = field(init=False)
    _unanswered_since: float | None = None
    """When the first ping since the last frame became due."""
    _pings: int = 0
    """Nonce of the last ping that was sent."""
    _ping_due: bool = False
    _pong_due: int | None = None
    """Only the newest nonce is answered: a flood of pings costs one pong."""

    def __post_init__(self) -> None:
        self._ping_at = self.heard_at + self.interval_s

    def heard(self, now: float) -> None:
        """A frame came."""
        self.heard_at = now
        self._ping_at = now + self.interval_s
        self._unanswered_since = None
        self._ping_due = False

    def answer(self, ping: Ping) -> None:
        """The peer wants a pong."""
        self._pong_due = ping.nonce

    def is_ours(self, pong: Pong) -> bool:
        """Whether we ever sent the ping that `pong` answers."""
        return 1 <= pong.nonce <= self._pings

    def deadline(self) -> float:
        """Give when `tick` has something to do."""
        return self._ping_at if self._dead_at is None else min(self._ping_at, self._dead_at)

    def tick(self, now: float) -> bool:
        """Ask for a ping if one is due; give False if the peer is to be given up."""
        if self._dead_at is not None and now >= self._dead_at:
            return False
        if now >= self._ping_at:
            self._ping_due = True
            self._ping_at = now + self.interval_s
            if self._unanswered_since is None:
                self._unanswered_since = now
        return True

    @property
    def has_more(self) -> bool:
        """Whether `messages_to_send` would give anything."""
        return self._ping_due or self._pong_due is not None

    def messages_to_send(self) -> list[Ping | Pong]:
        """Give the pings and pongs that are due, each once."""
        due: list[Ping | Pong] = []
        if self._pong_due is not None:
            due.append(Pong(self._pong_due))
            self._pong_due = None
        if self._ping_due:
            self._pings += 1
            self._ping_due = False
            due.append(Ping(self._pings))
        return due

    @property
    def _dead_at(self) -> float | None:
        if self._unanswered_since is None:
            return None
        silent_until = self.heard_at + DEAD_AFTER_INTERVALS * self.interval_s
        return max(silent_until, self._unanswered_since + self.interval_s)
