"""Nodes to be measured: a real `nanny run` with the real agent, or with a small worker that does as it is told.

Built on the tests' own support, so that what is measured is what is tested. `STANDBY` and `COLD` are the settings
with and without a standby worker; where this version has none, `HAS_STANDBY` is false.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.asking import Announcements
from nanny.config import NannyConfig
from tests.support.nodes import RunningNanny, running_nanny

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT: Final = os.path.join(os.path.dirname(sys.executable), "node-agent")
ROOT: Final = str(Path(__file__).parents[1])
_KEYS: Final = {one.name for one in fields(NannyConfig)}
HAS_STANDBY: Final = "standby" in _KEYS
COLD: Final[dict[str, Any]] = {"standby": "off"} if HAS_STANDBY else {}
STANDBY: Final[dict[str, Any]] = {"standby": "on", "standby_after_s": 0.1} if HAS_STANDBY else {}
QUICK: Final[dict[str, Any]] = {"stable_after_s": 0.2, "backoff_initial_s": 0.05, "crash_loop_after": 1000}
"""So that no backoff is measured."""

OBEDIENT: Final = f"""
import sys
sys.path.insert(0, {ROOT!r})
import ctypes, os, socket, threading, time
from agent.vitals.config import claim_environ
from agent.vitals.snapshot import Snapshot
from agent.vitals.thread import start_vitals
vitals = start_vitals(claim_environ(os.environ))
vitals.publish(Snapshot(started=True))
orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    os.unlink(sys.argv[2])
except FileNotFoundError:
    pass
orders.bind(sys.argv[2])
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.sendto(str(os.getpid()).encode(), sys.argv[1])
while True:
    what, _, duration_s = orders.recv(64).decode().partition(" ")
    if what == "gil":
        ctypes.PyDLL(None).usleep(int(float(duration_s) * 1e6))
"""
"""A worker with vitals that announces itself and holds the GIL when told so."""


def address_of(node: RunningNanny) -> tuple[str, int]:
    """Where the node's health socket is."""
    host, _, port = str(node.status()["healthz"]).rpartition(":")
    return host, int(port)


@contextmanager
def agent_node(**settings: Any) -> Iterator[RunningNanny]:
    """The real agent, without a server, running."""
    environ = {"AGENT_LOG_LEVEL": "error", "PYTHONPATH": ROOT}
    with running_nanny(command=(AGENT,), environ=environ, **{**QUICK, **settings}) as node:
        node.wait_for_phase("running", 60)
        yield node


@contextmanager
def obedient_node(**settings: Any) -> Iterator[tuple[RunningNanny, Announcements, str]]:
    """A worker that obeys; the node, where its workers announce themselves, and where they take orders."""
    with tempfile.TemporaryDirectory(prefix="bn") as folder:
        announcements = Announcements(f"{folder}/here")
        try:
            Path(folder, "worker.py").write_text(OBEDIENT)
            command = (sys.executable, "-I", f"{folder}/worker.py", announcements.path, f"{folder}/orders")
            with running_nanny(command=command, **{**QUICK, **settings}) as node:
                node.wait_for_phase("running", 60)
                yield node, announcements, f"{folder}/orders"
        finally:
            announcements.close()


def wait_until_settled(node: RunningNanny, *, with_standby: bool) -> int:
    """Wait until the failures are forgotten and, where wanted, a standby is parked; the worker's pid.

    Raises:
        TimeoutError: it does not settle.
    """
    until = time.monotonic() + 60
    status: dict[str, Any] = {}
    while time.monotonic() < until:
        with suppress(OSError):
            status = node.status()
            if is_settled(status, with_standby=with_standby):
                return int(status["worker"]["pid"])
        time.sleep(0.02)
    raise TimeoutError(f"the node does not settle: {status.get('because')}, {status.get('standby')}")


def is_settled(status: dict[str, Any], *, with_standby: bool) -> bool:
    """Whether the next death would be handled as the first."""
    if status["phase"] != "running" or status["worker"]["failures"] != 0:
        return False
    return not with_standby or (status.get("standby") or {}).get("stage") == "parked"
