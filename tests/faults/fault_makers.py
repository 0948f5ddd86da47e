"""One named way for each thing that goes wrong with a worker: programs that break, and what breaks them from outside.

A program is what ``node.begin`` is given: it is ready, beats, and breaks when it is told to by a file (``cue``), so
that the fault's instant is the test's. Outside makers take the pid. Nothing here knows what should follow.
prctl(2), setrlimit(2), signal(7).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nanny.protocol.stack_signal import STACK_SIGNAL
from tests.faults.fault_node import send
from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

Program = tuple[str, ...]
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


def program(node: FaultNode, *lines: str) -> Program:
    """A worker that runs these lines after WITH_CUE."""
    return (sys.executable, "-I", "-S", "-c", WITH_CUE + "\n".join(lines), cue_path(node))


def cue_path(node: FaultNode) -> str:
    """The file that a program waits for."""
    return str(node.directory / "cue")


def cue(node: FaultNode) -> None:
    """Tell the worker to break; returns when it has seen it."""
    path = Path(cue_path(node))
    path.touch()
    wait_until(lambda: not path.exists(), 20.0, "the worker to see its cue")


# Programs that die


def dies_at_import(node: FaultNode) -> Program:
    """Imports a module of its own, which ``break_module`` breaks as a bad update does."""
    place = str(node.directory)
    (node.directory / "wheel_of_ours.py").write_text("works = True\n")
    return program(node, "sys.dont_write_bytecode = True", f"sys.path.insert(0, {place!r})", "import wheel_of_ours", "beat_for_ever()")  # fmt: skip


def break_module(node: FaultNode, *, whole: bool = False) -> None:
    """Let the module that ``dies_at_import`` needs be broken, or whole again."""
    text = "works = True\n" if whole else "raise ImportError('bad wheel')\n"
    new = node.directory / "wheel_of_ours.new"
    new.write_text(text)
    new.rename(node.directory / "wheel_of_ours.py")


def dies_after_ready(node: FaultNode, after_s: float) -> Program:
    """Exits with 1 so long after READY=1, until the file ``mended`` is there."""
    mended = str(node.directory / "mended")
    return program(
        node,
        'tell("READY=1\\nWATCHDOG=1")',
        f"until = time.monotonic() + {after_s}",
        f"while os.path.exists({mended!r}) or time.monotonic() < until:",
        '    tell("WATCHDOG=1")',
        "    time.sleep(0.05)",
        "sys.exit(1)",
    )


def dies_by_segv(node: FaultNode) -> Program:
    """A null pointer read in native code."""
    return program(node, "import ctypes", "until_cue()", "ctypes.string_at(0)")


def dies_by_abort(node: FaultNode) -> Program:
    """abort(3), as a driver library's assertion does."""
    return program(node, "until_cue()", "os.abort()")


def leaves_grandchildren(node: FaultNode) -> Program:
    """Forks children that hold its output and every descriptor, one in a session of its own, and dies."""
    return program(
        node,
        "import fcntl",
        "until_cue()",
        "for fd in map(int, os.listdir('/proc/self/fd')):",
        "    try: os.set_inheritable(fd, True)",
        "    except OSError: pass",
        "for n in range(3):",
        "    if os.fork() == 0:",
        "        if n == 0: os.setsid()",
        "        if n == 1: signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "        os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'])",
        "os._exit(1)",
    )


def dies_of_emfile(node: FaultNode) -> Program:
    """Opens files until it may not, and dies of the error."""
    return program(
        node,
        "import resource",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
        "until_cue()",
        "leaked = []",
        "while True: leaked.append(open('/dev/null'))",
    )


# Programs that hang


def holds_gil(node: FaultNode) -> Program:
    """C code that keeps the GIL: nothing of Python runs any more, the thread with the beats included."""
    return program(
        node, "import ctypes", "beats_in_thread()", "wait_for_cue()", "ctypes.PyDLL(None).sleep(600)"
    )


