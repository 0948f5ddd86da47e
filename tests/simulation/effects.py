"""What the nanny's actions do to a node: the kernel's answers to fork, kill, /proc and the helpers.

Each is the simulated half of one action of the core; its result comes back as an event, at once or later, or never if
the trouble of the moment says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.core import actions as a
from nanny.core import events as e
from tests.simulation.link import LinkProgram
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation
    from tests.simulation.machine import Machine
    from tests.simulation.shell import NannyLife

_EVIDENCE_S: Final = 0.2
_RELOAD_S: Final = 0.2


class Effects:
    """On one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _of(self, incarnation: Incarnation) -> list[Worker]:
        return [one for one in self._machine.workers if one.incarnation == incarnation]

    def spawn_worker(self, action: a.SpawnWorker) -> None:
        """Fork a child that waits at the gate."""
        now, incarnation = self._machine.mono, action.incarnation
        if now < self._machine.spawns_fail_until:
            self._machine.tell_nanny(e.SpawnFailed(incarnation, "fork: no memory"))
        elif now < self._machine.spawns_late_until:
            self._machine.at_mono(
                now + self._machine.late_by_s, self._born, incarnation, self._machine.nanny_life
            )
        else:
            self._born(incarnation, self._machine.nanny_life)

    def _born(self, incarnation: Incarnation, life: NannyLife | None) -> None:
        if life is None or life is not self._machine.nanny_life:
            return
        self._machine.pids += 1
        worker = Worker(
            self._machine, incarnation, self._machine.pid_base + self._machine.pids, self._machine.pids
        )
        self._machine.workers.append(worker)
        self._machine.tell_nanny(e.WorkerParked(incarnation, worker.pid, worker.ticks))

    def release_worker(self, action: a.ReleaseWorker) -> None:
        """Open the gate."""
        for worker in self._of(action.incarnation):
            if worker.is_parked:
                worker.release()

    def abandon_worker(self, action: a.AbandonWorker) -> None:
        """Let it end at the gate."""
        for worker in self._of(action.incarnation):
            if worker.is_parked:
                self._machine.after(0.001, worker.die, "exit code 0")

    def signal_worker(self, action: a.SignalWorker) -> None:
        """Signal its main process."""
        for worker in self._of(action.incarnation):
            worker.take_signal(action.signal)

    def examine_worker(self, action: a.ExamineWorker) -> None:
        """Read what the kernel knows."""
        for worker in self._of(action.incarnation):
            since = self._machine.mono if action.silent_since is None else action.silent_since
            self._machine.tell_nanny(worker.examined(self._machine.mono - since, self._machine.mono))

    def fence_worker(self, action: a.FenceWorker) -> None:
        """Nobody hears it any more."""
        for worker in self._of(action.incarnation):
            worker.fenced = True
            worker.stream += 1

    def collect_evidence(self, action: a.CollectEvidence) -> None:
        """A helper looks, and answers later, or hangs."""
        if self._machine.mono >= self._machine.evidence_hangs_until:
            told = e.EvidenceCollected(action.incarnation, "bundle", "", action.command_id)
            self._machine.after(_EVIDENCE_S, self._machine.tell_nanny, told, self._machine.nanny_life)

    def reload_settings(self, action: a.ReloadConfig) -> None:
        """A helper reads them, and answers later, or hangs."""
        if self._machine.mono < self._machine.settings_hang_until and not self._machine.settings_are_refused:
            return
        told: e.Event = e.ConfigReloaded((), (), action.command_id)
        if self._machine.mono < self._machine.settings_hang_until:
            told = e.ConfigRejected("stall_timeout_s: 0 is not above 0", action.command_id)
        self._machine.after(_RELOAD_S, self._machine.tell_nanny, told, self._machine.nanny_life)

    def spawn_link(self, action: a.SpawnLink) -> None:
        """Start the link process."""
        if self._machine.mono < self._machine.links_fail_until:
            self._machine.tell_nanny(e.LinkSpawnFailed(action.number, "no such user"))
            return
        if self._machine.link is not None:
            self._machine.link.vanish()
        self._machine.pids += 1
        self._machine.link = LinkProgram(self._machine, action.number)
        self._machine.tell_nanny(e.LinkSpawned(action.number, self._machine.pid_base + self._machine.pids))
        self._machine.after(0.05, self._machine.link.begin)

    def signal_link(self, action: a.SignalLink) -> None:
        """Signal the link process."""
        link = self._machine.link
        if link is not None and link.number == action.number:
            self._machine.after(0.01, link.die, str(action.signal))
