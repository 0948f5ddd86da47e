"""The journal writer: a process forked from the nanny that does all file I/O of the journal.

An fsync on a hung disk holds its caller in D state, where SIGKILL does not end it: so the caller is a process
that the nanny can abandon. Order of effects: read the newest file and send its records; make an own file
(generations.py says why); then append what comes, one fdatasync for all that is queued, then acknowledge.

On an error it says so, cuts off what was half written, and tries again each RETRY_S: nothing is dropped, and
the order stays. After a failed fdatasync the kernel calls the pages clean though they are not on disk, so
that file is given up for a new one, written from memory. A compaction that fails is dropped: the old file is
as good. It ends when fenced, or at EOF (the nanny is gone) when the queue is written. It knows nothing of
what a record means. fdatasync(2), unix(7).
"""

import errno
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from nanny.journal.generations import Fenced, Generations, has_name, no_step, write_all
from nanny.journal.packets import (
    PACKET_BYTES,
    Append,
    Compacted,
    CompactPiece,
    DurableUpTo,
    Failure,
    OpenedFile,
    Packet,
    PieceReceived,
    ReplayPiece,
    decode,
    encode,
    pieces,
)
from nanny.journal.records_file import Header, Parsed, parse, render_file

RETRY_S = 0.5
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a writer is started with."""

    path: str
    epoch: str
    """For a new journal, or one that has lost records."""
    boot: str
    life: str
    """Token of the nanny's life: marks the files that its writers made."""
    known_generation: int | None = None
    """The last file that this life of the nanny read or had made; None: it has read none yet."""
    known_n: int | None = None
    """The last number that this life knows to be durable: above it, it resends all that counts."""