def spins_without_beats(node: FaultNode) -> Program:
    """A busy loop in the thread that should beat."""
    return program(node, "until_cue()", "while True: pass")


def blocks_loop_while_beating(node: FaultNode) -> Program:
    """The event loop stands, the beats' own thread goes on and says so (X_LOOP_LAG_US)."""
    return program(
        node,
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
    )


def hangs_in_dump(node: FaultNode) -> Program:
    """Its stack signal and its SIGABRT both write stacks into a pipe that nobody reads, and hang there."""
    return program(
        node,
        "import faulthandler",
        "r, w = os.pipe()",
        "os.set_blocking(w, False)",
        "try:",
        "    while True: os.write(w, b'x' * 4096)",
        "except BlockingIOError: pass",
        "os.set_blocking(w, True)",
        "faulthandler.enable(file=w)",
        f"faulthandler.register({int(STACK_SIGNAL)}, file=w)",
        "until_cue()",
        "time.sleep(600)",
    )


def ignores_term(node: FaultNode) -> Program:
    """Beats and takes no notice of SIGTERM."""
    return program(node, "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "beat_for_ever()")


def wedged_by_term(node: FaultNode) -> Program:
    """Its SIGTERM handler waits for a lock that the interrupted code holds, and it ignores SIGABRT."""
    return program(
        node,
        "signal.signal(signal.SIGABRT, signal.SIG_IGN)",
        "lock = threading.Lock()",
        "signal.signal(signal.SIGTERM, lambda *_: lock.acquire())",
        "lock.acquire()",
        "beat_for_ever()",
    )


def storms(node: FaultNode) -> Program:
    """Writes as many lines as go, from a thread; the main thread beats until its cue and then hangs."""
    return program(
        node,
        "def storm():",
        "    line = b'the same line of a log that nobody will read\\n' * 200",
        "    while True: os.write(1, line)",
        "threading.Thread(target=storm, daemon=True).start()",
        "until_cue()",
        "time.sleep(600)",
    )


def cannot_fork(node: FaultNode, *, dies: bool) -> Program:
    """Starts a child at its cue; what it gets for an answer goes to ``forked``, and may kill it."""
    told = str(node.directory / "forked")
    return program(
        node,
        "until_cue()",
        "try:",
        "    if os.fork() == 0: os._exit(0)",
        "    said = 'a child'",
        "except OSError as error: said = error.strerror",
        f"with open({told!r}, 'w') as file: file.write(said)",
        *(["sys.exit(1)"] if dies else ["beat_for_ever()"]),
    )


# The repository's own agent


def own_agent(node: FaultNode, **settings: str) -> tuple[Program, str]:
    """The agent with its faults open to ``order``, and the flag with its environment; give both to ``begin``."""
    environ = {
        "AGENT_SERVER_URL": "http://127.0.0.1:9",
        "AGENT_NODE_NAME": "tested",
        "AGENT_FAULT_INJECTION": "true",
        "AGENT_FAULT_SOCKET": str(node.directory / "faults"),
        "AGENT_SAMPLE_INTERVAL_S": "0.5",
        **{f"AGENT_{key.upper()}": value for key, value in settings.items()},
    }
    return (sys.executable, "-m", "agent.cli"), f"--environment={json.dumps(environ)}"


def order(node: FaultNode, text: str) -> None:
    """Break the agent: ``block 60``, ``spin 60``, ``gil 60``, ``ignore-term``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), str(node.directory / "faults"))


# From outside


def stop(pid: int) -> None:
    """SIGSTOP, as a debugger, job control or a freezer does."""
    send(pid, signal.SIGSTOP)


def oom_kill(pid: int) -> None:
    """SIGKILL from nowhere, as the OOM killer does."""
    send(pid, signal.SIGKILL)


def limit_descriptors(pid: int, limit: int) -> tuple[int, int]:
    """From now on the process gets EMFILE at `limit` open descriptors; gives the limits of before."""
    return resource.prlimit(
        pid, resource.RLIMIT_NOFILE, (limit, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1])
    )


def descriptors_of(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
