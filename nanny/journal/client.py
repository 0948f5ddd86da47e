"""The nanny's side of the journal: never blocks, never touches a file, keeps what is not yet durable.

Contract for the selector loop: `append` before the effect, run the effect at `Durable` (or when
`oldest_unacked_at` is too old, with the journal marked degraded). Watch `fileno()` for reading and call
`on_readable`. When `is_hung`, or after `WriterGone`, call `restart` and watch the new `fileno()`: what is
unacknowledged is sent again, and the file takes each number once. While `wants_snapshot`, `append` refuses
(records after a hole would be replayed into a wrong state): `compact` to the whole state makes it whole.

Tickets: `append` numbers the records of this nanny's life from 1, also before the journal could be read; in
the file they follow the last number found there. Clocks are arguments. SOCK_SEQPACKET: unix(7).
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, assert_never

from nanny.journal.events import (
    CompactionDone,
    Durable,
    Failed,
    JournalEvent,
    Opened,
    Overflow,
    Reopened,
    WriterGone,
)
from nanny.journal.packets import (
    PACKET_BYTES,
    Append,
    Compacted,
    CompactPiece,
    DurableUpTo,
    Failure,
    OpenedFile,
    PieceReceived,
    ReplayPiece,
    decode,
)
from nanny.journal.records_file import Record, parse_lines, render_body
from nanny.journal.unacked import Unacked
from nanny.journal.writer import Assignment, write_journal

_SOCKET_BUFFER_BYTES = 1 << 20
_PACKETS_A_TURN = 64


class Forked(Protocol):
    """A forked process as the fork gate gives it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def pidfd(self) -> int:
        """Its pidfd, the caller's to close and to wait for: the client works with a duplicate."""


class ForkHelper(Protocol):
    """nanny.fork_gate.fork_helper, or a stand-in."""

    def __call__(self, function: Callable[[], None], keep_descriptors: Collection[int]) -> Forked:
        """Run `function` in a child that keeps only these descriptors."""


