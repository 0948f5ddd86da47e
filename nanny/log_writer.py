"""Log lines leave the nanny through a process of their own, which may hang where the nanny may not.

A write to a stuck journald, a stopped terminal or a full disk blocks its caller. So the nanny hands lines to
`LogPipe`, which never waits: what does not fit is dropped and counted, and the count is written as a line of
its own once there is room again. The forked end writes the nanny's own lines to stderr, the worker's output
to stdout, and both, if a directory is given, to files there that are bounded in size and number. A sink that
fails does not spoil the other; its error is said once on the other one.

It knows nothing of what a line means, but that the journal wants a worker's warnings marked. unix(7), rename(2),
sd-daemon(3).
"""

import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from nanny.common.log_lines import is_journal, with_priority

MAX_LINE_BYTES = 32_768
_PACKET_BYTES = 16_384
_SOCKET_BUFFER_BYTES = 1 << 20
_MODE = 0o640


class Source(Enum):
    """Who wrote a line."""

    NANNY = b"N"
    WORKER = b"W"


_FILE_NAMES = {Source.NANNY: "nanny.log", Source.WORKER: "worker.log"}
_STREAMS = {Source.NANNY: 2, Source.WORKER: 1}


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Where and how much to keep: `nanny.log`, `worker.log`, and `.1` (newest) to `.<old_files>` of each."""

    directory: str
    max_bytes: int = 16 << 20
    old_files: int = 4


class LogPipe:
    """The nanny's end: `write` never blocks.

    Args:
        fork_helper: nanny.fork_gate.fork_helper.
        files: None for stderr and stdout alone.
    """

    def __init__(
        self, fork_helper: Callable[[Callable[[], None], Collection[int]], Any], files: LogFiles | None = None
    ) -> None:
        self._fork_helper = fork_helper
        self._files = files
        self._socket: socket.socket | None = None
        self._forked: Any = None
        self._pidfd = -1
        self._unsaid = 0
        self.dropped_total = 0
        """Lines that nobody will see."""

    def start(self) -> None:
        """Fork the writer; the former one, if any, is left behind with SIGKILL.

        Raises:
            OSError, HostError: no process or no descriptor to be had; until then lines are dropped.
        """
        if self._socket is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            ours.setblocking(False)
            self._forked = self._fork_helper(lambda: write_log(theirs, self._files), (theirs.fileno(),))
            self._pidfd = os.dup(self._forked.pidfd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours

    def fileno(self) -> int:
        """The descriptor to watch; readable means that the writer is gone. -1 without a writer."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def writer(self) -> Any:
        """What `fork_helper` gave."""
        return self._forked

    def on_readable(self) -> bool:
        """Whether the writer is gone; then `start` another one."""
        if self._socket is None:
            return True
        try:
            gone = not self._socket.recv(1)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            gone = True
        if gone:
            self.close()
        return gone

    def write(self, source: Source, lines: Iterable[bytes]) -> None:
        """Hand over lines (without their newline); what does not fit now is dropped and counted."""
        fits = True
        packets = _joined(lines) if source is Source.WORKER else ((line, 1) for line in lines)
        for packet, count in packets:
            # Once one does not fit, a storm's other thousands are not tried one by one.
            fits = fits and self.flush_drops() and self._sent(source, packet)
            if not fits:
                self._unsaid += count
                self.dropped_total += count

    def flush_drops(self) -> bool:
        """Say how many lines were dropped, if any were; False if not even that fits yet."""
        if self._unsaid == 0:
            return True
        if not self._sent(
            Source.NANNY, b'{"level":"warning","event":"log-lines-dropped","count":%d}' % self._unsaid
        ):
            return False
        self._unsaid = 0
        return True

    def close(self) -> None:
        """Let the writer write what it has, and end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            os.close(self._pidfd)
            self._pidfd = -1

    def _sent(self, source: Source, line: bytes) -> bool:
        if self._socket is None:
            return False
        cut = len(line) - MAX_LINE_BYTES
        if cut > 0:
            line = line[:MAX_LINE_BYTES] + b" [%d bytes cut]" % cut
        try:
            self._socket.send(source.value + line, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True


def _joined(lines: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Join lines as long as they are short, so that a storm of them costs few system calls; each with its count."""
    packet: list[bytes] = []
    size = 0
    for line in lines:
        if packet and size + len(line) >= _PACKET_BYTES:
            yield b"\n".join(packet), len(packet)
            packet, size = [], 0
        packet.append(line)
        size += len(line) + 1
    if packet:
        yield b"\n".join(packet), len(packet)


