"""What the worker writes to stdout and stderr: its last bytes for evidence, its lines for the log.

Reads the worker's FIFO a bounded amount a turn, keeps the last bytes in a ring of fixed size, and hands whole
lines, many at a time, to a sink that must not wait and says how many it took. The worker is never held back:
what the sink cannot take is counted and still in the ring. Bytes stay bytes; only `present` decodes.

It knows neither who writes nor where lines go, and closes nothing. fifo(7) (nanny.linux.fifo).
"""

import os
from collections.abc import Callable
from typing import Final

RING_BYTES: Final = 256 * 1024
LINE_LIMIT_BYTES: Final = 16 * 1024
TURN_BYTES: Final = 64 * 1024

LineSink = Callable[[list[bytes]], int]


def present(raw: bytes) -> str:
    """Give bytes as text for people, what is no UTF-8 replaced."""
    return raw.decode("utf-8", "replace")


class ByteRing:
    """The last `capacity_bytes` bytes of a stream, in memory of exactly that size."""

    def __init__(self, capacity_bytes: int) -> None:
        self._buffer = bytearray(capacity_bytes)
        self._next = 0
        self._is_full = False

    def append(self, chunk: bytes) -> None:
        """Take the chunk in, the oldest bytes out."""
        capacity = len(self._buffer)
        if len(chunk) >= capacity:
            self._buffer[:] = chunk[-capacity:]
            self._next, self._is_full = 0, True
            return
        end = self._next + len(chunk)
        if end < capacity:
            self._buffer[self._next : end] = chunk
            self._next = end
            return
        fits = capacity - self._next
        self._buffer[self._next :] = chunk[:fits]
        self._next, self._is_full = end - capacity, True
        self._buffer[: self._next] = chunk[fits:]

    def last(self, limit_bytes: int | None = None) -> bytes:
        """Give the newest bytes in the order of their coming, at most `limit_bytes`."""
        kept = bytes(self._buffer[: self._next])
        if self._is_full:
            kept = bytes(self._buffer[self._next :]) + kept
        return kept if limit_bytes is None else kept[max(0, len(kept) - limit_bytes) :]


class WorkerOutput:
    """Reads one FIFO.

    Attributes:
        is_at_end: every writer is gone (never with a FIFO that we hold open for writing); stop selecting.
        bytes_total: bytes read.
        lines_total: lines completed; a cut one counts for each piece.
        cut_total: pieces of `line_limit_bytes` that a longer line was cut into.
        dropped_total: lines that the sink did not take.
    """

    def __init__(
        self,
        read_fd: int,
        sink: LineSink,
        *,
        ring_bytes: int = RING_BYTES,
        line_limit_bytes: int = LINE_LIMIT_BYTES,
        turn_bytes: int = TURN_BYTES,
    ) -> None:
        """Prepare to read.

        Args:
            read_fd: non-blocking; stays the caller's to close.
            sink: takes lines without their newline, oldest first; gives how many of them it took, from the
                front. Must neither wait nor raise.
            ring_bytes: how much is kept.
            line_limit_bytes: a longer line is cut here.
            turn_bytes: read at most in one turn.
        """
        assert not os.get_blocking(read_fd), "the nanny waits on nothing"
        self.is_at_end = False
        self.bytes_total = 0
        self.lines_total = 0
        self.cut_total = 0
        self.dropped_total = 0
        self._fd = read_fd
        self._sink = sink
        self._line_limit = line_limit_bytes
        self._turn_bytes = turn_bytes
        self._ring = ByteRing(ring_bytes)
        # Invariant: shorter than or as long as the line limit, without a newline.
        self._unfinished = b""

    def fileno(self) -> int:
        """Give the descriptor to select for reading."""
        return self._fd

    def on_readable(self) -> bool:
        """Read once, at most `turn_bytes`; True if more may be waiting, for the next turn."""
        try:
            chunk = os.read(self._fd, self._turn_bytes)
        except BlockingIOError:
            return False
        if not chunk:
            self.is_at_end = True
            self.finish_line()
            return False
        self.bytes_total += len(chunk)
        self._ring.append(chunk)
        *lines, unfinished = (self._unfinished + chunk).split(b"\n")
        if len(unfinished) > self._line_limit:
            *pieces, unfinished = self._cut(unfinished)
            lines = self._cut_long(lines) + pieces
        else:
            lines = self._cut_long(lines)
        self._unfinished = unfinished
        self._hand_on(lines)
        return len(chunk) == self._turn_bytes

    def finish_line(self) -> None:
        """Hand on a last line without newline: its writer is dead."""
        unfinished, self._unfinished = self._unfinished, b""
        if unfinished:
            self._hand_on([unfinished])

    def tail(self, limit_bytes: int | None = None) -> bytes:
        """Give the last bytes as they were written, whoever of the worker's lives wrote them."""
        return self._ring.last(limit_bytes)

    def _hand_on(self, lines: list[bytes]) -> None:
        if not lines:
            return
        self.lines_total += len(lines)
        self.dropped_total += len(lines) - self._sink(lines)

    def _cut_long(self, lines: list[bytes]) -> list[bytes]:
        # The common case costs one pass in C.
        if not lines or max(map(len, lines)) <= self._line_limit:
            return lines
        return [piece for line in lines for piece in self._cut(line)]

    def _cut(self, line: bytes) -> list[bytes]:
        limit = self._line_limit
        if len(line) <= limit:
            return [line]
        pieces = [line[start : start + limit] for start in range(0, len(line), limit)]
        self.cut_total += len(pieces) - 1
        return pieces
