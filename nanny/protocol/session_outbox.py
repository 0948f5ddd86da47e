"""What one end still has to send: numbered messages until acknowledged, and of reports only the newest.

Numbered messages are never dropped: they are handed out once a connection, in order, without gaps, again
after each loss, until the peer says that it has them. Messages whose type is in NEWEST_ONLY carry no
number: the newest of each type waits, is handed out once and forgotten.

Knows nothing of connections, frames or time. Invariant: the numbers in `_unacknowledged` are consecutive
and end at `_last_sequence`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanny.protocol.messages import NEWEST_ONLY, ApplicationMessage

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message ready to go."""

    plain: dict[str, Any]
    """As `to_wire` gave it: a copy, which nobody changes."""
    size_bytes: int


class Outbox:
    """The messages of one end of a session that have not arrived yet, as far as this end knows."""

    def __init__(self) -> None:
        self.bytes = 0
        """Size of all numbered messages here."""
        self._unacknowledged: deque[Parcel] = deque()
        self._last_sequence = 0
        self._handed_out = 0
        """How many of `_unacknowledged` were given to the present connection."""
        self._highest_handed_out = 0
        """Over all connections of the session."""
        self._newest: dict[type[ApplicationMessage], Parcel] = {}

    def __len__(self) -> int:
        return len(self._unacknowledged)

    @property
    def has_more(self) -> bool:
        """Whether `hand_out` would give anything."""
        return bool(self._newest) or self._handed_out < len(self._unacknowledged)

    @property
    def awaits_acknowledgement(self) -> bool:
        """Whether the present connection was given something that the peer has not confirmed."""
        return self._handed_out > 0

    def put(self, kind: type[ApplicationMessage], parcel: Parcel) -> None:
        """Take a message in: numbered, or in place of an older one of its type."""
        if kind in NEWEST_ONLY:
            self._newest[kind] = parcel
            return
        self._last_sequence += 1
        self._unacknowledged.append(parcel)
        self.bytes += parcel.size_bytes

    def hand_out(self) -> Iterator[tuple[int | None, Parcel]]:
        """Give, with their numbers, the messages that the present connection has not had yet."""
        first = self._last_sequence - len(self._unacknowledged) + 1
        while self._handed_out < len(self._unacknowledged):
            sequence, parcel = first + self._handed_out, self._unacknowledged[self._handed_out]
            self._handed_out += 1
            self._highest_handed_out = max(self._highest_handed_out, sequence)
            yield sequence, parcel
        while self._newest:
            yield None, self._newest.pop(next(iter(self._newest)))

    def may_acknowledge(self, up_to: int) -> bool:
        """Whether the peer can have received all up to `up_to`, and did not have more before."""
        return self._last_sequence - len(self._unacknowledged) <= up_to <= self._highest_handed_out

    def acknowledge(self, up_to: int) -> None:
        """Forget what has arrived. `up_to` must be one that `may_acknowledge`."""
        for _ in range(up_to - (self._last_sequence - len(self._unacknowledged))):
            self.bytes -= self._unacknowledged.popleft().size_bytes
            self._handed_out = max(0, self._handed_out - 1)

    def rewind(self) -> None:
        """The connection is gone: what was handed out and not acknowledged is to be handed out again."""
        self._handed_out = 0

    def renumber(self) -> None:
        """The session is new: count from 1 again, beginning with what the old one left unacknowledged."""
        self._handed_out = 0
        self._highest_handed_out = 0
        self._last_sequence = len(self._unacknowledged)
