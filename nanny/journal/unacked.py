"""What the journal was asked to keep and has not yet acknowledged: in order, bounded.

Records wait by their ticket; a snapshot waits behind the last record that it stands for. What was handed out
as packets is kept until it is acknowledged, and handed out again for the next writer. Pure: knows neither
sockets nor clocks.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from nanny.journal.packets import PACKET_BYTES, Append, CompactPiece, encode, pieces
from nanny.journal.records_file import render_line

MAX_UNACKED_RECORDS = 4_096
MAX_UNACKED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record by its ticket, or (with `snapshot`) the records that stand for all up to it."""

    ticket: int
    at: float
    body: bytes
    snapshot: tuple[bytes, ...] | None = None
    refused_before: int = 0
    """How many records had been refused when the snapshot was taken."""


class Unacked:
    """The queue. Invariant: tickets never fall from head to tail; a snapshot follows its ticket's record."""

    def __init__(self) -> None:
        self._sent: deque[Waiting] = deque()
        self._unsent: deque[Waiting] = deque()
        self._packets: deque[bytes] = deque()
        self._bytes = 0
        self.last_ticket = 0

    def has_room(self, bodies: Sequence[bytes]) -> bool:
        """Whether these would stay within the bounds."""
        return (
            len(self._sent) + len(self._unsent) + len(bodies) <= MAX_UNACKED_RECORDS
            and self._bytes + sum(map(len, bodies)) <= MAX_UNACKED_BYTES
        )

    def add(self, bodies: Sequence[bytes], now: float) -> None:
        """Queue records, each with the next ticket."""
        for body in bodies:
            self.last_ticket += 1
            self._unsent.append(Waiting(self.last_ticket, now, body))
            self._bytes += len(body)

    def add_snapshot(self, snapshot: tuple[bytes, ...], refused: int, now: float) -> None:
        """Queue a snapshot for all up to the last ticket, instead of one that was not handed out yet."""
        self._unsent = deque(item for item in self._unsent if item.snapshot is None)
        self._unsent.append(Waiting(self.last_ticket, now, b"", snapshot, refused))

    def next_packet(self, first_n: int) -> bytes | None:
        """The packet to send next, until `packet_sent`; None: all is handed out.

        Args:
            first_n: the number in the file of ticket 0.
        """
        if not self._packets and self._unsent:
            if self._unsent[0].snapshot is not None:
                self._pack_snapshot(first_n, self._unsent[0].snapshot)
            else:
                self._pack_records(first_n)
        return self._packets[0] if self._packets else None

    def packet_sent(self) -> None:
        """The packet that `next_packet` gave is on its way."""
        self._packets.popleft()

    def hand_out_again(self) -> None:
        """A new writer knows nothing of what the former one was sent."""
        self._unsent = self._sent + self._unsent
        self._sent = deque()
        self._packets = deque()

    def acknowledge(self, ticket: int) -> None:
        """Forget the records up to `ticket`; a snapshot among them stays, with all behind it."""
        while self._sent and self._sent[0].snapshot is None and self._sent[0].ticket <= ticket:
            self._bytes -= len(self._sent.popleft().body)

    def take_snapshot(self, ticket: int | None = None) -> Waiting:
        """Forget the first snapshot handed out: it was written (for `ticket`) or given up (None).

        What stands before it is durable or was refused for good.
        """
        while (head := self._sent.popleft()).snapshot is None:
            self._bytes -= len(head.body)
        assert ticket in (None, head.ticket), "the writer keeps the order"
        return head

    @property
    def oldest_at(self) -> float | None:
        """When the oldest record that waits was added."""
        for queue in (self._sent, self._unsent):
            for item in queue:
                if item.snapshot is None:
                    return item.at
        return None

    @property
    def oldest_sent_at(self) -> float | None:
        """When the oldest that a writer was handed was added, snapshots included."""
        return self._sent[0].at if self._sent else None

    def _pack_snapshot(self, first_n: int, snapshot: tuple[bytes, ...]) -> None:
        base = first_n + self._unsent[0].ticket
        runs = list(pieces([render_line(base, body) for body in snapshot])) or [[]]
        for number, run in enumerate(runs, 1):
            self._packets.append(encode(CompactPiece(base, number == len(runs), b"".join(run))))
        self._sent.append(self._unsent.popleft())

    def _pack_records(self, first_n: int) -> None:
        lines: list[bytes] = []
        size = 0
        first = first_n + self._unsent[0].ticket
        while self._unsent and self._unsent[0].snapshot is None:
            line = render_line(first + len(lines), self._unsent[0].body)
            size += len(line)
            if lines and size > PACKET_BYTES - 64:
                break
            lines.append(line)
            self._sent.append(self._unsent.popleft())
        self._packets.append(encode(Append(first, first + len(lines) - 1, b"".join(lines))))
