"""Programs that others wrote, as the recipes in docs/recipes/ run them: command line, settings, what they promise.

The files in docs/recipes/ are run as they are. Times are shortened by settings only, as an operator could.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.nodes import running_nanny

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.nodes import RunningNanny

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "recipes"
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0

QUICK: Mapping[str, Any] = {
    "heartbeat_interval_s": 0.3,
    "heartbeat_timeout_s": 4.0,
    "stall_warn_s": 0.5,
    "stall_timeout_s": 2.0,
    "evidence_timeout_s": 1.0,
    "abort_grace_s": 0.5,
    "stop_grace_s": 20.0,
    "start_timeout_s": START_TIMEOUT_S,
}
"""Settings with which a test need not wait, and which a busy machine can keep."""

ASGI_APP = """
import ctypes
import os
import time

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/block":
        time.sleep(120)
    if scope["path"] == "/gil":
        ctypes.PyDLL(None).sleep(120)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
"""Answers with its pid; `/block` and `/gil` hang."""

WSGI_APP = """
import os

def app(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@dataclass(frozen=True, slots=True)
class ForeignProgram:
    """One recipe."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    """Written beside it, where it is started: name -> content."""
    beats: bool = True
    """Whether its silence is noticed."""
    beater_is_child: bool = False
    """Whether a child of the supervised process sends the beats."""


SHELL = ForeignProgram("shell", (str(RECIPES / "shell_loop.sh"),), {"notify_access": "all"})
SDNOTIFY = ForeignProgram("sdnotify", (sys.executable, str(RECIPES / "sdnotify_service.py")), {})
GUNICORN = ForeignProgram(
    "gunicorn",
    (str(BIN / "gunicorn"), "--workers", "1", "--no-control-socket", "app:app"),
    {"heartbeat": "ready"},
    {"app.py": WSGI_APP},
    beats=False,
)
GUNICORN_WITH_VITALS = ForeignProgram(
    "gunicorn with vitals",
    (
        str(BIN / "gunicorn"),
        *("--config", str(RECIPES / "gunicorn_hooks.py"), "--worker-class", "asgi", "app:app"),
    ),
    {"notify_access": "all"},
    {"app.py": ASGI_APP},
    beater_is_child=True,
)


def dask_worker(scheduler_address: str, name: str) -> ForeignProgram:
    """Dask's own worker without Dask's nanny, with vitals by the preload module."""
    return ForeignProgram(
        "dask",
        (
            *(str(BIN / "dask"), "worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"),
            *("--preload", str(RECIPES / "dask_preload.py"), "--name", name, scheduler_address),
        ),
        {},
    )


def environment() -> dict[str, str]:
    """For every program: quick beats of the shell, and our packages to be found."""
    return {"PAUSE_S": "0.3", "PYTHONPATH": str(ROOT)}


@contextmanager
def running_program(program: ForeignProgram, **settings: Any) -> Iterator[RunningNanny]:
    """A node on which the program is ready."""
    with running_nanny(
        command=program.command,
        environ=environment(),
        start=False,
        **{**QUICK, **program.settings, **settings},
    ) as node:
        for name, content in program.files.items():
            Path(node.root, name).write_text(content)
        node.start()
        node.wait_for_phase("running", START_TIMEOUT_S)
        yield node


def kill(pid: int, signum: int = signal.SIGKILL) -> None:
    """Signal a process of the test by pidfd."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signum)
    finally:
        os.close(pidfd)


def children(pid: int) -> list[int]:
    """The child processes of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def are_gone(node: RunningNanny, pids: set[int]) -> bool:
    """Whether none of these processes of the node lives."""
    return not node.pids() & pids


def nannyctl(node: RunningNanny, *words: str) -> str:
    """What `nannyctl` prints, asked as an operator would ask it.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        [str(BIN / "nannyctl"), *words, "--runtime-dir", node.runtime_dir, "--state-dir", node.state_dir],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


def wait_for_next(node: RunningNanny, before: dict[str, Any]) -> dict[str, Any]:
    """Wait for a ready worker of a later incarnation than that of an earlier status."""
    return node.wait_for(
        lambda status: status["phase"] == "running" and status["incarnation"] != before["incarnation"],
        f"a successor of {before['incarnation']}",
        START_TIMEOUT_S,
    )


def wait_for_beats(node: RunningNanny, more: int = 1) -> dict[str, Any]:
    """Wait until so many more beats have arrived."""
    beats = node.status()["counters"]["beats_total"]
    return node.wait_for(
        lambda status: status["counters"]["beats_total"] >= beats + more,
        f"{more} more beats",
        START_TIMEOUT_S,
    )