def write_log(connection: socket.socket, files: LogFiles | None) -> None:
    """The forked process's whole life: until the nanny is gone and all that it sent is written."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the nanny: its last words are still to be written.
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # The nanny's own lines have their priority already.
    marked = Source.WORKER if is_journal(1, os.environ.get("JOURNAL_STREAM")) else None
    sinks = {
        source: [_Sink(_Stream(stream, is_marked=source is marked))] for source, stream in _STREAMS.items()
    }
    if files is not None:
        for source, name in _FILE_NAMES.items():
            # First, so that a stuck stream finds the line on disk already.
            sinks[source].insert(0, _Sink(_RotatedFile(files, name)))
    while True:
        content = connection.recv(MAX_LINE_BYTES + 64)
        if not content:
            return
        for sink in sinks[Source(content[:1])]:
            trouble = sink.write(content[1:] + b"\n")
            if trouble is not None:
                for other in sinks[Source.NANNY]:
                    if other is not sink:
                        other.write(trouble)


class _Sink:
    """A place for lines that may fail for a while: counts what it missed, and says so when it works again."""

    def __init__(self, target: "_Stream | _RotatedFile") -> None:
        self._target = target
        self._missed = 0

    def write(self, line: bytes) -> bytes | None:
        """Write the line; at the first failure, a line that says so, for the other sinks."""
        try:
            if self._missed:
                self._target.write(
                    b'{"level":"warning","event":"log-lines-lost","sink":"%b","count":%d}\n'
                    % (self._target.name, self._missed)
                )
                self._missed = 0
            self._target.write(line)
        except OSError as error:
            self._missed += 1
            if self._missed == 1:
                name = errno.errorcode.get(error.errno or 0, "?").encode()
                return b'{"level":"error","event":"log-sink-failed","sink":"%b","errno":"%b"}\n' % (
                    self._target.name,
                    name,
                )
        return None


class _Stream:
    """stdout or stderr, which others may have made non-blocking."""

    def __init__(self, descriptor: int, *, is_marked: bool) -> None:
        self._descriptor = descriptor
        self._is_marked = is_marked
        self.name = b"stdout" if descriptor == 1 else b"stderr"

    def write(self, line: bytes) -> None:
        if self._is_marked:
            line = b"\n".join(map(with_priority, line.split(b"\n")))
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()


class _RotatedFile:
    """A file that becomes `.1` before it would grow over its bound."""

    def __init__(self, files: LogFiles, name: str) -> None:
        self._files = files
        self._path = os.path.join(files.directory, name)
        self._descriptor = -1
        self._size = 0
        self.name = name.encode()

    def write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._open()
        if self._size and self._size + len(line) > self._files.max_bytes:
            self._rotate()
        view = memoryview(line)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError:
                if len(view) < len(line):
                    os.ftruncate(self._descriptor, self._size)  # no half lines
                raise
            view = view[written:]
        self._size += len(line)

    def _open(self) -> None:
        os.makedirs(self._files.directory, 0o750, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, _MODE)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        if self._files.old_files == 0:
            os.unlink(self._path)
        for number in range(self._files.old_files, 0, -1):
            older = self._path if number == 1 else f"{self._path}.{number - 1}"
            with suppress(FileNotFoundError):
                os.rename(older, f"{self._path}.{number}")
        self._open()