class JournalWriter:
    """One writer's life; `run` returns when it is over.

    Args:
        assignment: what to open.
        connection: the writer's end of a SOCK_SEQPACKET pair, blocking.
        at_step: see Generations.
    """

    def __init__(
        self,
        assignment: Assignment,
        connection: socket.socket,
        at_step: Callable[[str], None] = no_step,
    ) -> None:
        self._assignment = assignment
        self._connection = connection
        self._at_step = at_step
        self._generations = Generations(assignment.path, at_step)
        self._header = Header(assignment.epoch, 0)
        self._body = bytearray()
        self._last_n = 0
        self._descriptor = -1
        self._good_bytes = 0
        self._queue: deque[Append | list[CompactPiece]] = deque()
        self._snapshot: list[CompactPiece] = []
        self._is_gone = False

    def run(self) -> None:
        """Open, then serve until the nanny is gone."""
        try:
            self._serve()
        except Fenced as fence:
            self._send(Failure("fenced", errno.EEXIST, str(fence)))

    def _serve(self) -> None:
        retry_at = 0.0
        is_open = False
        while True:
            if self._is_gone or time.monotonic() >= retry_at:
                is_open = is_open or self._opened()
                retry_at = 0.0 if is_open and self._drained() else time.monotonic() + RETRY_S
            if self._is_gone:
                return
            self._receive(None if retry_at == 0.0 else max(0.0, retry_at - time.monotonic()))

    # Opening

    def _opened(self) -> bool:
        """Read the newest file and send what it holds; False: it could not be read."""
        try:
            found = self._generations.found()
            chosen, parsed = self._chosen(found)
        except OSError as error:
            self._fail("open", error)
            return False
        known_n = self._assignment.known_n
        damaged = parsed.reason if parsed is not None and parsed.is_damaged else None
        if parsed is not None:
            reason = "takeover" if damaged is None else "damage"
        else:
            reason = "damage" if found else "created"
        if parsed is None or parsed.header is None:
            base, snapshot, epoch = 0, 0, self._assignment.epoch
            lines: tuple[bytes, ...] = ()
        else:
            if known_n is not None:
                parsed = parsed.until(known_n)
            assert parsed.header is not None
            base, snapshot, lines = parsed.header.base, parsed.header.snapshot, parsed.lines
            epoch = parsed.header.epoch if damaged is None else self._assignment.epoch
            snapshot = min(snapshot, len(lines))
            self._last_n = parsed.last_n
        self._header = Header(
            epoch,
            (found[0] if found else 0) + 1,
            base,
            snapshot,
            chosen,
            reason,
            self._assignment.life,
            _wall(),
            self._assignment.boot,
        )
        self._body = bytearray(b"".join(lines))
        if known_n is None:
            for run in pieces(list(lines)):
                self._send(ReplayPiece(b"".join(run)))
        self._send(
            OpenedFile(
                generation=chosen or 0,
                epoch=epoch,
                last_n=self._last_n,
                created=parsed is None or parsed.header is None,
                torn_bytes=0 if parsed is None else parsed.torn_bytes,
                damaged=damaged,
            )
        )
        return True

    def _chosen(self, found: list[int]) -> tuple[int | None, Parsed | None]:
        """The file to go on from: the highest, but none that a writer of an earlier life made belatedly."""
        known = self._assignment.known_generation
        for generation in found:
            parsed = parse(self._generations.read(generation))
            if (
                known is None
                or generation == known
                or (parsed.header is not None and parsed.header.life == self._assignment.life)
            ):
                return generation, parsed
        return None, None

    def _take_over(self) -> None:
        """Make the own file: complete, durable, with the next number.

        Raises:
            Fenced: someone else has.
            OSError: it could not be made.
        """
        content = render_file(self._header, [bytes(self._body)])
        self._descriptor = self._generations.install(self._header.generation, content)
        self._good_bytes = len(content)
        self._generations.sweep(self._header)
        self._generations.keep_reserve()
        self._send(DurableUpTo(self._last_n, self._good_bytes))

    def _give_up_file(self) -> None:
        """Nothing more can be trusted to this file: the next try makes another one from memory."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        self._header = Header(
            self._header.epoch,
            self._header.generation + 1,
            self._header.base,
            self._header.snapshot,
            self._header.generation,
            "takeover",
            self._assignment.life,
            _wall(),
            self._assignment.boot,
        )

    # Requests

    def _receive(self, timeout_s: float | None) -> None:
        """Wait for a packet, then queue all that have come, up to BATCH_BYTES."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)
        size = 0
        while size < BATCH_BYTES:
            try:
                content = self._connection.recv(PACKET_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:
                continue  # said once, if the nanny left without reading all; what it asked for follows
            if not content:
                self._is_gone = True
                return
            size += len(content)
            self._take(decode(content))

    def _take(self, packet: Packet) -> None:
        match packet:
            case Append():
                self._queue.append(packet)
            case CompactPiece(is_last=is_last):
                self._snapshot.append(packet)
                if is_last:
                    self._queue.append(self._snapshot)
                    self._snapshot = []
                else:
                    self._send(PieceReceived())
            case _:
                raise TypeError(f"not for the writer: {packet}")

    def _drained(self) -> bool:
        """Do all that is queued, in order; False: something failed that is to be tried again."""
        if self._descriptor >= 0 and not self._queue:
            return True
        try:
            if self._descriptor >= 0 and not has_name(self._descriptor):
                self._give_up_file()
            if self._descriptor < 0:
                self._take_over()
        except OSError as error:
            return self._freed_some(error) or self._fail("open", error)
        while self._queue:
            head = self._queue[0]
            if isinstance(head, list):
                self._queue.popleft()
                self._compact(head)
                continue
            appends = []
            for item in self._queue:
                if isinstance(item, list):
                    break
                appends.append(item)
            try:
                self._append(appends)
            except OSError as error:
                return self._freed_some(error) or self._fail("append", error)
            for _ in appends:
                self._queue.popleft()
        return True

    def _append(self, appends: list[Append]) -> None:
        """Write the lines not yet in the file with one fdatasync, then acknowledge.

        Raises:
            OSError: nothing of it counts; the file is as it was, or given up.
        """
        last_n = self._last_n
        content = bytearray()
        for append in appends:
            if append.last_n <= last_n:
                continue
            if append.first_n > last_n + 1:
                self._send(
                    Failure("gap", errno.ESTALE, f"record {append.first_n} came where {last_n + 1} was due")
                )
                continue
            lines = append.lines.splitlines(keepends=True)
            content += b"".join(lines[last_n + 1 - append.first_n :])
            last_n = append.last_n
        if content:
            try:
                write_all(self._descriptor, content)
                self._at_step("written")
            except OSError:
                try:
                    os.ftruncate(self._descriptor, self._good_bytes)
                except OSError:
                    self._give_up_file()
                raise
            try:
                os.fdatasync(self._descriptor)
            except OSError:
                self._give_up_file()
                raise
            self._at_step("synced")
            self._good_bytes += len(content)
            self._body += content
            self._last_n = last_n
        self._send(DurableUpTo(self._last_n, self._good_bytes))

    def _compact(self, snapshot: list[CompactPiece]) -> None:
        body = b"".join(piece.lines for piece in snapshot)
        base = snapshot[0].base
        header = Header(
            self._header.epoch,
            self._header.generation + 1,
            base,
            body.count(b"\n"),
            self._header.generation,
            "compaction",
            self._assignment.life,
            _wall(),
            self._assignment.boot,
        )
        content = render_file(header, [body])
        try:
            descriptor = self._generations.install(header.generation, content)
        except OSError as error:
            self._fail("compact", error)
            return
        os.close(self._descriptor)
        self._descriptor, self._header, self._body = descriptor, header, bytearray(body)
        self._good_bytes, self._last_n = len(content), base
        self._send(Compacted(base, self._good_bytes))
        self._generations.sweep(header)
        self._generations.keep_reserve()

    # Answers

    def _send(self, packet: Packet) -> None:
        # A nanny that is gone is met in _receive, behind the last thing that it asked for.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(encode(packet), socket.MSG_NOSIGNAL)

    def _fail(self, operation: str, error: OSError) -> bool:
        self._send(Failure(operation, error.errno or errno.EIO, str(error)))
        return False

    def _freed_some(self, error: OSError) -> bool:
        """Give up the reserve on a full disk and do the work again; whether that helped."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._generations.give_up_reserve():
            return False
        self._send(Failure("reserve", error.errno, f"{error}: the space held in reserve is in use now"))
        return self._drained()


def write_journal(
    assignment: Assignment, connection: socket.socket, at_step: Callable[[str], None] = no_step
) -> None:
    """The forked process's whole life."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the nanny: what it records on its way out is still to be written.
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    JournalWriter(assignment, connection, at_step).run()


def _wall() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
