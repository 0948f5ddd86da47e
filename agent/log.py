"""JSON log lines that can hold up neither the event loop nor the vitals thread.

Whoever logs renders a line and puts it into a bounded queue; a daemon thread writes it out. When whoever
reads our stderr is slow, the thread waits and the queue fills; above its bound lines are dropped and
counted, and the count is logged when there is room again. structlog and the standard library's logging both
end here.

O_NONBLOCK is never set on the inherited descriptor: the flag belongs to the open file description, which the
nanny and our siblings share. The file is opened anew instead (/proc/self/fd), or asked with poll first.
See open(2), poll(2), pipe(7).
"""

import contextlib
import json
import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

import structlog

LINE_LIMIT_BYTES = 8192
_PIPE_BUF = 4096  # pipe(7): a pipe that polls writable takes this much without blocking
_POLL_INTERVAL_S = 0.5  # how soon the writer notices that it is to stop
_BROKEN_PAUSE_S = 1.0


class LogOutlet:
    """A descriptor's writer thread and the queue in front of it.

    Args:
        fd: where lines go; stays the caller's.
        line_limit: lines held while the reader is slow; with `LINE_LIMIT_BYTES`, the memory bound.
    """

    def __init__(self, fd: int = 2, line_limit: int = 2048) -> None:
        self._line_limit = line_limit
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._drops_by_thread: dict[int, int] = {}
        self._drops_logged = 0
        self._is_closing = False
        self._sink = _Sink(fd)
        self._thread = threading.Thread(target=self._write_lines, name="log-outlet", daemon=True)
        self._thread.start()

    @property
    def dropped_total(self) -> int:
        """Lines that were never written, since the start."""
        return sum(list(self._drops_by_thread.values())) + self._sink.lost_total

    @property
    def waiting(self) -> int:
        """Lines in the queue now."""
        return self._lines.qsize()

    def offer(self, line: bytes) -> bool:
        """Takes one line without its newline; never blocks. False: it was dropped and counted."""
        if self._is_closing or self._lines.qsize() >= self._line_limit:
            me = threading.get_ident()  # each thread counts for itself: nothing to lock
            self._drops_by_thread[me] = self._drops_by_thread.get(me, 0) + 1
            return False
        self._lines.put(line)
        return True

    def close(self, deadline_s: float = 1.0) -> bool:
        """Writes what is queued, for at most `deadline_s`, and ends the thread. False: lines were left."""
        if self._is_closing:
            return not self._thread.is_alive()
        self._is_closing = True
        self._sink.give_up_at = time.monotonic() + deadline_s
        self._lines.put(None)
        self._thread.join(deadline_s + 2 * _POLL_INTERVAL_S)
        return not self._thread.is_alive() and self._lines.empty()

    def _write_lines(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                if not self._sink.write(line[:LINE_LIMIT_BYTES] + b"\n"):
                    return
                self._tell_drops()
            self._tell_drops()
        finally:
            self._sink.close()

    def _tell_drops(self) -> None:
        dropped = self.dropped_total
        if dropped == self._drops_logged or self._lines.qsize() > self._line_limit // 2:
            return
        fields = {"event": "log lines dropped", "level": "warning", "dropped": dropped - self._drops_logged}
        self._drops_logged = dropped
        self._sink.write(json.dumps(fields | {"dropped_total": dropped}).encode() + b"\n")


class _Sink:
    """The descriptor, written so that only the writer thread ever waits, and never for longer than a poll."""

    def __init__(self, fd: int) -> None:
        self.give_up_at: float | None = None
        self.lost_total = 0
        self._socket: socket.socket | None = None
        self._is_nonblocking = True
        if stat.S_ISSOCK(os.fstat(fd).st_mode):  # journald's stream: cannot be reopened, but has MSG_DONTWAIT
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd = self._socket.fileno()
            return
        try:
            self._fd = os.open(
                f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            )
        except OSError:  # not ours to open, or no /proc
            self._fd = os.dup(fd)
            self._is_nonblocking = False

    def write(self, line: bytes) -> bool:
        """Writes all of `line`, waiting for room. False: the outlet closes and its deadline has passed."""
        left = memoryview(line)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while left:
            if self.give_up_at is not None and time.monotonic() >= self.give_up_at:
                return False
            ready = poll.poll(_POLL_INTERVAL_S * 1000)
            if not ready:
                continue
            try:
                left = left[self._write_some(left) :]
            except BlockingIOError:
                continue
            except OSError:  # nobody reads (EPIPE), or the disk is full: only this line is lost, perhaps
                self.lost_total += 1
                if self.give_up_at is None:
                    time.sleep(_BROKEN_PAUSE_S)
                return self.give_up_at is None
        return True

    def _write_some(self, left: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(left, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._fd, left if self._is_nonblocking else left[:_PIPE_BUF])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)


class LoggingBridge(logging.Handler):
    """Passes the standard library's records (asyncio, aiohttp) to the same outlet.

    Args:
        outlet: where lines go.
        context: fields added to each line.
    """

    def __init__(self, outlet: LogOutlet, context: Mapping[str, Any]) -> None:
        super().__init__()
        self._outlet = outlet
        self._context = dict(context)

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Makes none: the outlet needs no lock, so that no thread ever waits here for another."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Renders and queues; a record that can't be rendered says so in its own line."""
        fields: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
        try:
            fields["event"] = record.getMessage()
        except Exception as error:
            fields["event"] = f"{record.msg!r} could not be rendered: {error}"
        if record.exc_info:
            fields["exception"] = _format_exception(record.exc_info)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields["timestamp"] = f"{moment}.{int(record.msecs):03d}000Z"
        self._outlet.offer(_render(self._context | fields))


class _OutletLogger:
    """What structlog's bound loggers end in: any level's method takes the rendered line."""

    def __init__(self, outlet: LogOutlet) -> None:
        self._outlet = outlet

    def msg(self, line: bytes) -> None:
        self._outlet.offer(line)

    debug = info = warning = error = critical = exception = fatal = log = failure = err = msg


def configure_logging(
    *, level: str = "info", fd: int = 2, line_limit: int = 2048, context: Mapping[str, Any] | None = None
) -> LogOutlet:
    """Routes structlog, logging and warnings through one outlet; call once, `close()` it at an orderly exit.

    Args:
        level: lowest level that is written.
        fd: where lines go.
        line_limit: lines held while the reader is slow.
        context: fields of every line, e.g. the incarnation.

    Raises:
        ValueError: no such level.
    """
    threshold = logging.getLevelNamesMapping().get(level.upper())
    if threshold is None:
        raise ValueError(f"log level {level!r} is none of debug, info, warning, error, critical")
    outlet = LogOutlet(fd, line_limit)
    fixed = dict(context or {})

    def add_context(_logger: Any, _method: str, fields: structlog.typing.EventDict) -> Mapping[str, Any]:
        return fixed | dict(fields)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            add_context,
            lambda _logger, _method, fields: _render(fields),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_names: _OutletLogger(outlet),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [LoggingBridge(outlet, fixed)]
    root.setLevel(threshold)
    logging.captureWarnings(capture=True)
    return outlet


def _render(fields: Mapping[str, Any]) -> bytes:
    try:
        line = json.dumps(fields, default=_show, separators=(",", ":"), ensure_ascii=False)
    except Exception as error:
        line = json.dumps({"event": "a log line could not be rendered", "level": "error", "why": repr(error)})
    encoded = line.encode("utf-8", "backslashreplace")
    if len(encoded) <= LINE_LIMIT_BYTES:
        return encoded
    cut: dict[str, Any] = {"cut": True, "bytes": len(encoded)}
    for name in ("timestamp", "level", "logger", "event"):
        if name in fields:
            cut[name] = _show(fields[name])[: LINE_LIMIT_BYTES // 8]
    return json.dumps(cut).encode()


def _show(thing: Any) -> str:
    try:
        return thing if isinstance(thing, str) else repr(thing)
    except Exception as error:
        return f"<{type(thing).__name__} without a repr: {type(error).__name__}>"


def _format_exception(exc_info: Any) -> str:
    with contextlib.suppress(Exception):
        return logging.Formatter().formatException(exc_info)
    return "the traceback could not be rendered"