class JournalClient:
    """The journal as the nanny sees it.

    Args:
        fork_helper: makes the writer's process.
        path: names the journal's files, for example /var/lib/nanny/journal.jsonl.
        epoch: used if the journal is new or has lost records.
        boot: the boot id, written into each record.
        wall: gives the ISO time written into each record, for people.
    """

    def __init__(
        self,
        fork_helper: ForkHelper,
        path: str,
        epoch: str,
        boot: str,
        wall: Callable[[], str] | None = None,
    ) -> None:
        self._fork_helper = fork_helper
        self._path = path
        self._epoch = epoch
        self._boot = boot
        self._wall = wall if wall is not None else _utc_now
        self._life = f"{boot[:8]}-{os.getpid()}-{time.monotonic_ns()}"
        self._socket: socket.socket | None = None
        self._writer: Forked | None = None
        self._writer_pidfd = -1
        self._unacked = Unacked()
        self._durable_ticket = 0
        self._first_n: int | None = None
        self._known_generation: int | None = None
        self._replayed: list[Record] = []
        self._is_open = False
        self._is_settled = False
        self._heard_at = 0.0
        self._failing: Failed | None = None
        self._refused_total = 0
        self._wants_snapshot = False

    # The writer's life

    def start(self, now: float) -> None:
        """Fork a writer where there is none.

        Raises:
            OSError, HostError: no process or no descriptor to be had; try again later.
        """
        assert self._socket is None, "close or restart it"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            ours.setblocking(False)
            assignment = Assignment(
                path=self._path,
                epoch=self._epoch,
                boot=self._boot,
                life=self._life,
                known_generation=self._known_generation,
                known_n=None if self._first_n is None else self._first_n + self._durable_ticket,
            )

            self._writer = self._fork_helper(lambda: write_journal(assignment, theirs), (theirs.fileno(),))
            self._writer_pidfd = os.dup(self._writer.pidfd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self._replayed = []
        self._is_open = self._is_settled = False
        self._heard_at = now
        self._unacked.hand_out_again()

    def restart(self, now: float) -> None:
        """Leave the present writer behind, killed if it can be killed, and fork another one.

        Raises:
            OSError, HostError: as `start`; the old writer is left all the same.
        """
        self.abandon()
        self.start(now)

    def abandon(self) -> None:
        """Close the connection and send SIGKILL: one in D state dies when its disk answers."""
        if self._socket is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._writer_pidfd, signal.SIGKILL)
            self.close()

    def close(self) -> None:
        """Let the writer write what it was sent, and end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            os.close(self._writer_pidfd)
            self._writer_pidfd = -1

    def fileno(self) -> int:
        """The descriptor to watch for reading; -1 without a writer. Changes with each `restart`."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def writer(self) -> Forked | None:
        """The last writer forked."""
        return self._writer

    # Writing

    def append(self, records: Sequence[Mapping[str, Any]], now: float) -> int | Overflow:
        """Queue records; the ticket of the last one, for `Durable`. Never blocks.

        Raises:
            TypeError, ValueError: a record that cannot be written (records_file.render_body).
        """
        bodies = self._bodies(records)
        if self._wants_snapshot or not self._unacked.has_room(bodies):
            self._wants_snapshot = True
            self._refused_total += len(bodies)
            return Overflow(self._refused_total)
        self._unacked.add(bodies, now)
        self._flush()
        return self._unacked.last_ticket

    def compact(self, records: Sequence[Mapping[str, Any]], now: float) -> None:
        """Replace the journal by these records, which stand for all that was appended so far.

        An earlier snapshot still waiting to be sent is replaced. Never blocks.

        Raises:
            TypeError, ValueError: as `append`.
        """
        self._unacked.add_snapshot(tuple(self._bodies(records)), self._refused_total, now)
        self._flush()

    def _bodies(self, records: Sequence[Mapping[str, Any]]) -> list[bytes]:
        stamp = {"wall": self._wall(), "boot": self._boot}
        return [render_body({**record, **stamp, **record}) for record in records]

    # Reading

    def on_readable(self, now: float) -> list[JournalEvent]:
        """Take what the writer has said."""
        events: list[JournalEvent] = []
        for _ in range(_PACKETS_A_TURN):
            if self._socket is None:
                break
            try:
                content = self._socket.recv(PACKET_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionResetError:
                continue
            if not content:
                self.close()
                assert self._writer is not None
                events.append(WriterGone(self._writer.pid))
                break
            self._heard_at = now
            self._on_packet(content, events)
        self._flush()
        return events

    def _on_packet(self, content: bytes, events: list[JournalEvent]) -> None:
        match decode(content):
            case ReplayPiece(lines):
                self._replayed.extend(parse_lines(lines))
            case OpenedFile() as opened:
                self._on_opened(opened, events)
            case DurableUpTo(n, file_bytes):
                self._is_settled = True
                self._failing = None
                assert self._first_n is not None
                self._acknowledge(n - self._first_n)
                events.append(Durable(self._durable_ticket, file_bytes))
            case Compacted(base, file_bytes):
                assert self._first_n is not None
                ticket = base - self._first_n
                self._acknowledge(ticket)
                done = self._unacked.take_snapshot(ticket)
                self._wants_snapshot = self._wants_snapshot and done.refused_before != self._refused_total
                events.append(CompactionDone(file_bytes))
                events.append(Durable(self._durable_ticket, file_bytes))
            case Failure() as failure:
                self._on_failure(failure, events)
            case PieceReceived():
                pass  # on_readable sends what waits
            case Append() | CompactPiece() as packet:
                raise TypeError(f"not for the nanny: {packet}")
            case never:
                assert_never(never)

    def _on_opened(self, opened: OpenedFile, events: list[JournalEvent]) -> None:
        self._is_open = True
        if self._first_n is not None:
            if opened.last_n < self._first_n + self._durable_ticket:
                self._wants_snapshot = True
            events.append(Reopened(opened.last_n))
            return
        self._first_n = opened.last_n
        self._known_generation = opened.generation
        self._epoch = opened.epoch
        events.append(
            Opened(
                tuple(self._replayed),
                opened.last_n,
                opened.epoch,
                opened.created,
                opened.torn_bytes,
                opened.damaged,
            )
        )
        self._replayed = []

    def _on_failure(self, failure: Failure, events: list[JournalEvent]) -> None:
        failed = Failed(failure.operation, failure.errno, failure.message)
        if failure.operation == "compact":
            self._unacked.take_snapshot()
        elif failure.operation == "gap":
            self._wants_snapshot = True
        if failure.operation in ("open", "append"):
            if failed == self._failing:
                return
            self._failing = failed
        events.append(failed)

    def _acknowledge(self, ticket: int) -> None:
        self._durable_ticket = max(self._durable_ticket, ticket)
        self._unacked.acknowledge(ticket)

    def _flush(self) -> None:
        """Send what the socket takes; the rest goes when the writer has answered."""
        if self._socket is None or not self._is_open or self._first_n is None:
            return
        while (packet := self._unacked.next_packet(self._first_n)) is not None:
            try:
                self._socket.send(packet, socket.MSG_NOSIGNAL)
            except OSError:
                # EAGAIN: full, and an answer is due. EPIPE: on_readable will say that the writer is gone.
                return
            self._unacked.packet_sent()

    # Looking

    @property
    def oldest_unacked_at(self) -> float | None:
        """When the oldest record still waiting was appended; None: all are durable."""
        return self._unacked.oldest_at

    @property
    def durable_ticket(self) -> int:
        """All up to this ticket is on disk."""
        return self._durable_ticket

    @property
    def failing(self) -> Failed | None:
        """The error that keeps records from the disk at present."""
        return self._failing

    @property
    def wants_snapshot(self) -> bool:
        """Records were refused, or lost by the disk: only `compact` makes the journal whole again."""
        return self._wants_snapshot

    @property
    def refused_total(self) -> int:
        """Records that `append` refused."""
        return self._refused_total

    def is_hung(self, now: float, timeout_s: float) -> bool:
        """Whether the writer owes an answer and has said nothing for `timeout_s`.

        One that keeps reporting errors is not hung; one that has not yet opened its file can be.
        """
        if self._socket is None or now - self._heard_at <= timeout_s:
            return False
        if not self._is_settled:
            return True
        sent_at = self._unacked.oldest_sent_at
        return sent_at is not None and now - sent_at > timeout_s


def _utc_now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1_000_000:03d}Z"
