"""Collects the deaths of all children in one place and tells each child's owner exactly once.

A zombie is looked at first (WNOWAIT) and reaped by its pid afterwards, so that no status goes astray.
Orphans that a subreaper or PID 1 adopts are reaped and counted. It runs when the loop has seen SIGCHLD, and
again each turn while it says that more is left.

It knows neither pidfds nor what a child was for. Adopted workers are no children of ours: their status is
`UNKNOWN`. waitid(2), PR_SET_CHILD_SUBREAPER in prctl(2).
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

# Statuses of children that died and were reaped before anyone asked for them.
_UNCLAIMED_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: with a code, by a signal, or nobody knows."""

    code: int | None
    signal: int | None
    core_dumped: bool = False

    @classmethod
    def from_waitid(cls, result: os.waitid_result) -> Self:
        """Give the status that waitid(2) told."""
        if result.si_code == os.CLD_EXITED:
            return cls(result.si_status, None)
        return cls(None, result.si_status, result.si_code == os.CLD_DUMPED)

    def __str__(self) -> str:
        if self.code is not None:
            return f"exit code {self.code}"
        if self.signal is None:
            return "unknown"
        return signal_name(self.signal) + (" (core dumped)" if self.core_dumped else "")


UNKNOWN: Final = ExitStatus(None, None)

OnExit = Callable[[int, ExitStatus], None]


def signal_name(signum: int) -> str:
    """Give "SIGKILL" for 9, "signal 40" for one without a name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


class Reaper:
    """Waits for every child of this process; nothing else in it may.

    Attributes:
        reaped_total: all children reaped.
        strangers_total: those of them that nobody had registered when they were reaped.
    """

    def __init__(self) -> None:
        self.reaped_total = 0
        self.strangers_total = 0
        self._owners: dict[int, OnExit] = {}
        self._unclaimed: dict[int, ExitStatus] = {}

    def register(self, pid: int, on_exit: OnExit) -> None:
        """Have `on_exit(pid, status)` called once, when the child has been reaped.

        It is called from here, at once, if the child is dead already, whether `reap` met it before or not. A
        pid that neither is a child nor was one of the last 64 unclaimed is told as UNKNOWN.
        """
        assert pid not in self._owners, f"child {pid} has an owner"
        claimed = self._unclaimed.pop(pid, UNKNOWN)
        try:
            is_dead = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            on_exit(pid, claimed)
            return
        # A living child or a zombie of this pid: what was unclaimed belonged to an earlier bearer of it.
        self._owners[pid] = on_exit
        if is_dead:
            self._take(pid)

    def forget(self, pid: int) -> None:
        """Drop the owner; the child will be reaped as a stranger."""
        self._owners.pop(pid, None)

    def reap_child(self, pid: int) -> None:
        """Reap this child now if it is dead, however many others are; nothing happens if it is none of ours."""
        try:
            is_dead = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return
        if is_dead:
            self._take(pid)

    def reap(self, limit: int = 64) -> bool:
        """Reap at most `limit` dead children, owners called in the order of death's discovery; never waits.

        Returns:
            whether more may be left: call again in the next turn.
        """
        for _ in range(limit):
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if dead is None:
                return False
            self._take(dead.si_pid)
        return True

    def _take(self, pid: int) -> None:
        """Reap a zombie and tell its owner; an owner's exception reaches our caller with nothing lost."""
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        assert result is not None, f"{pid} was dead a moment ago, and only the reaper waits"
        status = ExitStatus.from_waitid(result)
        self.reaped_total += 1
        on_exit = self._owners.pop(pid, None)
        if on_exit is not None:
            on_exit(pid, status)
            return
        self.strangers_total += 1
        self._unclaimed.pop(pid, None)
        self._unclaimed[pid] = status
        if len(self._unclaimed) > _UNCLAIMED_LIMIT:
            del self._unclaimed[next(iter(self._unclaimed))]
