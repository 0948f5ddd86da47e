"""From records to "durable" or "degraded": the journal client, its time-outs and its replacement writers.

Tells the supervisor when a ticket is durable, when the journal has become degraded (no answer within
``journal_timeout_s``, or an error) and when it has recovered. Never waits for a disk: an unanswered writer is
left behind and another one is tried, ever more seldom, and never more than a few at once. A journal that another
nanny has taken over stays that one's: this nanny goes on without.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from nanny.errors import NannyError
from nanny.event_loop import DeadlineSource
from nanny.journal.events import CompactionDone, Durable, Failed, Opened, Overflow, Reopened, WriterGone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nanny.event_loop import EventLoop
    from nanny.journal.client import JournalClient

_RETRY_FIRST_S: Final = 1.0
_SECOND_DEATH_S: Final = 10.0
_RETRY_CEILING_S: Final = 60.0
_WRITERS_LIMIT: Final = 4
"""Writers that do not die of SIGKILL because their disk hangs: one more would only join them."""
COMPACT_ABOVE_BYTES: Final = 4 << 20


class Durability:
    """The journal as the supervisor needs it.

    Attributes:
        degraded: why records are not durable; empty while they are.
        file_bytes: size of the journal when last heard of.
        opened: what the journal held, once it could be read.
        opened_late: it was read only after this nanny had begun without it.
    """

    def __init__(self, client: JournalClient, loop: EventLoop, timeout_s: float) -> None:
        self._client = client
        self._loop = loop
        self._timeout_s = timeout_s
        self._watched = -1
        self._retry_at: float | None = None
        self._retry_s = _RETRY_FIRST_S
        self._died_at = -_SECOND_DEATH_S
        self._started_at = loop.now
        self._writers: set[int] = set()
        self._is_fenced = False
        self.degraded = ""
        self.file_bytes = 0
        self.opened: Opened | None = None
        self.opened_late = False
        self.on_change: Callable[[], None] = lambda: None
        self.on_writer: Callable[[int], None] = lambda _pid: None
        """Told of each writer's pid; whoever reaps it calls ``writer_reaped``."""
        self.snapshot: Callable[[], Sequence[dict[str, Any]]] | None = None
        loop.add_source(DeadlineSource(self.next_deadline, self._on_due))

    def start(self) -> None:
        """Fork the first writer; it opens and replays the journal."""
        self._restart()

    def append(self, records: Sequence[dict[str, Any]]) -> int:
        """Hand records to the writer; the ticket at which all of them are durable."""
        ticket = self._client.append(records, self._loop.now)
        if isinstance(ticket, Overflow):
            self._degrade("too many records are waiting for the disk; a snapshot follows when it answers")
            return self._client.durable_ticket
        return ticket

    def is_durable(self, ticket: int) -> bool:
        """Whether everything up to this ticket is on disk."""
        return ticket <= self._client.durable_ticket and not self.degraded

    @property
    def is_settled(self) -> bool:
        """Whether nothing that was handed over is still on its way to a disk that answers."""
        return bool(self.degraded) or self._client.oldest_unacked_at is None

    @property
    def wants_fresh_start(self) -> bool:
        """Whether the present state lacks what the journal turned out to hold, and nothing is lost by rereading."""
        return self.opened_late and (not self.degraded or self._client.wants_snapshot)

    def next_deadline(self) -> float | None:
        """When the journal counts as degraded, or a writer is tried again."""
        deadlines = [] if self._retry_at is None else [self._retry_at]
        if not self.degraded:
            if self.opened is None:
                deadlines.append(self._started_at + self._timeout_s)
            oldest = self._client.oldest_unacked_at
            if oldest is not None:
                deadlines.append(oldest + self._timeout_s)
        return min(deadlines, default=None)

    def _on_due(self, now: float) -> None:
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            if self.degraded:
                self._restart()
        deadline = self.next_deadline()
        if not self.degraded and deadline is not None and deadline <= now:
            what = "the journal could not be read" if self.opened is None else "records are not written"
            self._degrade(f"{what} within {self._timeout_s:g} s: the disk does not answer")

    def _degrade(self, message: str) -> None:
        failing = self._client.failing
        if failing is not None:
            message = f"{message} ({failing.operation}: {failing.message})"
        self._retry_later()
        if not self.degraded:
            self.degraded = message
            self.on_change()

    def _retry_later(self) -> None:
        if self._retry_at is None and not self._is_fenced:
            self._retry_at = self._loop.now + self._retry_s
            self._retry_s = min(self._retry_s * 2, _RETRY_CEILING_S)

    def writer_reaped(self, pid: int) -> None:
        """A writer is dead and gone."""
        self._writers.discard(pid)

    def _restart(self) -> None:
        if len(self._writers) >= _WRITERS_LIMIT:
            self._retry_later()
            return
        self._unwatch()
        try:
            self._client.restart(self._loop.now)
        except (OSError, NannyError) as error:
            self._degrade(f"no journal writer could be made: {error}")
            return
        self._watched = self._client.fileno()
        self._loop.watch(self._watched, self._on_readable)
        writer = self._client.writer
        if writer is not None:
            self._writers.add(writer.pid)
            os.close(writer.pidfd)
            self.on_writer(writer.pid)
        if self.degraded:
            self._retry_later()

    def _replace_writer(self) -> None:
        """A writer that dies is replaced at once, one that dies again soon only after a wait.

        What it had not answered is sent again; if the next one does not answer in time, that counts as any silence.
        """
        died_before_at, self._died_at = self._died_at, self._loop.now
        if self.degraded or self._loop.now - died_before_at < _SECOND_DEATH_S:
            self._degrade("the journal writer is gone")
        else:
            self._restart()

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.unwatch(self._watched)
            self._watched = -1

    def _on_readable(self) -> None:
        for event in self._client.on_readable(self._loop.now):
            match event:
                case Opened():
                    self.opened = event
                    self.opened_late = bool(self.degraded)
                case Durable(_, file_bytes) | CompactionDone(file_bytes):
                    self.file_bytes = file_bytes
                    if self._may_compact() and file_bytes > COMPACT_ABOVE_BYTES:
                        self.compact()
                case Failed(operation, _, message):
                    if operation == "fenced":
                        self._is_fenced, self._retry_at = True, None
                        self._degrade(f"another nanny writes to this journal: {message}; end one of the two")
                    elif operation in {"open", "append"}:
                        self._degrade(f"{operation}: {message}")
                    elif operation == "gap" and self._may_compact():
                        self.compact()
                case WriterGone():
                    self._unwatch()
                    self._replace_writer()
                case Reopened():
                    pass
        if self._client.fileno() != self._watched:
            self._unwatch()
        if self._may_compact() and self.degraded and self._client.wants_snapshot:
            self.compact()
        if self.degraded and self._is_whole():
            self.degraded = ""
            self._retry_at = None
            self._retry_s = _RETRY_FIRST_S
        self.on_change()

    def compact(self) -> None:
        """Replace the journal by the records of the present state."""
        assert self.snapshot is not None
        self._client.compact(self.snapshot(), self._loop.now)

    def _may_compact(self) -> bool:
        """Not while the present state has never seen what the journal held: that would be lost."""
        return self.snapshot is not None and self.opened is not None and not self.opened_late

    def _is_whole(self) -> bool:
        client = self._client
        if client.fileno() < 0 or client.wants_snapshot or client.failing is not None:
            return False
        return self.opened is not None and client.oldest_unacked_at is None

    def close(self) -> None:
        """Let the writer finish what it was sent."""
        self._unwatch()
        self._client.close()
