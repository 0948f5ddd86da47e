"""A real `node-agent`, as a supervisor or an operator starts it; killed at the end with all it started.

`running_agent` runs it with settings by keyword; `Agent.get` asks its endpoints, `Agent.logged` reads what it
logged, `Agent.order` breaks it on purpose. It knows nothing of the nanny.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import StartedProcess, spawn_python, wait_until
from tests.support.vitals_subject import Answer, http_get

_PROGRAM = """
import os, sys
listener = int(sys.argv.pop(1))
if listener >= 0:
    os.dup2(listener, 3)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "healthz"}
from agent.cli import main
sys.exit(main())
"""
QUICK = {"sample_interval_s": "0.3", "reconnect_initial_s": "0.05", "reconnect_ceiling_s": "0.3"}


@dataclass(slots=True)
class Agent:
    """A running agent."""

    process: StartedProcess
    folder: Path
    address: tuple[str, int]

    def log(self) -> list[dict[str, Any]]:
        """All lines that it has logged, those that are no JSON as ``{"text": …}``."""
        lines = []
        for line in (self.folder / "log").read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"text": line})
        return lines

    def logged(self, event: str, times: int = 1, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until it has logged `event` so many times; the last of them."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log() if line.get("event") == event]

        try:
            wait_until(lambda: len(found()) >= times, timeout_s, f"{event!r} {times} times")
        except AssertionError as error:
            raise AssertionError(f"{error}; the log: {self.log()[-20:]}") from None
        return found()[times - 1]

    def get(self, path: str, timeout_s: float = 10.0) -> Answer:
        """Ask its health endpoints on a fresh connection."""
        return http_get(self.address, path, timeout_s=timeout_s)

    def answers(self, path: str, status: int, timeout_s: float = 30.0) -> Answer:
        """Wait until `path` has this status; the answer."""
        answers: list[Answer] = []

        def has_status() -> bool:
            with suppress(OSError):
                answers.append(self.get(path))
            return bool(answers) and answers[-1].status == status

        try:
            wait_until(has_status, timeout_s, f"{path} to be {status}")
        except AssertionError as error:
            raise AssertionError(f"{error}; {answers[-1:]}; the log: {self.log()[-20:]}") from None
        return answers[-1]

    def order(self, order: str) -> None:
        """Break it on purpose."""
        path = str(self.folder / "faults")
        wait_until(lambda: Path(path).exists(), 20.0, "the fault socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(order.encode(), path)

    def children(self) -> list[int]:
        """Its child processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


@contextmanager
def running_agent(
    *,
    environ: Mapping[str, str] | None = None,
    listener: socket.socket | None = None,
    stderr: int | None = None,
    words: tuple[str, ...] = (),
    program: str = _PROGRAM,
    **settings: Any,
) -> Iterator[Agent]:
    """Start an agent; it serves health on loopback, obeys `order`, and is quick.

    Args:
        environ: added to its environment.
        listener: inherited, as from a supervisor; without, it binds a free port.
        stderr: where it logs; by default into a file.
        words: more of its command line.
        program: runs in its place; begins as ours.
        settings: by key; None unsets one.
    """
    folder = Path(tempfile.mkdtemp(prefix="ag"))
    strange = ("NANNY_", "AGENT_", "LISTEN_", "NOTIFY_", "WATCHDOG_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    port = _free_port()
    given: dict[str, object] = QUICK | {
        "port": None if listener else port,
        "fault_injection": "true",
        "fault_socket": folder / "faults",
    }
    env |= {
        f"AGENT_{key.upper()}": str(value) for key, value in (given | settings).items() if value is not None
    }
    env |= environ or {}
    address = listener.getsockname() if listener else ("127.0.0.1", port)
    try:
        with (
            (folder / "log").open("wb") as log,
            spawn_python(
                program,
                argv=(str(listener.fileno() if listener else -1), *words),
                env=env,
                stderr=log if stderr is None else stderr,
                pass_fds=(listener.fileno(),) if listener else (),
            ) as process,
        ):
            yield Agent(process, folder, address)
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A listening socket on loopback, such as a supervisor passes on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield listener
