"""The worker as the kernel has it: carries out what the core decided, and tells what became of it.

Born parked at the fork gate, moved into a cgroup of its own (``worker-<number>``), released after its record is
durable, signalled by pidfd only, swept up after its death. Decides nothing. pidfd_open(2), cgroups(7), proc(5).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nanny import examination, fault_point, fork_gate, worker_cgroup, worker_spec
from nanny.core import events as e
from nanny.errors import HostError
from nanny.event_loop import DeadlineSource
from nanny.heartbeats import NotifySocket
from nanny.left_behind import LeftBehind, names_in
from nanny.life import Arrival, Gate, Life, stacks_of
from nanny.linux import memfd, pidfd, procfs
from nanny.reaper import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.config import NannyConfig
    from nanny.core.actions import (
        AbandonWorker,
        ExamineWorker,
        FenceWorker,
        ReleaseWorker,
        SignalWorker,
        SpawnWorker,
    )
    from nanny.event_loop import EventLoop
    from nanny.linux.cgroup import SubCgroup
    from nanny.linux.peer_credentials import Credentials
    from nanny.protocol.incarnation import Incarnation
    from nanny.protocol.notify_format import Beat
    from nanny.reaper import ExitStatus, Reaper
    from nanny.standby_process import StandbyChild, StandbyProcess
    from nanny.supervisor import Supervisor

_STACKS_LIMIT_BYTES: Final = 4 << 20
_MEMORY_INTERVAL_S: Final = 5.0
_ENDED_KEPT: Final = 3
_LAST_SWEEP_S: Final = 1.0
"""What is being swept at the nanny's end was killed before: a moment, unless it is stuck."""


