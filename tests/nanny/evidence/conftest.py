"""A desk with real workers: real loop, gate, reaper and WorkerProcess; only the core is replaced by a list."""

import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from nanny.common.log_lines import LogLines
from nanny.config import NannyConfig
from nanny.core.actions import CollectEvidence, ReleaseWorker, SpawnWorker
from nanny.core.events import EvidenceCollected
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.evidence.desk import EvidenceDesk, Saved
from nanny.life import Life
from nanny.linux.clocks import SystemClock
from nanny.linux.signals import SignalDoor
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.stack_signal import STACK_SIGNAL
from nanny.reaper import Reaper
from nanny.worker_process import WorkerProcess

if TYPE_CHECKING:
    from nanny.supervisor import Supervisor

# What a worker of ours does first: stacks of all threads into the memfd, at the signal and at a crash.
WITH_STACKS = f"""
import ctypes, faulthandler, os, sys, threading, time
stacks_fd = int(os.environ["NANNY_STACKS_FD"])
faulthandler.enable(file=stacks_fd, all_threads=True)
faulthandler.register({STACK_SIGNAL}, file=stacks_fd, all_threads=True, chain=False)
def ready():
    os.write(1, b"ready\\n")
"""


@dataclass
class Core:
    """Where the shell's events go."""

    told: list[Any] = field(default_factory=list)
    state: Any = None

    def tell(self, event: Any) -> None:
        self.told.append(event)


class Node:
    """One nanny's worth of shell around the desk."""

    def __init__(self, directory: Path) -> None:
        self.config = NannyConfig(
            node_name="node-under-test",
            state_dir=str(directory / "state"),
            runtime_dir=str(directory / "run"),
            heartbeat="none",
            evidence_timeout_s=10.0,
        )
        os.mkdir(self.config.state_dir)
        os.mkdir(self.config.runtime_dir)
        self.core = Core()
        self.log_lines: list[bytes] = []
        self.loop = EventLoop(SystemClock(), 3600.0, lambda _late_s: None, lambda _away_s: None)
        self.reaper = Reaper()
        self.door = SignalDoor()
        self.door.watch([signal.SIGCHLD])
        self.loop.watch(self.door.fileno(), self._on_signal)
        # The loop never waits by itself here: `turn_until` does, and looks at the output as well.
        self.loop.add_source(DeadlineSource(lambda: 0.0, lambda _now: None))
        self.output_read, self.output_write = os.pipe()
        os.set_blocking(self.output_read, False)
        self.output = b""
        self.status: Callable[[], dict[str, Any]] = lambda: {
            "nanny": {"version": "1.2.3"},
            "because": ["a test wants to know"],
        }
        self.saved: list[Saved] = []
        self.workers = self._worker_process(None)
        self.desk = EvidenceDesk(
            self.config,
            cast("Supervisor", self.core),
            self.loop,
            LogLines(self.log_lines.append, "nanny", lambda: 0.0),
            self.workers,
            self.reaper,
            lambda limit: self.output[-limit:],
            self._status,
        )
        self.desk.on_saved = self.saved.append

    def _worker_process(self, cgroup_dir: str | None) -> WorkerProcess:
        log = LogLines(self.log_lines.append, "nanny", lambda: 0.0)
        supervisor = cast("Supervisor", self.core)
        workers = WorkerProcess(self.config, supervisor, self.loop, log, self.reaper, cgroup_dir)
        workers.output_fd = self.output_write
        return workers

    def configure(self, **changes: Any) -> None:
        """Change settings, as a reload would."""
        values = {name: getattr(self.config, name) for name in NannyConfig.__dataclass_fields__}
        self.config = NannyConfig(**{**values, **changes})
        self.desk.config = self.config
        self.workers._config = self.config

    def spawn(self, code: str, number: int = 7, cgroup_dir: str | None = None) -> Life:
        """Start a Python worker and wait until it has written its first output."""
        self.configure(command=(sys.executable, "-c", code))
        self.workers._cgroup_dir = cgroup_dir
        incarnation = Incarnation("epoch", number)
        self.workers.spawn(SpawnWorker(incarnation))
        life = self.workers.lives[incarnation]
        self.workers.release(ReleaseWorker(incarnation))
        already = len(self.output)
        self.turn_until(lambda: len(self.output) > already, "the worker's first output")
        return life

    def collect(
        self, life: Life, reason: str = "stalled", command_id: str = "", timeout_s: float = 20.0
    ) -> EvidenceCollected:
        """Order evidence and wait for the answer and for the collector's end."""
        before = len(self.answers)
        self.desk.collect(CollectEvidence(life.incarnation, reason, post_mortem=False, command_id=command_id))
        self.turn_until(lambda: len(self.answers) > before, "the answer", timeout_s)
        self.turn_until(lambda: not self.desk._open, "the collector's end", timeout_s)
        assert len(self.answers) == before + 1
        return self.answers[-1]

    @property
    def answers(self) -> list[EvidenceCollected]:
        return [event for event in self.core.told if isinstance(event, EvidenceCollected)]

    def file(self, bundle: str, name: str, fallback: bool = False) -> str:
        """Read a file of a bundle."""
        parent = self.config.runtime_dir if fallback else self.config.state_dir
        return Path(parent, "evidence", bundle, name).read_text()

    def kill(self, life: Life, signum: int = signal.SIGKILL) -> None:
        """End a worker and wait until the shell has seen it."""
        if life.incarnation in self.workers.lives:
            signal.pidfd_send_signal(life.pidfd, signum)
            self.turn_until(lambda: life.incarnation not in self.workers.lives, "the worker's death")

    def turn_until(self, predicate: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        """Run the loop until the state is there."""
        deadline = time.monotonic() + timeout_s
        while not predicate():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}; told: {self.core.told}"
            if select.select([self.loop._selector.fileno(), self.output_read], [], [], 0.02)[0]:
                with suppress(BlockingIOError):
                    self.output += os.read(self.output_read, 65536)
            self.loop.turn()

    def _status(self) -> dict[str, Any]:
        return self.status()

    def _on_signal(self) -> None:
        self.door.drain()
        while self.reaper.reap():
            pass

    def close(self) -> None:
        for life in list(self.workers.lives.values()):
            self.kill(life)
        self.turn_until(lambda: not self.desk._open, "the collectors' end")
        self.desk.close()
        self.workers.close()
        for life in self.workers.ended:
            if life.stacks_fd is not None:
                os.close(life.stacks_fd)
        for fd in (self.output_read, self.output_write):
            os.close(fd)
        self.loop.close()
        self.door.close()


@pytest.fixture
def node(leaves_nothing_behind: None) -> Iterator[Node]:
    directory = Path(tempfile.mkdtemp(prefix="nev-"))
    try:
        node = Node(directory)
        try:
            yield node
        finally:
            node.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
