"""One named way for each thing that goes wrong with a worker: programs that break, and what breaks them from outside.

A program is Python for ``node.begin(program)``: it beats, is ready, and breaks when it is told to by a file (``cue``),
so that the fault's instant is the test's. Outside makers take the pid. Nothing here knows what should follow.
prctl(2), setrlimit(2), signal(7).
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.fault_node import send
from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

WITH_CUE = (
    PRELUDE
    + """
import threading
CUE = sys.argv[1]
def wait_for_cue():
    while not os.path.exists(CUE):
        time.sleep(0.01)
    os.unlink(CUE)
def beats_in_thread(extra=""):
    threading.Thread(target=beat_for_ever, args=(extra,), daemon=True).start()
def until_cue():
    tell("READY=1\\nWATCHDOG=1")
    while not os.path.exists(CUE):
        tell("WATCHDOG=1")
        time.sleep(0.05)
    os.unlink(CUE)
"""
)
"""Before every program: `until_cue()` beats until told; `wait_for_cue()` waits and leaves the beats to a thread."""


def program(*lines: str, node: FaultNode) -> tuple[str, ...]:
    """A worker that runs these lines after WITH_CUE; give it to ``node.begin``."""
    import sys

    return (sys.executable, "-I", "-S", "-c", WITH_CUE + "\n".join(lines), cue_path(node))


def cue_path(node: FaultNode) -> str:
    """The file that a program waits for."""
    return str(node.directory / "cue")


def cue(node: FaultNode) -> None:
    """Tell the worker to break; returns when it has seen it."""
    path = Path(cue_path(node))
    path.touch()
    wait_until(lambda: not path.exists(), 20.0, "the worker to see its cue")


# Programs


def dies_by_abort(node: FaultNode) -> tuple[str, ...]:
    """abort(3), as a driver library's assertion does."""
    return program("until_cue()", "os.abort()", node=node)


def dies_by_segv(node: FaultNode) -> tuple[str, ...]:
    """A null pointer read in native code."""
    return program("import ctypes", "until_cue()", "ctypes.string_at(0)", node=node)


def holds_gil(node: FaultNode) -> tuple[str, ...]:
    """C code that keeps the GIL: nothing of Python runs any more, the thread with the beats included."""
    return program(
        "import ctypes", "beats_in_thread()", "wait_for_cue()", "ctypes.PyDLL(None).sleep(600)", node=node
    )


def spins_without_beats(node: FaultNode) -> tuple[str, ...]:
    """A busy loop in the thread that should beat."""
    return program("until_cue()", "while True: pass", node=node)


def blocks_loop_while_beating(node: FaultNode) -> tuple[str, ...]:
    """The event loop stands, the beats' own thread goes on and says so (X_LOOP_LAG_US)."""
    return program(
        "stalled_at = []",
        "def beats():",
        '    tell("READY=1\\nWATCHDOG=1")',
        "    while True:",
        "        lag = time.monotonic() - stalled_at[0] if stalled_at else 0.0",
        '        tell(f"WATCHDOG=1\\nX_LOOP_LAG_US={int(lag * 1e6)}")',
        "        time.sleep(0.1)",
        "threading.Thread(target=beats, daemon=True).start()",
        "wait_for_cue()",
        "stalled_at.append(time.monotonic())",
        "time.sleep(600)",
        node=node,
    )


# From outside


def stop(pid: int) -> None:
    """SIGSTOP, as a debugger, job control or a freezer does."""
    send(pid, signal.SIGSTOP)


def oom_kill(pid: int) -> None:
    """SIGKILL from nowhere, as the OOM killer does."""
    send(pid, signal.SIGKILL)


def limit_descriptors(pid: int, limit: int) -> None:
    """From now on the process gets EMFILE at `limit` open descriptors."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))


def limit_processes(pid: int, limit: int) -> None:
    """From now on the process gets EAGAIN from fork at `limit` processes of its user (not root's)."""
    resource.prlimit(pid, resource.RLIMIT_NPROC, (limit, limit))


def descriptors_of(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
