"""A JournalClient and what the nanny's loop would do with it, for tests: real writer processes, real files."""

import os
import select
import time
from collections.abc import Callable
from typing import Any

from nanny.journal.client import JournalClient
from nanny.journal.events import Durable, JournalEvent, Opened
from nanny.journal.records_file import parse
from tests.support.small_fork import SmallForked, SmallForks

BOOT = "5f7c"
WALL = "2026-11-20T12:00:00.000Z"


class Drive:
    """Runs one client; keeps all events it gave."""

    def __init__(self, forks: SmallForks, path: str, epoch: str = "epoch-1") -> None:
        self.forks = forks
        self.client = JournalClient(forks, path, epoch, BOOT, lambda: WALL)
        self.events: list[JournalEvent] = []
        self._looked_at = 0

    def start(self) -> Opened:
        """Start a writer and give what it found."""
        self.client.start(time.monotonic())
        opened = self.until(lambda event: isinstance(event, Opened))
        self.until(lambda event: isinstance(event, Durable))
        assert isinstance(opened, Opened)
        return opened

    def turn(self, timeout_s: float) -> list[JournalEvent]:
        """Wait for the writer for at most this long; the new events."""
        if self.client.fileno() < 0 or not select.select([self.client.fileno()], [], [], timeout_s)[0]:
            return []
        events = self.client.on_readable(time.monotonic())
        self.events += events
        return events

    def until(self, is_it: Callable[[JournalEvent], object], timeout_s: float = 20.0) -> JournalEvent:
        """Turn until an event is the one; it and those before it are not looked at again."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._looked_at < len(self.events):
                event = self.events[self._looked_at]
                self._looked_at += 1
                if is_it(event):
                    return event
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"no such event in {timeout_s} s; the last: {str(self.events[-5:])[:2000]}"
                )
            self.turn(0.05)

    def append(self, *records: dict[str, Any]) -> int:
        """Append; the ticket."""
        ticket = self.client.append(records, time.monotonic())
        assert isinstance(ticket, int), ticket
        return ticket

    def until_durable(self, ticket: int, timeout_s: float = 20.0) -> None:
        """Turn until all up to the ticket is acknowledged."""
        deadline = time.monotonic() + timeout_s
        while self.client.durable_ticket < ticket:
            assert time.monotonic() < deadline, f"{ticket} not durable, only {self.client.durable_ticket}"
            self.turn(0.05)

    @property
    def writer(self) -> SmallForked:
        """The present writer's process."""
        assert isinstance(self.client.writer, SmallForked)
        return self.client.writer

    def close(self) -> None:
        """End the writer as a nanny does that leaves, and reap it."""
        self.client.close()
        assert self.forks.wait_for_exit(self.writer) == 0


def kinds(opened: Opened) -> list[str]:
    """The types of the records found."""
    return [record["type"] for record in opened.records]


def journal_files(directory: str) -> list[str]:
    """What lies in the state directory, the reserve apart."""
    return sorted(name for name in os.listdir(directory) if not name.endswith(".reserve"))


def newest(directory: str) -> str:
    """The path of the journal proper."""
    names = [name for name in os.listdir(directory) if name.startswith("journal.0")]
    return os.path.join(directory, max(name for name in names if name.endswith(".jsonl")))


def numbers_in(path: str) -> list[int]:
    """The record numbers of a whole file."""
    with open(path, "rb") as file:
        parsed = parse(file.read())
    assert (parsed.torn_bytes, parsed.damaged_bytes, parsed.duplicates) == (0, 0, 0), parsed.reason
    return [record["n"] for record in parsed.records]