class WorkerProcess:
    """Every incarnation that has a process; at most one of them is not fenced.

    Attributes:
        lives: by incarnation, those whose main process is not known to be dead.
        beats_total: heartbeats taken.
        standby: serves the next life where it can; None starts each from cold.
    """

    def __init__(
        self,
        config: NannyConfig,
        supervisor: Supervisor,
        loop: EventLoop,
        log: LogLines,
        reaper: Reaper,
        cgroup_dir: str | None,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._loop = loop
        self._log = log
        self._reaper = reaper
        self._cgroup_dir = cgroup_dir
        self.standby: StandbyProcess | None = None
        self.lives: dict[Incarnation, Life] = {}
        self.ended: list[Life] = []
        self.beats_total = 0
        self.output_fd = -1
        self.listener_fd: Callable[[], int] = lambda: -1
        self.on_beat: Callable[[float], None] = lambda _now: None
        self.on_released: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None
        self._refused_before = 0
        self._memory_at = 0.0
        self._left_behind = LeftBehind(supervisor, loop)
        loop.add_source(DeadlineSource(self._next_memory_deadline, self._measure_memory))

    # Actions

    def spawn(self, action: SpawnWorker) -> None:
        """Provide a child that waits to be released: the standby, else one made from cold."""
        if self.standby is None:
            self.spawn_cold(action.incarnation)
        else:
            self.standby.child_wanted(action.incarnation)

    def spawn_cold(self, incarnation: Incarnation) -> None:
        """Make a child that waits at the fork gate."""
        stacks_fd, notify, cgroup = -1, None, None
        try:
            stacks_fd = memfd.create_memfd(
                f"stacks-{incarnation.number}", _STACKS_LIMIT_BYTES, inheritable=False
            )
            cgroup = worker_cgroup.make(self._cgroup_dir, incarnation, self._log)
            notify = self._notify_socket(incarnation)
            parked = fork_gate.park(self._child_spec(incarnation, stacks_fd, notify.path, cgroup))
        except (HostError, OSError) as error:
            if stacks_fd >= 0:
                os.close(stacks_fd)
            if notify is not None:
                notify.close()
            if cgroup is not None:
                self._left_behind.sweep_up(cgroup)
            self._supervisor.tell(e.SpawnFailed(incarnation, str(error)))
            return
        gate = Gate(lambda: fork_gate.release(parked), lambda: fork_gate.abandon(parked))
        life = Life(
            incarnation, parked.pid, parked.pidfd, parked.start_time_ticks, cgroup, stacks_fd, notify, gate
        )
        self._keep(life)
        life.exec_error_fd = parked.exec_error_fd
        self._loop.watch(parked.exec_error_fd, lambda: self._exec_told(life))
        fault_point.reach("worker-parked")
        self._supervisor.tell(e.WorkerParked(incarnation, parked.pid, parked.start_time_ticks))

    def promote(self, incarnation: Incarnation, child: StandbyChild) -> None:
        """Have the standby, which waits for its wake, be this life's child."""
        standby = self.standby
        assert standby is not None, "it gave the child"
        try:
            notify = self._notify_socket(incarnation)
        except (HostError, OSError) as error:
            standby.discard(incarnation)
            self._supervisor.tell(e.SpawnFailed(incarnation, str(error)))
            return

        def release() -> None:
            fault_point.reach("standby-recorded")
            standby.wake(incarnation, notify.path, self.listener_fd())
            fault_point.reach("standby-woken")

        life = Life(
            incarnation,
            child.pid,
            child.pidfd,
            child.start_time_ticks,
            child.cgroup,
            child.stacks_fd,
            notify,
            Gate(release, lambda: standby.forget_woken(incarnation)),
        )
        self._keep(life)
        fault_point.reach("worker-parked")
        self._supervisor.tell(e.WorkerParked(incarnation, child.pid, child.start_time_ticks))

    def release(self, action: ReleaseWorker) -> None:
        """Let the child execute the program."""
        life = self.lives.get(action.incarnation)
        if life is not None and life.parked is not None:
            fault_point.reach("worker-recorded")
            gate, life.parked = life.parked, None
            gate.release()
            self.on_released()

    def abandon(self, action: AbandonWorker) -> None:
        """Let the parked child end."""
        life = self.lives.get(action.incarnation)
        if life is not None and life.parked is not None:
            gate, life.parked = life.parked, None
            gate.abandon()

    def signal(self, action: SignalWorker) -> None:
        """Signal the main process; SIGKILL goes to its whole cgroup as well."""
        life = self.lives.get(action.incarnation)
        if life is None:
            return
        signum = signal.Signals[action.signal]
        pidfd.send_signal(life.pidfd, signum)
        if signum == signal.SIGKILL and life.cgroup is not None:
            with suppress(HostError):
                life.cgroup.kill()

    def fence(self, action: FenceWorker) -> None:
        """Take no more beats of it; its pidfd stays watched."""
        life = self.lives.get(action.incarnation)
        if life is not None:
            self._deafen(life)

    def examine(self, action: ExamineWorker) -> None:
        """Read state, tracer, run-queue delay and throttling; all of them small reads of /proc and cgroupfs."""
        life = self.lives.get(action.incarnation)
        if life is None:
            return
        since = action.silent_since
        silence_s = 0.0 if since is None else max(self._loop.now - since, 0.0)
        beats_come = bool(life.beats) and since is not None and life.beats[-1].at > since
        before = life.baseline_at(since)
        facts = examination.examine(
            life.pid, life.vitals_tid, before, life.cgroup, silence_s, beats_come=beats_come
        )
        self._supervisor.tell(
            e.WorkerExamined(
                life.incarnation, facts.process_state, facts.traced, facts.runqueue_wait_s, facts.throttled_s
            )
        )

    # Observations

    def adopt(self, life: Life) -> None:
        """Take over a worker that an earlier nanny released."""
        life.cgroup = worker_cgroup.find(self._cgroup_dir, life.pid)
        life.stacks_fd = stacks_of(life.pidfd)
        life.notify = self._notify_socket(life.incarnation)
        self._keep(life)

    def use_standby(self, standby: StandbyProcess) -> None:
        """Have each life served by a standby where there is one."""
        self.standby = standby
        standby.output_fd = lambda: self.output_fd
        standby.promote = self.promote
        standby.start_cold = self.spawn_cold
        standby.kill = self._kill
        standby.sweep_up = self._left_behind.sweep_up
        standby.on_taken = lambda: self.on_beat(self._loop.now)  # it has the listener: as good as a beat

    def _kill(self, incarnation: Incarnation) -> None:
        life = self.lives.get(incarnation)
        if life is not None:
            pidfd.send_signal(life.pidfd, signal.SIGKILL)

    def sweep_left_over(self) -> None:
        """Remove what dead workers of earlier nannies left: cgroups with whoever is in them, notify sockets."""
        if self._cgroup_dir is not None:
            ours = {life.cgroup.path for life in self.lives.values() if life.cgroup is not None}
            self._left_behind.sweep_others(self._cgroup_dir, ours)
        listening = {life.notify.path for life in self.lives.values() if life.notify is not None}
        for name in names_in(self._config.runtime_dir, "notify-", ".sock"):
            path = os.path.join(self._config.runtime_dir, name)
            if path not in listening:
                with suppress(OSError):
                    os.unlink(path)

    def current(self) -> Life | None:
        """The life that owns the node, if its process is there."""
        incarnation = self._supervisor.state.incarnation
        return None if incarnation is None else self.lives.get(incarnation)

    def _keep(self, life: Life) -> None:
        self.lives[life.incarnation] = life
        self._loop.watch(life.pidfd, lambda: self._died(life))
        with suppress(AssertionError):
            self._reaper.register(life.pid, lambda _pid, status: self._reaped(life, status))

    def _reaped(self, life: Life, status: ExitStatus) -> None:
        life.status = status
        if status is not UNKNOWN:
            self._died(life)

    def _died(self, life: Life) -> None:
        """The pidfd is readable, or the reaper has met it: told once."""
        if self.lives.get(life.incarnation) is not life or not pidfd.has_exited(life.pidfd):
            return
        if life.status is UNKNOWN:
            self._reaper.reap_child(life.pid)
            if self.lives.get(life.incarnation) is not life:
                return
        self._exec_told(life)
        del self.lives[life.incarnation]
        self._loop.unwatch(life.pidfd)
        self._release_descriptors(life)
        if life.cgroup is not None:
            # Descendants of a dead worker are nobody's: only workloads outlive it, in units of their own.
            self._left_behind.sweep_up(life.cgroup)
        self._remember(life)
        status = f"{life.status} ({life.exec_error})" if life.exec_error else str(life.status)
        try:
            self.on_gone()
        finally:
            self._supervisor.tell(e.WorkerExited(life.incarnation, status))

    def _remember(self, life: Life) -> None:
        """Keep what evidence after death needs of the latest few."""
        self.ended.append(life)
        if len(self.ended) > _ENDED_KEPT:
            forgotten = self.ended.pop(0)
            if forgotten.stacks_fd is not None:
                os.close(forgotten.stacks_fd)

    def _release_descriptors(self, life: Life) -> None:
        if life.exec_error_fd >= 0:
            self._loop.unwatch(life.exec_error_fd)
            os.close(life.exec_error_fd)
            life.exec_error_fd = -1
        if life.parked is not None:
            gate, life.parked = life.parked, None
            gate.abandon()
        if self.standby is not None:
            self.standby.forget_woken(life.incarnation)
        os.close(life.pidfd)
        self._deafen(life)

    def _deafen(self, life: Life) -> None:
        if life.notify is not None:
            self._refused_before += life.notify.refused_total
            life.notify.close()
            life.notify = None

    @property
    def refused_total(self) -> int:
        """Datagrams that no worker of ours sent, or that nobody understands."""
        heard = (life.notify.refused_total for life in self.lives.values() if life.notify is not None)
        return self._refused_before + sum(heard)

    def _exec_told(self, life: Life) -> None:
        if life.exec_error_fd < 0:
            return
        told = fork_gate.read_exec_error(life.exec_error_fd)
        if told is fork_gate.ExecProgress.PENDING:
            return
        self._loop.unwatch(life.exec_error_fd)
        os.close(life.exec_error_fd)
        life.exec_error_fd = -1
        if told is not None:
            life.exec_error = told.message
            self._log.error(
                "the program could not be executed", incarnation=str(life.incarnation), why=told.message
            )

    def _notify_socket(self, incarnation: Incarnation) -> NotifySocket:
        # Numbers begin anew in a new epoch, and there may be a worker of each.
        name = f"notify-{incarnation.number}-{incarnation.epoch[-6:]}.sock"
        path = os.path.join(self._config.runtime_dir, name)

        def accepts(sender: Credentials) -> bool:
            life = self.lives.get(incarnation)
            return life is not None and (self._config.notify_access == "all" or sender.pid == life.pid)

        return NotifySocket(
            path, self._loop, self._log, accepts, lambda beat, _: self._take_beat(incarnation, beat)
        )

    def _take_beat(self, incarnation: Incarnation, beat: Beat) -> None:
        life = self.lives.get(incarnation)
        if life is None:
            return
        now = self._loop.now
        self.beats_total += 1
        life.last_beat = beat
        life.vitals_tid = beat.vitals_tid or life.vitals_tid
        life.is_ready = life.is_ready or beat.ready
        life.beats.append(Arrival(now, beat, examination.baseline(life.pid, life.vitals_tid, life.cgroup)))
        overdue = tuple(point.name for point in beat.progress if point.critical and point.is_overdue)
        self.on_beat(now)
        self._supervisor.tell(
            e.HeartbeatReceived(
                incarnation,
                watchdog=beat.watchdog,
                ready=beat.ready,
                stopping=beat.stopping,
                trigger=beat.trigger,
                loop_lag_s=beat.loop_lag_s,
                overdue=overdue,
                expected_s=beat.expected_until or 0.0,
                stalled_at=beat.stalled_at or "",
                extend_s=beat.extend_timeout_s or 0.0,
                stuck_probes=beat.stuck_probes or 0,
            )
        )

    def _child_spec(
        self, incarnation: Incarnation, stacks_fd: int, notify_path: str, cgroup: SubCgroup | None
    ) -> fork_gate.ChildSpec:
        return worker_spec.worker_spec(
            self._config,
            str(incarnation),
            notify_path,
            worker_spec.Descriptors(self.output_fd, self.listener_fd(), stacks_fd),
            None if cgroup is None else cgroup.path,
        )

    # Memory limit

    def _next_memory_deadline(self) -> float | None:
        return self._memory_at if self._config.memory_limit_bytes is not None and self.lives else None

    def _measure_memory(self, now: float) -> None:
        self._memory_at = now + _MEMORY_INTERVAL_S
        life = self.current()
        if life is not None:
            with suppress(ProcessLookupError, HostError):
                rss_bytes = procfs.read_status(life.pid).vm_rss_bytes
                self._supervisor.tell(e.MemoryMeasured(life.incarnation, rss_bytes))

    def close(self) -> None:
        """Remove the notify sockets of what lives, and the cgroups of the dead; the processes stay."""
        for life in self.lives.values():
            self._deafen(life)
        self._left_behind.see_off(_LAST_SWEEP_S)
