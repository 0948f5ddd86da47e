"""A node's disk, and the journal as one nanny has it there: durable after a moment, or silent, or failing.

Stands in for the journal's client and its writer process, with the interface of `nanny.durability.Durability`. Knows no
records, only lines: plain objects that go through the record's own reader when a nanny starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.machine import Machine

SYNC_S: Final = 0.004
JOURNAL_TIMEOUT_S: Final = 1.0
_COMPACT_ABOVE_LINES: Final = 150
_WAITING_LIMIT: Final = 100
"""Lines that wait for a silent disk; beyond it a snapshot takes their place when it answers."""

Lines = list[dict[str, Any]]


@dataclass(slots=True)
class Disk:
    """What outlives nannies and boots."""

    lines: Lines = field(default_factory=list)
    silent_until: float = 0.0
    """In the world's time."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What the journal held: as the journal's own event of this name, as far as recovery reads it."""

    records: tuple[dict[str, Any], ...]
    epoch: str = ""
    torn_bytes: int = 0
    damaged: str | None = None


class SimulatedDurability:
    """One nanny's journal."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._disk = machine.disk
        self._unsynced: Lines = []
        self._oldest_at = 0.0
        self._taken = self._durable = 0
        self._is_closed = self._is_syncing = self._wants_snapshot = False
        self.degraded = ""
        self.opened: Opened | None = None
        self.opened_late = False
        self.on_change: Callable[[], None] = lambda: None
        self.snapshot: Callable[[], Lines] | None = None
        if self.is_silent:
            self.degraded = "the journal could not be read within 1 s: the disk does not answer"
            self._await_answer()
        else:
            self._open()

    @property
    def is_silent(self) -> bool:
        """Whether the disk does not answer now."""
        return self._machine.world.now < self._disk.silent_until

    def _open(self) -> None:
        self.opened = Opened(tuple(self._disk.lines))

    def append(self, lines: Sequence[dict[str, Any]]) -> int:
        """Take lines; gives the ticket at which they are durable. The nanny may die before and after each."""
        for line in lines:
            self._machine.survive_effect()
            if not self._unsynced:
                self._oldest_at = self._machine.world.now
            self._unsynced.append({**line, "boot": self._machine.boot_id})
            self._taken += 1
        if len(self._unsynced) > _WAITING_LIMIT:
            self._wants_snapshot = True
        self._see_to_it()
        return self._taken

    def is_durable(self, ticket: int) -> bool:
        """Whether everything up to this ticket is on the disk."""
        return ticket <= self._durable and not self.degraded

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way to a disk that answers."""
        return bool(self.degraded) or not self._unsynced

    @property
    def wants_fresh_start(self) -> bool:
        """Whether the journal was read only after this nanny had begun without it."""
        return self.opened_late and not self.degraded

    def _see_to_it(self) -> None:
        if self.is_silent:
            if not self.degraded:
                self._machine.world.at(self._oldest_at + JOURNAL_TIMEOUT_S, self._overdue)
            self._await_answer()
        elif not self._is_syncing:
            self._is_syncing = True
            self._machine.world.after(SYNC_S, self._sync)

    def _await_answer(self) -> None:
        self._machine.world.at(self._disk.silent_until + SYNC_S, self._sync)

    def fell_silent(self) -> None:
        """The disk stopped answering; what is on its way hangs."""
        if self._unsynced:
            self._see_to_it()

    def fail(self, message: str) -> None:
        """The disk answers with an error."""
        if not self.degraded and not self._is_closed:
            self.degraded = message
            self._await_answer()
            self._machine.journal_changed()

    def _overdue(self) -> None:
        late = self._unsynced and self._machine.world.now >= self._oldest_at + JOURNAL_TIMEOUT_S - 1e-9
        if late and self.is_silent:
            self.fail("records are not written within 1 s: the disk does not answer")

    def _sync(self) -> None:
        self._is_syncing = False
        if self._is_closed:
            return
        if self.is_silent:
            self.fell_silent()
            if self.degraded:
                self._await_answer()
            return
        if self.opened is None:
            self._open()
            self.opened_late = True
        if self._wants_snapshot and self.snapshot is not None and not self.opened_late:
            self._disk.lines = self.snapshot()
        else:
            self._disk.lines += self._unsynced
        self._wants_snapshot = False
        self._unsynced.clear()
        self._durable = self._taken
        if len(self._disk.lines) > self._limit and self.snapshot is not None and not self.opened_late:
            self._disk.lines = self.snapshot()
            self._limit = 2 * len(self._disk.lines) + _COMPACT_ABOVE_LINES
        self.degraded = ""
        self._machine.journal_changed()

    _limit = _COMPACT_ABOVE_LINES

    def abandon(self, surviving: int) -> Lines:
        """The nanny is gone; so many of the lines that it had handed over still reach the disk. Gives the others."""
        self._is_closed = True
        reached = 0 if self.is_silent else surviving
        self._disk.lines += self._unsynced[:reached]
        lost, self._unsynced = self._unsynced[reached:], []
        return lost
