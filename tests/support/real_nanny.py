"""A real nanny, started as an operator starts it, with real workers; what it leaves behind is found and ended.

Every process below it inherits an environment variable with a token of its own, so that workers that outlive
their nanny (they shall) are found by it at the end, whoever their parent is by then, and ended by pidfd.

A `RealNanny` is a *node*: its directories stay the same over as many nannies as the test starts on them.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nanny.common.identifiers import uuid7
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 30.0
_TOKEN = "REAL_NANNY_TEST"

PRELUDE = """
import os, signal, socket, sys, time
_notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def tell(text):
    try:
        _notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
    except OSError:
        pass
def beat_for_ever(extra=""):
    tell("READY=1\\nWATCHDOG=1" + extra)
    while True:
        time.sleep(0.1)
        tell("WATCHDOG=1" + extra)
"""
BEATS = PRELUDE + "beat_for_ever()"
QUICK = (
    "--heartbeat-interval-s=0.2",
    "--heartbeat-timeout-s=3",
    "--evidence-timeout-s=0.5",
    "--abort-grace-s=0.5",
    "--stop-grace-s=5",
    "--backoff-initial-s=0.1",
    "--backoff-ceiling-s=0.5",
)
"""Settings with which a test need not wait."""


class Refused(Exception):  # noqa: N818  # an answer
    """The nanny refused a request."""


class ControlClient:
    """One connection to the control socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self._received = b""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.socket.connect(path)
                return
            except BlockingIOError:
                # Many at once: the queue is full.
                if time.monotonic() < deadline:
                    time.sleep(0.005)
                    continue
                raise
            except OSError:
                self.socket.close()
                raise

    def line(self) -> dict[str, Any]:
        """The next line; raises EOFError at the end."""
        while b"\n" not in self._received:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **fields: Any) -> Any:
        """Ask and give the result; pushes that come before it are passed over."""
        self.socket.sendall(json.dumps({"id": 1, "do": do, **fields}).encode() + b"\n")
        while "push" in (answer := self.line()):
            pass
        if not answer["ok"]:
            raise Refused(answer["error"])
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class RealNanny:
    """One node, with the directories of its nannies.

    Attributes:
        directory: short, so that socket paths fit; holds run/, state/ and log.
        process: the nanny that runs now, or ran last.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime_dir = directory / "run"
        self.state_dir = directory / "state"
        self.log_path = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.is_expected_to_err = False
        self._token = secrets.token_hex(8)
        self._pidfd = -1

    # The nanny

    def command(self, program: str | tuple[str, ...], *flags: str) -> list[str]:
        """How this node's nanny is started; a text is Python for the worker."""
        argv = (sys.executable, "-I", "-S", "-c", program) if isinstance(program, str) else program
        own = (f"--runtime-dir={self.runtime_dir}", f"--state-dir={self.state_dir}", "--node-name=tested")
        return [sys.executable, "-m", "nanny.cli", "run", *own, *QUICK, *flags, "--", *argv]

    def environment(self) -> dict[str, str]:
        """Ours, without what systemd or another nanny left in it, and with this node's token."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NANNY", "LISTEN"))}
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"):
            kept.pop(name, None)
        return kept | {_TOKEN: self._token}

    def start(
        self,
        program: str | tuple[str, ...] = BEATS,
        *flags: str,
        wait: bool = True,
        environ: dict[str, str] | None = None,
        **popen_kw: Any,
    ) -> None:
        """Start a nanny; with `wait`, return when it answers on its control socket."""
        assert self.process is None or self.process.returncode is not None, "the last one still runs"
        self._forget()
        with open(self.log_path, "ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | popen_kw
            options["env"] = self.environment() | (environ or {})
            self.process = subprocess.Popen(self.command(program, *flags), **options)
        self._pidfd = os.pidfd_open(self.process.pid)
        if wait:
            self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Wait for the control socket of the nanny that was started last."""
        assert self.process is not None
        pid = self.process.pid

        def answers() -> bool:
            assert not self.has_ended(), f"it ended instead: {self.log()[-2000:]}"
            with suppress(OSError, EOFError):
                return bool(self.status()["nanny"]["pid"] == pid)
            return False

        wait_until(answers, PATIENCE_S, "the nanny to answer")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, signum: int) -> None:
        """Signal the nanny."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signum)

    def has_ended(self) -> bool:
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def wait_for_exit(self, timeout_s: float = PATIENCE_S) -> int:
        """Reap the nanny; its exit code, negative for a signal."""
        assert self.process is not None
        assert select.select([self._pidfd], [], [], timeout_s)[0], f"it does not end: {self.log()[-2000:]}"
        return self.process.wait(timeout=PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL the nanny and wait for its end."""
        self.send(signal.SIGKILL)
        assert self.wait_for_exit() == -signal.SIGKILL

    def stop(self) -> None:
        """SIGTERM the nanny, which ends its worker, and wait for its orderly end."""
        self.assert_unharmed()
        self.send(signal.SIGTERM)
        assert self.wait_for_exit() == 0, self.log()[-2000:]

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # Asking it

    @property
    def control_path(self) -> str:
        return str(self.runtime_dir / "control.sock")

    def connect(self) -> ControlClient:
        return ControlClient(self.control_path)

    def ask(self, do: str, **fields: Any) -> Any:
        with self.connect() as client:
            return client.ask(do, **fields)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status")
        return status

    def order(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Order something as a local operator and wait for its outcome."""
        command_id = uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        with self.connect() as client:
            client.ask("subscribe")
            answer = client.ask(
                "command", command_id=command_id, kind=kind, reason="test", actor="tester", **fields
            )
            while answer.get("outcome") is None or answer.get("command_id") != command_id:
                answer = client.line()
            return dict(answer)

    def wait_for(self, holds: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until the status is as described; give it."""
        last: dict[str, Any] = {}

        def looked() -> bool:
            nonlocal last
            assert not self.has_ended(), f"the nanny ended while waiting for {what}: {self.log()[-3000:]}"
            with suppress(OSError, EOFError):
                last = self.status()
                return bool(holds(last))
            return False

        try:
            wait_until(looked, PATIENCE_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last)[:3000]}\n{self.log()[-3000:]}") from None
        return last

    def wait_for_phase(self, phase: str) -> dict[str, Any]:
        return self.wait_for(lambda status: status["phase"] == phase, f"phase {phase}")

    def wait_for_next(self, before: dict[str, Any]) -> dict[str, Any]:
        """Wait for a running worker of a later incarnation than that of an earlier status."""
        return self.wait_for(
            lambda status: status["phase"] == "running" and status["incarnation"] != before["incarnation"],
            f"a successor of {before['incarnation']}",
        )

    def conditions(self) -> set[str]:
        return {one["type"] for one in self.status()["conditions"]}

    def assert_unharmed(self) -> None:
        """No error and no broken invariant was counted; only for a nanny that answers."""
        nanny = self.status()["nanny"]
        if not self.is_expected_to_err:
            assert (nanny["errors_total"], nanny["violations_total"]) == (0, 0), self.log()[-3000:]

    # What lives

    def processes(self) -> dict[int, str]:
        """Everything that descends from this node's nannies and lives: pid -> command line."""
        wanted = f"{_TOKEN}={self._token}".encode()
        found = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError):
                    if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                        line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
                        found[int(name)] = line.decode(errors="replace").strip()
        return found

    def workers(self, mark: str = "_notify") -> list[int]:
        """The pids of living processes whose command line holds the mark, the nanny's own not among them."""
        return sorted(
            pid
            for pid, line in self.processes().items()
            if mark in line and "nanny.cli" not in line and "lean_start" not in line
        )

    def end_everything(self) -> None:
        """End the nanny and all that it has left."""
        if self.process is not None and self.process.returncode is None:
            self.send(signal.SIGKILL)
            self.send(signal.SIGCONT)
            self.process.wait(timeout=PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while (living := self.processes()) and time.monotonic() < deadline:
            for pid in living:
                with suppress(ProcessLookupError):
                    pidfd = os.pidfd_open(pid)
                    try:
                        # The pid may be another's by now; behind the pidfd it can't become one.
                        if pid in self.processes():
                            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    finally:
                        os.close(pidfd)
            time.sleep(0.01)
        self._forget()

    def _forget(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


@contextmanager
def real_node() -> Iterator[RealNanny]:
    """A node without a nanny yet; whatever came to live on it is ended, and its cgroups are removed."""
    with tempfile.TemporaryDirectory(prefix="nn-", ignore_cleanup_errors=True) as directory:
        node = RealNanny(Path(directory))
        try:
            yield node
            if node.process is not None and node.process.returncode is None and not node.has_ended():
                node.assert_unharmed()
        finally:
            node.end_everything()
            remove_cgroups(node)


def cgroup_of(node: RealNanny) -> Path | None:
    """The subtree in which the node's nanny keeps its workers; None where there are no cgroups."""
    from zlib import crc32

    from nanny.linux.cgroup import own_cgroup_dir

    own = own_cgroup_dir()
    name = f"nodenanny-{crc32(os.path.realpath(node.runtime_dir).encode()):08x}"
    return None if own is None else Path(own) / name


def remove_cgroups(node: RealNanny) -> None:
    """Remove the node's cgroups, those of a killed nanny, with whoever is left in them.

    A process in the middle of execve(2) shows no environment, so looking for a token in it may pass one over.
    """
    subtree = cgroup_of(node)
    if subtree is None or not subtree.exists():
        return

    def removed() -> bool:
        with suppress(OSError):
            (subtree / "cgroup.kill").write_text("1")
        for path in [*subtree.glob("*/"), subtree]:
            with suppress(OSError):
                path.rmdir()
        return not subtree.exists()

    wait_until(removed, PATIENCE_S, f"{subtree} to be empty")
