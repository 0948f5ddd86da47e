"""The demo's processes: a server and a nanny (which starts worker and link), on loopback, in one temporary directory.

Each is started like an operator would start it, ends with the demo whatever happens to the demo, and is signalled by
pidfd only. ``close`` ends everything in order and says what would not end. prctl(2) PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from server_stub.client import RequestFailed, ServerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PR_SET_PDEATHSIG: Final = 1
_STOP_TIMEOUT_S: Final = 15.0
NODE_NAME: Final = "demo-node"
QUICK: Final[Mapping[str, str]] = {
    # A demo that takes a minute: the same machine with shorter times.
    "NANNY_HEARTBEAT_INTERVAL_S": "0.5",
    "NANNY_HEARTBEAT_TIMEOUT_S": "2",
    "NANNY_STALL_WARN_S": "1",
    "NANNY_STALL_TIMEOUT_S": "3",
    "NANNY_STOP_GRACE_S": "5",
    "NANNY_STABLE_AFTER_S": "0.5",
    "SERVER_PROBE_INTERVAL_S": "2",
    "SERVER_PROBE_BUDGET_S": "2",
    "SERVER_PROBE_TRY_TIMEOUT_S": "1",
    "SERVER_OFFLINE_TIMEOUT_S": "20",
    "SERVER_SILENCE_TIMEOUT_S": "10",
    "SERVER_KEEPALIVE_INTERVAL_S": "2",
    "SERVER_REPORT_INTERVAL_S": "2",
}


class DemoError(Exception):
    """The demo can't go on; the message says why and where to look."""


class Demo:
    """A server and one node.

    Attributes:
        folder: everything the demo writes.
        client: asks the server.
    """

    def __init__(self, settings: Mapping[str, str], *, port: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nodenanny-", dir="/tmp"))  # short socket paths
        self.runtime_dir = self.folder / "run"
        self._environ = {**_clean(os.environ), **settings}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = port
        self.client = ServerClient()

    def start(self) -> None:
        """Start server and nanny.

        Raises:
            DemoError: one of them does not come up; the message has the end of its log.
        """
        port_file = self.folder / "port"
        self._spawn(
            "server",
            [
                *(sys.executable, "-m", "server_stub.cli", "serve", "--port", str(self._port)),
                *("--port-file", str(port_file), "--data-dir", str(self.folder)),
            ],
        )
        self.until("the server's port", lambda: port_file.exists() and port_file.read_text().strip(), 20)
        self.url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        self.client = ServerClient(self.url)
        self.start_nanny()

    def start_nanny(self) -> None:
        """Start the nanny, as systemd would (again)."""
        link = {"LINK_SERVER_URL": self.url, "LINK_METRICS_PORT": "0", "LINK_ORPHAN_TIMEOUT_S": "30"}
        worker = {
            "AGENT_SERVER_URL": self.url,
            "AGENT_NODE_NAME": NODE_NAME,
            "AGENT_FAULT_INJECTION": "true",
            "AGENT_FAULT_SOCKET": str(self.folder / "faults.sock"),
            "AGENT_ORPHAN_TIMEOUT_S": "30",
        }
        self._spawn(
            "nanny",
            [
                *(sys.executable, "-m", "nanny.cli", "run", "--node-name", NODE_NAME),
                *("--state-dir", str(self.folder / "state"), "--runtime-dir", str(self.runtime_dir)),
                *("--port", "0", "--link", "child", "--link-environment", json.dumps(link)),
                *("--environment", json.dumps(worker), "--", sys.executable, "-m", "agent.cli"),
            ],
        )

    def _spawn(self, name: str, argv: list[str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self._processes[name] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
                preexec_fn=_end_with_us,  # noqa: PLW1509  # one prctl between fork and exec, no thread is alive
            )

    def kill_nanny(self) -> None:
        """SIGKILL the nanny, as the OOM killer would."""
        process = self._processes["nanny"]
        self.signal(process.pid, signal.SIGKILL)
        process.wait()

    @staticmethod
    def signal(pid: int, signum: int) -> None:
        """Signal a process of the demo by pidfd."""
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signum)
        finally:
            os.close(fd)

    def inject(self, fault: str) -> None:
        """Make the worker misbehave."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(fault.encode(), str(self.folder / "faults.sock"))

    def nanny_status(self) -> dict[str, Any] | None:
        """The nanny's own status; None while it does not answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.runtime_dir / "control.sock"))
                connection.sendall(b'{"id": 1, "do": "status"}\n')
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline() or b"{}")
            except (OSError, ValueError):
                return None
        result = answer.get("result")
        return result if isinstance(result, dict) else None

    def save_recording(self, path: Path) -> None:
        """Have nannyctl save what the nanny's flight recorder holds.

        Raises:
            DemoError: it could not.
        """
        argv = [sys.executable, "-m", "nanny.nannyctl", "replay", "--save", str(path)]
        argv += ["--runtime-dir", str(self.runtime_dir)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise DemoError(f"no recording: {done.stderr.strip()}")

    def node(self) -> dict[str, Any] | None:
        """The node as the server lists it; None while it does not know it."""
        with contextlib.suppress(RequestFailed):
            for one in self.client.get("v1", "nodes")["nodes"]:
                if one["name"] == NODE_NAME:
                    return dict(one)
        return None

    def until(self, what: str, holds: Callable[[], Any], timeout_s: float) -> Any:
        """Wait for a state.

        Raises:
            DemoError: it did not come about in time, or a process of the demo has ended.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = holds()
            if found:
                return found
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise DemoError(
                        f"{name} ended with {process.returncode}; its last lines:\n{self.tail(name)}"
                    )
            time.sleep(0.05)
        raise DemoError(f"no {what} within {timeout_s:g} s; last lines of the nanny:\n{self.tail('nanny')}")

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's log."""
        with contextlib.suppress(OSError):
            return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    def close(self) -> list[str]:
        """End everything and remove the folder; what would not end, in words."""
        left = []
        for name in ("nanny", "server"):
            process = self._processes.get(name)
            if process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                self.signal(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                left.append(
                    f"{name} (pid {process.pid}) did not end within {_STOP_TIMEOUT_S:g} s and was killed"
                )
                self.signal(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return left


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without settings that were meant for another node."""
    ours = ("NANNY_", "AGENT_", "LINK_", "SERVER_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


def _end_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
