"""Whole nodes for tests: a real `nanny run` with a real worker, driven over its control socket, ended in order.

`running_nanny` gives a node in a short directory of its own; when the block ends well, the nanny is asked to end
and nothing of the node may be left: no process, no cgroup, no socket. When it ends badly, everything is swept and
the failure stands. Every process of a node inherits a mark in its environment, by which it is found whatever
became of its parents, and is signalled by pidfd.

It speaks the control socket's JSON lines itself: no test leans on the client under test. unix(7), cgroups(7).
"""

import json
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self
from zlib import crc32

from tests.support.processes import wait_until

MARK = "NODE_UNDER_TEST"
END_TIMEOUT_S = 30.0
STATE_TIMEOUT_S = 30.0

NOTIFY_PRELUDE = """\
import os, signal, socket, sys, time

_door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

def notify(text):
    try:
        _door.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
    except OSError:
        pass  # no nanny at the moment

def beat_for_ever(interval_s=0.1):
    while True:
        notify("WATCHDOG=1")
        time.sleep(interval_s)
"""
"""Put before every `worker_code`: `notify("READY=1")`, `beat_for_ever()`, and the usual modules."""

BEATING_WORKER = """\
print("hello from", os.environ["NANNY_INCARNATION"], flush=True)
notify("READY=1\\nWATCHDOG=1")
beat_for_ever()
"""
"""The default: ready at once, beats, ends on SIGTERM."""

DEFAULT_SETTINGS: Mapping[str, Any] = {"port": 0, "stop_grace_s": 5.0, "backoff_initial_s": 0.1}


class RequestRefused(Exception):  # noqa: N818 - it says what happened
    """The nanny answered ok: false; the message is its error."""


