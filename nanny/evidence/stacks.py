"""A worker's Python stacks: asked for by signal, written by its faulthandler into a memfd, read from there.

The signal's default action would end the worker, so it is sent only where SigCgt shows a handler, and not to a
process that could not run the handler: stopped, traced, in D state or dead. The answer needs neither the GIL
nor the event loop of the worker. It is complete when the memfd stops growing.

The offset of the memfd is shared with the worker: it is read with pread only, and moved only to make room in a
full one. faulthandler.register, proc_pid_status(5), signal(7).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

from nanny.errors import HostError
from nanny.linux import memfd, pidfd, procfs
from nanny.protocol.stack_signal import STACK_SIGNAL

STACKS_FD: Final = 4
"""Where a worker has the memfd (nanny.worker_spec), to find it again in one that was adopted."""
LIMIT_BYTES: Final = 4 << 20
COPY_LIMIT_BYTES: Final = 1 << 20
WAIT_S: Final = 0.4
_QUIET_S: Final = 0.03
_POLL_S: Final = 0.005
_DEAF_STATES: Final = {
    "T": "the worker is stopped",
    "t": "the worker is stopped by a debugger",
    "D": "the worker sleeps uninterruptibly",
    "Z": "the worker is dead",
    "X": "the worker is dead",
}


@dataclass(frozen=True, slots=True)
class Stacks:
    """What was to be had."""

    text: bytes
    problem: str
    """Why there are no fresh stacks; empty when there are."""
    state: str = "?"
    """The main thread's state when we looked."""


def open_stacks(pid: int, proc: str = "/proc") -> int | None:
    """Open the memfd of an adopted worker by way of its descriptor table; None if it has none there."""
    path = f"{proc}/{pid}/fd/{STACKS_FD}"
    try:
        if not os.readlink(path).startswith("/memfd:"):
            return None
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def left_behind(fd: int) -> bytes:
    """What a dead worker's memfd holds: the stacks of its crash, if it had time for them.

    Raises:
        HostError: the descriptor cannot be read.
    """
    return memfd.read_all(fd, LIMIT_BYTES)[-COPY_LIMIT_BYTES:]


def ask(pid: int, worker_pidfd: int, fd: int | None, deadline_at: float) -> Stacks:
    """Ask a living worker for its stacks and wait for them, until the deadline (CLOCK_MONOTONIC) at most.

    Raises:
        HostError: /proc or the memfd cannot be read.
    """
    try:
        state = procfs.read_stat(pid).state
        status = procfs.read_status(pid)
    except ProcessLookupError:
        return Stacks(b"", "the worker is gone", "X")
    problem = _DEAF_STATES.get(state, "")
    if not procfs.has_signal(status.signals_caught, STACK_SIGNAL):
        problem = problem or "the worker handles no stack signal"
    if fd is None:
        problem = problem or "the worker has no memfd for stacks"
    if procfs.has_signal(status.shared_pending, STACK_SIGNAL):
        problem = problem or "the worker has not answered an earlier request"
    if problem or fd is None:
        return Stacks(b"", problem, state)
    begin = _written(fd)
    if not pidfd.send_signal(worker_pidfd, STACK_SIGNAL):
        return Stacks(b"", "the worker is gone", "X")
    text = _await_answer(fd, begin, min(deadline_at, time.monotonic() + WAIT_S))
    if not text:
        return Stacks(b"", "no answer to the stack signal in time", state)
    return Stacks(text[:COPY_LIMIT_BYTES], "", state)


def _written(fd: int) -> int:
    """Where the next dump will begin; a memfd that is nearly full is emptied for it."""
    length = len(memfd.read_all(fd, LIMIT_BYTES))
    if length > LIMIT_BYTES - COPY_LIMIT_BYTES:
        try:
            # Only by the worker's own open file: of an adopted one we have another, which is read-only.
            os.pwrite(fd, bytes(length), 0)
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError:
            return length
        return 0
    return length


def _await_answer(fd: int, begin: int, deadline_at: float) -> bytes:
    answer = b""
    changed_at = time.monotonic()
    while True:
        more = _read_on(fd, begin + len(answer))
        now = time.monotonic()
        if more:
            answer += more
            changed_at = now
        if (answer and now - changed_at >= _QUIET_S) or now >= deadline_at:
            return answer
        time.sleep(_POLL_S)


def _read_on(fd: int, offset: int) -> bytes:
    try:
        return os.pread(fd, COPY_LIMIT_BYTES, offset).rstrip(b"\0")
    except OSError as error:
        raise HostError.from_os_error("read a memfd", error, degraded="captured stacks are lost") from error
