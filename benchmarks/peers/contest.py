"""All supervisors under the same blows: SIGKILL at random uptimes, SIGSTOP, and left alone.

The workers announce themselves when they serve; then one question proves it. So nothing is polled, and nothing
is phase-locked to a supervisor's own timer. Uptimes are over a second, below which several throttle by design. All
run side by side, each in its own thread: they sleep most of the time. No peer is changed from its default delays.
"""

from __future__ import annotations

import random
import signal
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.asking import Announcements, ask
from benchmarks.figures import OURS, Effort, Figure, measured, single
from benchmarks.peers.supervisors import DASK, HANG_TIMEOUT_S, TINY, Setting, Supervisor, environment
from benchmarks.processes import Marked, marked, send, usage
from tests.support.dask_scheduler import dask_scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_TIMEOUT_S = 60.0
RESTART_TIMEOUT_S = 30.0
HANG_PATIENCE_S = 3 * HANG_TIMEOUT_S


def tiny(effort: Effort) -> Iterator[Figure]:
    """The same tiny HTTP worker under each (gunicorn: its own kind of worker)."""
    yield from _contest(effort, TINY, "a tiny worker", "")


def dask(effort: Effort) -> Iterator[Figure]:
    """A Dask worker under Dask's nanny and under ours; its imports take most of the time under both."""
    if not all(one.found() for one in DASK):
        yield Figure("a Dask worker", "ms", whose="Dask's nanny", words="not installed")
        return
    with dask_scheduler() as scheduler:
        yield from _contest(effort, DASK, "a Dask worker", scheduler.address)


def _contest(
    effort: Effort, contestants: Sequence[Supervisor], worker: str, scheduler: str
) -> Iterator[Figure]:
    present = [one for one in contestants if one.found()]
    for one in contestants:
        if one not in present:
            yield Figure(_line_kill(worker), "ms", whose=one.name, words="not installed")
    effort.tell(f"{', '.join(one.name for one in present)}: side by side")
    with ThreadPoolExecutor(len(present)) as pool:
        jobs = [pool.submit(_measured, one, effort, worker, scheduler) for one in present]
        for one, job in zip(present, jobs, strict=True):
            try:
                yield from job.result()
            except Exception as error:
                # A peer that does not come up shall not cost the others their figures.
                yield Figure(_line_kill(worker), "ms", whose=one.name, words=f"failed: {error}"[:200])


def _line_kill(worker: str) -> str:
    return f"SIGKILL of {worker} -> answering again"


def _measured(contestant: Supervisor, effort: Effort, worker: str, scheduler: str) -> list[Figure]:
    gaps = random.Random(f"{effort.seed} {contestant.name}")
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="pe", ignore_cleanup_errors=True))
        )
        announcements = Announcements(f"{folder}/here")
        stack.callback(announcements.close)
        setting = Setting(folder, _free_port(), announcements.path, scheduler)
        command = [str(contestant.found()), *contestant.prepare(setting)]
        log = str(folder / "output")
        started = stack.enter_context(marked(command, log=log, environ=environment(setting), cwd=str(folder)))
        pid = announcements.next_pid(START_TIMEOUT_S)
        if pid is None:
            raise TimeoutError(f"it did not start its worker: {Path(log).read_text(errors='replace')[-160:]}")
        return _Blows(contestant, started, announcements, setting.port, gaps).all(pid, effort, worker)


class _Blows:
    """What is done to one contestant, in turn."""

    def __init__(
        self,
        contestant: Supervisor,
        started: Marked,
        announcements: Announcements,
        port: int,
        gaps: random.Random,
    ) -> None:
        self._contestant = contestant
        self._started = started
        self._announcements = announcements
        self._port = port
        self._gaps = gaps

    def all(self, pid: int, effort: Effort, worker: str) -> list[Figure]:
        """All figures of one contestant; `pid` is its first worker's."""
        name = self._contestant.name
        killed = []
        for _ in range(effort.count(20, 3)):
            # Asked once before, so that only the death is news.
            time.sleep(self._gaps.uniform(1.2, 2.2))
            pid, took_s = self._blow(pid, signal.SIGKILL, RESTART_TIMEOUT_S)
            if took_s is None:
                break
            killed.append(took_s)
        found = [measured(_line_kill(worker), "ms", killed, 1e3, whose=name)]
        time.sleep(effort.count(3, 1))
        supervisor = sorted(self._started.pids() - {pid})
        used = usage(supervisor, effort.count(15, 4))
        what = f"supervisor of {worker}"
        found += [
            single(f"{what}: RSS", "MiB", used.rss_mib, whose=name),
            single(f"{what}: PSS", "MiB", used.pss_mib, whose=name),
            single(f"{what}: idle CPU", "% of a core", used.cpu_percent, whose=name),
        ]
        return [*found, self._hung(pid, effort, worker)]

    def _hung(self, pid: int, effort: Effort, worker: str) -> Figure:
        line = f"SIGSTOP of {worker} -> answering again, time-out {HANG_TIMEOUT_S:g} s"
        took = []
        for _ in range(effort.count(4, 1)):
            time.sleep(self._gaps.uniform(1.2, 2.2))
            hung = pid
            pid, took_s = self._blow(pid, signal.SIGSTOP, HANG_PATIENCE_S)
            if took_s is None:
                send(hung, signal.SIGKILL)
                send(hung, signal.SIGCONT)
                break
            took.append(took_s)
        name = self._contestant.name
        if took:
            words = "" if name == OURS else "by its own time-out"
            return measured(line, "ms", took, 1e3, whose=name, words=words)
        why = self._contestant.hang or f"not noticed within {HANG_PATIENCE_S:g} s"
        return Figure(line, "ms", whose=name, words=why)

    def _blow(self, pid: int, signum: int, patience_s: float) -> tuple[int, float | None]:
        """Signal the worker; the next one's pid, and how long it took until that one answered."""
        self._announcements.skip()
        began_at = time.monotonic()
        send(pid, signum)
        successor = self._announcements.next_pid(patience_s)
        if successor is None or not self._answers():
            return pid, None
        return successor, time.monotonic() - began_at

    def _answers(self) -> bool:
        until = time.monotonic() + 10
        address = ("127.0.0.1", self._port)
        while time.monotonic() < until:
            if self._contestant.asks_http:
                if ask(address, "/").said == "200":
                    return True
            else:
                try:
                    socket.create_connection(address, timeout=5).close()
                except OSError:
                    pass
                else:
                    return True
            time.sleep(0.001)
        return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
