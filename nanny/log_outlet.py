"""Keeps a log writer running for the nanny's lines and the worker's, and says how many lines were lost.

One that dies is replaced a second later, again and again: without it nobody hears what goes on, and nothing else
suffers. It knows nothing of what a line means (nanny.log_writer).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from nanny import fork_gate
from nanny.event_loop import DeadlineSource
from nanny.log_writer import LogFiles, LogPipe, Source

if TYPE_CHECKING:
    from nanny.config import NannyConfig
    from nanny.event_loop import EventLoop

_PAUSE_S: Final = 1.0
_FLUSH_INTERVAL_S: Final = 10.0


class LogOutlet:
    """The nanny's end of its log writer."""

    def __init__(self, config: NannyConfig) -> None:
        files = None if config.log_dir is None else LogFiles(config.log_dir, config.log_max_bytes)
        self._pipe = LogPipe(fork_gate.fork_helper, files)
        self._loop: EventLoop | None = None
        self._again_at: float | None = None
        self._flush_at = 0.0
        self._start()

    def attend(self, loop: EventLoop) -> None:
        """Watch the writer from now on."""
        self._loop = loop
        self._flush_at = loop.now
        loop.watch(self._pipe.fileno(), self._on_readable)
        loop.add_source(DeadlineSource(lambda: self._again_at, self._replace))
        loop.add_source(DeadlineSource(lambda: self._flush_at, self._flush))

    @property
    def dropped_total(self) -> int:
        """Lines that nobody will see."""
        return self._pipe.dropped_total

    def nanny_line(self, line: bytes) -> None:
        """Hand over one of the nanny's own lines; never waits."""
        self._pipe.write(Source.NANNY, [line.rstrip(b"\n")])

    def worker_lines(self, lines: list[bytes]) -> int:
        """Hand over the worker's lines; how many of them were taken."""
        before = self._pipe.dropped_total
        self._pipe.write(Source.WORKER, lines)
        return len(lines) - (self._pipe.dropped_total - before)

    def _start(self) -> None:
        self._pipe.start()
        # The pipe keeps a duplicate.
        os.close(self._pipe.writer.pidfd)

    def _on_readable(self) -> None:
        assert self._loop is not None
        fd = self._pipe.fileno()
        self._pipe.on_readable()
        if self._pipe.fileno() != fd:
            self._loop.unwatch(fd)
        if self._pipe.fileno() < 0:
            self._again_at = self._loop.now + _PAUSE_S

    def _replace(self, now: float) -> None:
        assert self._loop is not None
        self._again_at = now + _PAUSE_S
        self._start()
        self._loop.watch(self._pipe.fileno(), self._on_readable)
        self._again_at = None

    def _flush(self, now: float) -> None:
        """Say how many lines were lost, once they can be said."""
        self._flush_at = now + _FLUSH_INTERVAL_S
        self._pipe.flush_drops()

    def close(self) -> None:
        """Let the writer write what it has, and end."""
        self._pipe.close()
