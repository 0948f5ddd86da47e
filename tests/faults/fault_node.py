"""The node that faults are done to: a RealNanny under a watchdog, with a bystander that nobody may touch.

Every nanny started on it is told a WatchdogSec and heard by a WatchdogWatch. The bystander stands for the node's
workloads: same user, same cgroup as the nanny, no business of anybody's. It knows nothing of what is judged.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.watchdog_watch import WatchdogWatch, watchdog_watch
from tests.support.processes import StartedProcess
from tests.support.real_nanny import BEATS, RealNanny, real_node, remove_cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.oracles import Verdict

WATCHDOG_S = 4.0
LOST_AFTER_S = 1.5
STARVATION_LIMIT_S = 3.0
"""For the cases whose worker spins; the nanny's own limit is a minute."""
SETTINGS: dict[str, object] = {
    "heartbeat_interval_s": 0.2,
    "heartbeat_timeout_s": LOST_AFTER_S,
    "stall_warn_s": 0.5,
    "stall_timeout_s": LOST_AFTER_S,
    "evidence_timeout_s": 1.0,
    "abort_grace_s": 0.5,
    "stop_grace_s": 2.0,
    "backoff_initial_s": 0.1,
    "backoff_ceiling_s": 0.5,
    "journal_timeout_s": 0.5,
}
"""Quick, and still far from the noise of a busy machine; a case changes what it needs."""


@dataclass(frozen=True, slots=True)
class Bystander:
    """A process that is not the worker's."""

    process: StartedProcess
    start_time_ticks: int

    def harm(self) -> str | None:
        """What was done to it, in words; None: nothing."""
        try:
            now = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "the bystander is gone"
        if int(now[19]) != self.start_time_ticks or now[0] in "ZX":
            return "the bystander is dead"
        return "the bystander was stopped" if now[0] in "Tt" else None


class FaultNode(RealNanny):
    """One node of the campaign.

    Attributes:
        watch: hears what the nannies say upwards.
        bystander: asleep, and to be left so.
        verdicts: one for each judged block, in order.
        nanny_pids: of every nanny started here, the latest last.
    """

    def __init__(self, directory: Path, watch: WatchdogWatch, bystander: Bystander) -> None:
        super().__init__(directory)
        self.watch = watch
        self.bystander = bystander
        self.verdicts: list[Verdict] = []
        self.nanny_pids: list[int] = []

    def begin(
        self, program: str | tuple[str, ...] = BEATS, *flags: str, **settings: object
    ) -> dict[str, Any]:
        """Start a nanny with the campaign's settings, some changed by name, and wait until its worker runs."""
        self.start(program, *flag_list(settings), *flags)
        return self.wait_for_phase("running")

    def start(
        self,
        program: str | tuple[str, ...] = BEATS,
        *flags: str,
        wait: bool = True,
        environ: dict[str, str] | None = None,
        **popen_kw: Any,
    ) -> None:
        """As RealNanny.start, under the watchdog."""
        super().start(program, *flags, wait=wait, environ=self.watch.environ | (environ or {}), **popen_kw)
        self.nanny_pids.append(self.pid)

    @staticmethod
    def flags(**settings: object) -> list[str]:
        """The campaign's settings as flags, some changed by name."""
        return flag_list(settings)

    def again(self, program: str | tuple[str, ...] = BEATS, *flags: str, **settings: object) -> None:
        """SIGKILL the nanny and start the next one, as systemd would."""
        self.kill()
        self.start(program, *flag_list(settings), *flags)

    def signal_worker(self, signum: int) -> None:
        """Signal the worker of now by pidfd."""
        send(int(self.status()["worker"]["pid"]), signum)


def send(pid: int, signum: int) -> None:
    """Signal a process of the test by pidfd."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signum)
    finally:
        os.close(fd)


def flag_list(settings: dict[str, object]) -> list[str]:
    """``nanny run`` flags: the campaign's settings with some changed; None leaves a default."""
    merged = SETTINGS | settings
    return [f"--{key.replace('_', '-')}={value}" for key, value in merged.items() if value is not None]


@contextmanager
def bystander() -> Iterator[Bystander]:
    """A sleeping process for the length of the block."""
    popen = subprocess.Popen(["sleep", "3600"], stdin=subprocess.DEVNULL)
    process = StartedProcess(popen, os.pidfd_open(popen.pid))
    try:
        ticks = Path(f"/proc/{popen.pid}/stat").read_text().rpartition(")")[2].split()[19]
        yield Bystander(process, int(ticks))
    finally:
        process.send_signal(signal.SIGKILL)
        popen.wait()
        os.close(process.pidfd)


@contextmanager
def fault_node(watchdog_s: float = WATCHDOG_S) -> Iterator[FaultNode]:
    """A node without a nanny yet; whatever came to live on it is ended, and its cgroups are removed."""
    with watchdog_watch(watchdog_s) as watch, bystander() as sleeper, real_node() as base:
        node = FaultNode(base.directory, watch, sleeper)
        try:
            yield node
            if node.process is not None and node.process.returncode is None and not node.has_ended():
                node.assert_unharmed()
        finally:
            node.end_everything()
            remove_cgroups(node)
