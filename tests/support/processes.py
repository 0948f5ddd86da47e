"""Real processes for tests: started, watched and always ended by pidfd.

`spawn_python` starts a child that cannot outlive its `with` block; `wait_until` polls for a *state* where no
event can be awaited; `Belongings` is what `leaves_nothing_behind` (tests/conftest.py) compares before and
after a test.

It knows nothing of the nanny, so that no test of ours leans on the code under test. pidfd_open(2), proc(5).
"""

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

POLL_INTERVAL_S = 0.005
REAP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A running child with its pidfd; `popen` gives its pipes."""

    popen: "subprocess.Popen[bytes]"
    pidfd: int

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.popen.pid

    def send_signal(self, signum: int) -> None:
        """Send a signal by pidfd; nothing happens if the child was reaped already."""
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except ProcessLookupError:
            return

    def wait_for_exit(self, timeout_s: float = 10.0) -> int:
        """Reap the child and give its return code as subprocess does (negative: the signal).

        Raises:
            AssertionError: it still runs after `timeout_s`.
        """
        if not select.select([self.pidfd], [], [], timeout_s)[0]:
            raise AssertionError(f"process {self.pid} still runs after {timeout_s} s")
        return self.popen.wait(timeout=REAP_TIMEOUT_S)

    def read_line(self, timeout_s: float = 10.0) -> str:
        """Give the next line of the child's stdout, without its newline; '' at end of file.

        Read byte by byte past any buffer, so that `select` on the pipe never lies.

        Raises:
            AssertionError: no whole line came within `timeout_s`.
        """
        assert self.popen.stdout is not None, "start it with stdout=subprocess.PIPE"
        fd = self.popen.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"process {self.pid} wrote no line within {timeout_s} s, only {line!r}")
            byte = os.read(fd, 1)
            if not byte:
                break
            line += byte
        return line.decode().rstrip("\n")


@contextmanager
def spawn_python(code: str, *, argv: tuple[str, ...] = (), **popen_kw: Any) -> Iterator[StartedProcess]:
    """Run `python -c code *argv` (stdout and stdin are pipes unless told) and kill and reap it at the end.

    Args:
        code: the program; `print("ready", flush=True)` and `read_line()` make a handshake.
        argv: its sys.argv[1:].
        popen_kw: passed to subprocess.Popen (env, pass_fds, stderr, preexec_fn, start_new_session...).
    """
    popen_kw.setdefault("stdin", subprocess.PIPE)
    popen_kw.setdefault("stdout", subprocess.PIPE)
    popen = subprocess.Popen([sys.executable, "-c", code, *argv], **popen_kw)
    started = StartedProcess(popen, os.pidfd_open(popen.pid))
    try:
        yield started
    finally:
        # SIGKILL also ends a stopped process; a reaped one answers ESRCH.
        started.send_signal(signal.SIGKILL)
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                # What was buffered for a dead child is nobody's loss.
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            popen.wait(timeout=REAP_TIMEOUT_S)
        finally:
            os.close(started.pidfd)


def wait_until(predicate: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll until `predicate()` is true.

    Args:
        predicate: reads a state; must not consume a passing event.
        timeout_s: be generous, several times the expected time: the machine is busy.
        what: completes "waited 5.0 s for ..." in the failure.

    Raises:
        AssertionError: it did not become true; the message holds the last value.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last = predicate()
        if last:
            return
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout_s} s for {what}; last seen: {last!r}")
        time.sleep(POLL_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a test process owns that could leak: descriptors, direct children (zombies too), threads."""

    descriptors: frozenset[tuple[int, str]]
    children: frozenset[tuple[int, str]]
    threads: frozenset[tuple[int, str]]

    def minus(self, other: "Belongings") -> "Belongings":
        """Give what is here and was not in `other`."""
        return Belongings(
            self.descriptors - other.descriptors,
            self.children - other.children,
            self.threads - other.threads,
        )

    def __bool__(self) -> bool:
        return bool(self.descriptors or self.children or self.threads)


def belongings() -> Belongings:
    """Take stock of this process, after a garbage collection."""
    gc.collect()
    threads = frozenset((t.ident or 0, t.name) for t in threading.enumerate())
    return Belongings(_descriptors(), _children(), threads)


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return frozenset(found)


def _children() -> frozenset[tuple[int, str]]:
    found = set()
    me = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat_file:
                head, _, tail = stat_file.read().rpartition(b")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(tail.split()[1]) == me:
            found.add((int(name), head.decode(errors="replace").partition("(")[2]))
    return frozenset(found)