class ControlLines:
    """One raw connection to a control socket; what is sent and received is up to the test."""

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = b""
        try:
            self.socket.settimeout(timeout_s)
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one line."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Give the next line.

        Raises:
            TimeoutError: none came.
            ConnectionError: the nanny closed the connection.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError("the control connection was closed")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        assert isinstance(message, dict), line
        return message

    def receive_until(
        self, holds: Callable[[dict[str, Any]], object], timeout_s: float = 20.0
    ) -> dict[str, Any]:
        """Give the first line from now on of which `holds` is true; the others are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.receive(max(deadline - time.monotonic(), 0.001))
            if holds(message):
                return message

    def request(self, do: str, **fields: Any) -> Any:
        """Ask and give the result.

        Raises:
            RequestRefused: the nanny said no.
        """
        self.send({"id": 1, "do": do, **fields})
        answer = self.receive_until(lambda line: "ok" in line)
        if not answer["ok"]:
            raise RequestRefused(str(answer["error"]))
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@dataclass
class RunningNanny:
    """A node under test.

    Attributes:
        root: the directory that holds everything of it.
        argv: how the nanny was started, without ``-- PROGRAM``.
        nanny_pid: of the nanny that was started last.
    """

    root: str
    state_dir: str
    runtime_dir: str
    node_name: str
    argv: tuple[str, ...]
    command: tuple[str, ...]
    environ: dict[str, str]
    mark: str
    nanny_pid: int = 0
    nanny_pidfd: int = -1
    node_id: str = ""
    _popen: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _ended_in_order: bool = False

    # The nanny

    def start(self, *, wait: bool = True) -> None:
        """Start a nanny on these directories; `wait` until its control socket answers."""
        assert self._popen is None, "this node's nanny runs already"
        self._ended_in_order = False
        with open(self.log_path, "ab") as log:
            self._popen = subprocess.Popen(
                [*self.argv, "--", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.root,
            )
        self.nanny_pid = self._popen.pid
        self.nanny_pidfd = os.pidfd_open(self.nanny_pid)
        if wait:
            self.wait_until_answering()

    def wait_until_answering(self, timeout_s: float = STATE_TIMEOUT_S) -> dict[str, Any]:
        """Wait for the control socket's first answer and give the status."""
        told: list[dict[str, Any]] = []

        def answers() -> bool:
            assert not self.nanny_has_ended(), f"the nanny ended at once; its log:\n{self.log_tail()}"
            with suppress(OSError):
                told.append(self.status())
            return bool(told)

        wait_until(answers, timeout_s, "the nanny to answer")
        self.node_id = told[0]["node_id"]
        return told[0]

    def nanny_has_ended(self) -> bool:
        """Whether the nanny that was started last is dead (or there is none)."""
        return self.nanny_pidfd < 0 or bool(select.select([self.nanny_pidfd], [], [], 0)[0])

    def signal_nanny(self, signum: int) -> None:
        """Signal the nanny by its pidfd."""
        signal.pidfd_send_signal(self.nanny_pidfd, signum)

    def wait_for_exit(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Reap the nanny, which is about to end, and give its return code (negative: the signal)."""
        assert self._popen is not None, "no nanny was started"
        if not select.select([self.nanny_pidfd], [], [], timeout_s)[0]:
            raise AssertionError(f"the nanny still runs after {timeout_s} s; its log:\n{self.log_tail()}")
        code = self._popen.wait()
        os.close(self.nanny_pidfd)
        self._popen, self.nanny_pidfd = None, -1
        return code

    def kill(self) -> None:
        """SIGKILL the nanny alone, as a crash would; the worker goes on."""
        self.signal_nanny(signal.SIGKILL)
        self.wait_for_exit()

    def stop(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """End the nanny in order (SIGTERM), and with it the worker; give its return code."""
        self.signal_nanny(signal.SIGTERM)
        code = self.wait_for_exit(timeout_s)
        self._ended_in_order = True
        return code

    # What it says

    @property
    def control_path(self) -> str:
        """Where the control socket is."""
        return f"{self.runtime_dir}/control.sock"

    def connect(self, timeout_s: float = 10.0) -> ControlLines:
        """A new connection, to be closed by the test (``with node.connect() as lines``)."""
        return ControlLines(self.control_path, timeout_s)

    def request(self, do: str, **fields: Any) -> Any:
        """Ask once over a connection of its own; the result.

        Raises:
            RequestRefused: the nanny said no.
        """
        with self.connect() as lines:
            return lines.request(do, **fields)

    def status(self) -> dict[str, Any]:
        """The nanny's status."""
        result = self.request("status")
        assert isinstance(result, dict)
        return result

    def wait_for(
        self, holds: Callable[[dict[str, Any]], object], what: str, timeout_s: float = STATE_TIMEOUT_S
    ) -> dict[str, Any]:
        """Wait until `holds(status)`, and give that status; a nanny that doesn't answer is asked again."""
        last: list[Any] = [None]

        def look() -> bool:
            with suppress(OSError, TimeoutError):
                last[0] = self.status()
                return bool(holds(last[0]))
            return False

        try:
            wait_until(look, timeout_s, what)
        except AssertionError:
            raise AssertionError(
                f"waited {timeout_s} s for {what}; the status: {json.dumps(last[0], indent=1)}\n"
                f"the log:\n{self.log_tail()}"
            ) from None
        status = last[0]
        assert isinstance(status, dict)
        return status

    def wait_for_phase(self, phase: str, timeout_s: float = STATE_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the phase is this one, and give the status."""
        return self.wait_for(lambda status: status["phase"] == phase, f"phase {phase}", timeout_s)

    @property
    def worker_pid(self) -> int:
        """The worker's pid, now; 0 while there is none."""
        return int(self.status()["worker"]["pid"])

    @property
    def log_path(self) -> str:
        """Where the nanny's and the worker's output goes."""
        return f"{self.root}/log"

    def log(self) -> str:
        """All output of nanny and worker so far."""
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def log_tail(self, limit: int = 4000) -> str:
        """The end of it."""
        return self.log()[-limit:]

    def journal(self) -> list[dict[str, Any]]:
        """The records of the newest journal file, header excluded."""
        names = [name for name in os.listdir(self.state_dir) if name.startswith("journal.0")]
        if not names:
            return []
        with open(f"{self.state_dir}/{max(names)}") as file:
            return [json.loads(line[9:]) for line in file.read().splitlines()[1:]]

    # What is there

    def pids(self) -> set[int]:
        """Every process of this node that has not ended, whoever its parent is now."""
        return _marked(self.mark)

    def cgroup_dirs(self) -> list[str]:
        """The node's cgroup directories, outermost first."""
        name = f"nodenanny-{crc32(os.path.realpath(self.runtime_dir).encode()):08x}"
        found = []
        for mount in _cgroup2_mounts():
            for parent, directories, _ in os.walk(mount):
                if name in directories:
                    found.append(f"{parent}/{name}")
        return found

    def sockets(self) -> list[str]:
        """The paths of sockets in the runtime directory."""
        with suppress(FileNotFoundError):
            paths = [f"{self.runtime_dir}/{name}" for name in sorted(os.listdir(self.runtime_dir))]
            return [path for path in paths if stat.S_ISSOCK(os.lstat(path).st_mode)]
        return []

    def assert_nothing_left(self) -> None:
        """Assert that an end in order left no process, no cgroup and no socket."""
        with suppress(AssertionError):
            wait_until(lambda: not self.pids(), 10.0, "the node's processes to end")
        left = {pid: _name(pid) for pid in self.pids()}
        assert not left, f"processes left: {left}; the log:\n{self.log_tail()}"
        assert self.cgroup_dirs() == []
        assert self.sockets() == []

    def finish(self) -> None:
        """End in order what runs, and assert that nothing is left; a node that the test killed is only swept."""
        if not self.nanny_has_ended():
            code = self.stop()
            assert code == 0, f"the nanny ended with {code}; its log:\n{self.log_tail()}"
        elif self._popen is not None:
            self.wait_for_exit()
        if self._ended_in_order:
            self.assert_nothing_left()

    def sweep(self) -> None:
        """End whatever is left, in no order. Never fails on what is gone already."""
        if self._popen is not None:
            with suppress(ProcessLookupError):
                self.signal_nanny(signal.SIGKILL)
            self.wait_for_exit()
        deadline = time.monotonic() + END_TIMEOUT_S
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                _kill_marked(pid, self.mark)
            time.sleep(0.01)
        for top in self.cgroup_dirs() if self.node_id else []:
            for directory, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    os.rmdir(directory)


@contextmanager
def running_nanny(
    worker_code: str = BEATING_WORKER,
    *,
    command: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    start: bool = True,
    **settings: Any,
) -> Iterator[RunningNanny]:
    """Run a nanny with a worker in directories of its own; end it in order and assert that nothing is left.

    Args:
        worker_code: Python, run after NOTIFY_PRELUDE.
        command: the program to supervise, instead of `worker_code`.
        environ: variables added to the nanny's environment.
        start: False leaves it to the test to call ``node.start()``.
        settings: of ``nanny run``, by key, over DEFAULT_SETTINGS; lists and dicts are passed as JSON, None as none.
    """
    root = tempfile.mkdtemp(prefix="node", dir="/tmp")
    mark = secrets.token_hex(8)
    name = str(settings.pop("node_name", f"test-{mark}"))
    state_dir = str(settings.pop("state_dir", f"{root}/state"))
    runtime_dir = str(settings.pop("runtime_dir", f"{root}/run"))
    with open(f"{root}/worker.py", "w") as file:
        file.write(NOTIFY_PRELUDE + worker_code)
    flags = {
        **DEFAULT_SETTINGS,
        **settings,
        "node_name": name,
        "state_dir": state_dir,
        "runtime_dir": runtime_dir,
    }
    argv = [sys.executable, "-m", "nanny.cli", "run"]
    for key, value in flags.items():
        argv += [f"--{key.replace('_', '-')}", _flag_text(value)]
    node = RunningNanny(
        root=root,
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        node_name=name,
        argv=tuple(argv),
        command=tuple(command or (sys.executable, f"{root}/worker.py")),
        environ={**os.environ, "NANNY_CONFIG": f"{root}/nanny.toml", **(environ or {}), MARK: mark},
        mark=mark,
    )
    with open(f"{root}/nanny.toml", "w"):
        pass  # what is installed on this machine is not this node's configuration
    try:
        if start:
            node.start()
        yield node
        node.finish()
    finally:
        node.sweep()
        shutil.rmtree(root, ignore_errors=True)


def _flag_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _marked(mark: str) -> set[int]:
    """The processes with this mark in their environment; zombies have none left."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                with open(f"/proc/{name}/environ", "rb") as file:
                    variables = file.read().split(b"\0")
                if wanted in variables:
                    found.add(int(name))
    return found


def _kill_marked(pid: int, mark: str) -> None:
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            # Looked at again with the pidfd in hand: the number may have become another's meanwhile.
            if pid in _marked(mark):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _name(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    return "gone"


def _cgroup2_mounts() -> list[str]:
    mounts = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if right.split()[0] == "cgroup2":
                mounts.append(left.split()[4])
    return mounts
