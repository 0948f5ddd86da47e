"""The door through which signals enter a selector loop: a readable descriptor and the set of what arrived.

The wake-up descriptor only wakes; what arrived is noted by the Python-level function in a set. So a burst
that fills the socket loses nothing, and a signal to a forked child that still shares the socket is not taken
for one to us: it wakes the loop for nothing, the set stays empty.

Main thread only. Signals of one kind merge, as the kernel's do. signal(7), Python's signal.set_wakeup_fd.
"""

import signal
import socket
from collections.abc import Callable, Iterable
from types import FrameType

_CHUNK_BYTES = 4096

_Disposition = Callable[[int, FrameType | None], object] | int | None


class SignalDoor:
    """Turns signals into readiness. One a process; `close` restores what was before."""

    def __init__(self) -> None:
        self._arrived: set[int] = set()
        self._before: dict[int, _Disposition] = {}
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Give the descriptor to select for reading."""
        return self._inside.fileno()

    def watch(self, signums: Iterable[int]) -> None:
        """Let these signals come in by the door instead of having their effect."""
        for signum in signums:
            before = signal.signal(signum, self._note)
            self._before.setdefault(signum, before)

    def drain(self) -> set[int]:
        """Give the signals that arrived since the last call and reset the readiness; never waits."""
        try:
            # The jump back of this loop is where CPython runs `_note` for whatever woke us.
            while self._inside.recv(_CHUNK_BYTES):
                pass
        except BlockingIOError:
            pass
        arrived, self._arrived = self._arrived, set()
        return arrived

    def close(self) -> None:
        """Restore the former dispositions and wake-up descriptor; a second call does nothing."""
        if self.fileno() < 0:
            return
        for signum, before in self._before.items():
            # None: installed by C code that Python cannot name.
            signal.signal(signum, signal.SIG_DFL if before is None else before)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        self._inside.close()
        self._outside.close()

    def reset_in_child(self) -> None:
        """In a forked child: let signals have their default effect again and stop waking the parent."""
        signal.set_wakeup_fd(-1)
        for signum in self._before:
            signal.signal(signum, signal.SIG_DFL)
        self._before.clear()
        self._inside.close()
        self._outside.close()

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._arrived.add(signum)
