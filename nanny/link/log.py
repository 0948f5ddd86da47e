"""Link's log: JSON lines on stderr by a thread of its own, so that a slow reader of them never holds the loop.

A line goes into a bounded queue; when that is full it is dropped and counted. The thread is a daemon: if it hangs
in write(2) at the end of the process, nobody waits for it for longer than `close` says. The lines themselves,
their size and their rate are `nanny.common.log_lines`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from nanny.common.log_lines import LogLines, is_journal

if TYPE_CHECKING:
    from collections.abc import Callable

LINES_LIMIT: Final = 1024
STDERR: Final = 2


class LogThread:
    """Writes lines to a descriptor that may block.

    Attributes:
        dropped_total: lines for which there was no room, or no reader.
    """

    def __init__(self, fd: int = STDERR, lines_limit: int = LINES_LIMIT) -> None:
        self.dropped_total = 0
        self._fd = fd
        self._limit = lines_limit
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_lines, name="link-log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one whole line; never blocks."""
        if self._lines.qsize() >= self._limit:
            self.dropped_total += 1
            return
        self._lines.put(line)

    def close(self, timeout_s: float = 0.3) -> None:
        """Write what is queued, if that is possible in time."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            left = memoryview(line)
            try:
                while left:
                    left = left[os.write(self._fd, left) :]
            except OSError:  # nobody reads any more, or the disk is full: later lines may fare better
                self.dropped_total += 1


@dataclass(slots=True)
class LevelledLines(LogLines):
    """Log lines from a level on."""

    level: str = "info"

    def info(self, event: str, /, **fields: object) -> None:
        """Say what happened as it should."""
        if self.level == "info":
            LogLines.info(self, event, **fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Say what someone should look at some day."""
        if self.level != "error":
            LogLines.warning(self, event, **fields)


class _Bridge(logging.Handler):
    """Passes what asyncio and aiohttp log to our lines."""

    def __init__(self, log: LogLines) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in our own form."""
        fields: dict[str, object] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = repr(record.exc_info[1])
        say: Callable[..., None] = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        say("library", **fields)


def open_log(thread: LogThread, level: str) -> LogLines:
    """Give link's log, with the standard library's logging ending in it, too."""
    log = LevelledLines(
        thread.write,
        "link",
        time.time,
        priorities=is_journal(STDERR, os.environ.get("JOURNAL_STREAM")),
        level=level,
    )
    logging.getLogger().handlers[:] = [_Bridge(log)]
    return log
