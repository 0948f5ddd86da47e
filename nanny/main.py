"""The nanny's process, wired: every part is made here and nowhere else knows all the others.

Order of a start: settings (already resolved), lock, log, journal (not longer than ``journal_timeout_s``), adoption
of what lives, listening socket, control socket, first decision, READY=1 upwards. Only this start may end the
process on an error; afterwards everything is logged, counted and survived.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn
from zlib import crc32

from nanny import fault_point, fork_gate, launch, state_claim
from nanny.common.identifiers import uuid7
from nanny.common.log_lines import LogLines, is_journal
from nanny.control import ControlSocket
from nanny.control_requests import ControlRequests
from nanny.core import events as e
from nanny.core.actions import (
    AbandonWorker,
    CollectEvidence,
    ExamineWorker,
    ExitNanny,
    FenceWorker,
    ReleaseWorker,
    ReloadConfig,
    SignalLink,
    SignalWorker,
    SpawnLink,
    SpawnWorker,
)
from nanny.core.records import to_json
from nanny.durability import Durability
from nanny.errors import HostError, NannyError
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.evidence.desk import EvidenceDesk
from nanny.handover import Handover
from nanny.health_socket import HealthSocket
from nanny.journal.client import JournalClient
from nanny.life import Life
from nanny.link_process import LinkProcess
from nanny.linux import cgroup, fifo, file_lock, pidfd, procfs, subreaper
from nanny.linux.clocks import OffsetClock, SystemClock
from nanny.linux.inherited_sockets import take_inherited
from nanny.linux.signals import SignalDoor
from nanny.linux.systemd_notify import SystemdNotifier, watchdog_interval_s
from nanny.log_outlet import LogOutlet
from nanny.metrics import Counters
from nanny.policy_settings import policy
from nanny.reaper import Reaper
from nanny.recorder import FlightRecorder
from nanny.recovery import Recovery, recover
from nanny.reload import Reloader
from nanny.roles import Roles, group_id
from nanny.status import NannyStatus
from nanny.supervisor import Supervisor
from nanny.worker_output import WorkerOutput
from nanny.worker_process import WorkerProcess
from nanny.worker_spec import wants_standby

if TYPE_CHECKING:
    import socket

    from nanny import adoption
    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from nanny.launch import Launch

LATE_AFTER_S: Final = 1.0
_STOPPED_EXIT: Final = 0
_ALREADY_RUNNING_EXIT: Final = 75
"""EX_TEMPFAIL of sysexits(3)."""
_CANNOT_START_EXIT: Final = 69
"""EX_UNAVAILABLE."""


def main() -> NoReturn:
    """Supervise until told otherwise."""
    started = launch.take()
    try:
        nanny = Nanny(started)
    except file_lock.AlreadyLocked as error:
        sys.stderr.write(f"nanny: {error}; stop that one first, or give this one its own --runtime-dir\n")
        sys.exit(_ALREADY_RUNNING_EXIT)
    except (HostError, OSError) as error:
        sys.stderr.write(f"nanny: cannot start: {error}\n")
        sys.exit(_CANNOT_START_EXIT)
    nanny.run()
    sys.exit(_STOPPED_EXIT)


class Nanny:
    """All parts of one nanny."""

    def __init__(self, started: Launch) -> None:
        config = launch.settings(started)
        self._launch = started
        self._config = config
        self._is_ending = False
        self._shutdown_wanted = False
        self._reap_at: float | None = None
        self._cgroup: cgroup.SubCgroup | None = None
        with suppress(HostError):
            subreaper.set_process_name("nanny")
        os.makedirs(config.runtime_dir, mode=0o755, exist_ok=True)
        self._lock = self._take_lock()
        self._claim = self._claim_state_dir()
        fault_point.arm(config.fault_point)
        fault_point.reach("recovering")
        self._boot_id = procfs.boot_id()
        self._clock = SystemClock() if config.clock_offsets is None else OffsetClock(config.clock_offsets)
        self._signals = SignalDoor()
        self._signals.watch({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._outlet = LogOutlet(config)
        self._log = LogLines(
            self._outlet.nanny_line,
            "nanny",
            lambda: self._clock.read().wall_s,
            priorities=is_journal(2, os.environ.get("JOURNAL_STREAM")),
        )
        self._loop = EventLoop(self._clock, LATE_AFTER_S, self._was_late, self._was_away)
        self._loop.on_error = self._callback_failed
        self._notifier = SystemdNotifier(os.environ.get("NOTIFY_SOCKET"))
        self._watchdog_s = watchdog_interval_s(os.environ)
        self._reaper = Reaper()
        self._loop.watch(self._signals.fileno(), self._on_signals)
        # Waiting since before the execution of this image, perhaps.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, launch.WAITING_SIGNALS)
        self._outlet.attend(self._loop)
        self._loop.add_source(DeadlineSource(lambda: self._reap_at, lambda _now: self._reap()))
        if self._claim is not None:
            claimed = self._claim
            self._loop.watch(claimed.fileno(), lambda: state_claim.let_ask(claimed))
        self._supervisor: Supervisor | None = None
        self._started_at = self._loop.now
        self._durability = self._open_journal()
        self._wire(self._recover())

    # Start

    def _take_lock(self) -> file_lock.FileLock:
        path = os.path.join(self._config.runtime_dir, "nanny.lock")
        if self._launch.lock_fd >= 0:
            os.set_inheritable(self._launch.lock_fd, False)
            return file_lock.resume(path, self._launch.lock_fd)
        return file_lock.acquire(path)

    def _claim_state_dir(self) -> socket.socket | None:
        if self._launch.claim_fd >= 0:
            return state_claim.resume(self._launch.claim_fd)
        return state_claim.claim(self._config.state_dir)

    def _mint(self) -> str:
        return uuid7(int(self._clock.read().wall_s * 1000), os.urandom(10))

    def _open_journal(self) -> Durability:
        client = JournalClient(
            fork_gate.fork_helper,
            os.path.join(self._config.state_dir, "journal.jsonl"),
            self._mint(),
            self._boot_id,
        )
        durability = Durability(client, self._loop, self._config.journal_timeout_s)
        durability.on_writer = lambda pid: self._reaper.register(
            pid, lambda pid, _status: durability.writer_reaped(pid)
        )
        durability.start()
        while durability.opened is None and not durability.degraded:
            self._loop.turn()
        return durability

    def _recover(self) -> Recovery:
        config = policy(self._config, self._launch.node_id)
        return recover(
            self._durability, self._facts_path(), self._boot_id, self._loop.now, config, self._mint, self._log
        )

    def _facts_path(self) -> str:
        return os.path.join(self._config.runtime_dir, "facts")

    def _wire(self, recovery: Recovery) -> None:
        config, loop, log = self._config, self._loop, self._log
        found = recovery.found
        supervisor = Supervisor(
            recovery.recovered.state,
            policy(config, self._launch.node_id),
            loop,
            self._durability,
            log,
            self._mint,
        )
        self._supervisor = supervisor
        self._recorder = FlightRecorder(
            lambda: self._clock.read().wall_s, self._launch.version, self._launch.node_name
        )
        supervisor.recorder = self._recorder.note
        self._counters = Counters()
        self.workers = WorkerProcess(config, supervisor, loop, log, self._reaper, self._own_cgroup())
        self.link = LinkProcess(config, supervisor, loop, log, self._reaper)
        self._output = self._open_output()
        self.health = HealthSocket(config, loop, log, self._notifier)
        owner = next((one for one in found if not one.fenced), None)
        inherited = self._launch.listeners or take_inherited(os.environ)
        no_socket = self.health.find(inherited, None if owner is None else owner.pidfd)
        self.workers.listener_fd = lambda: self.health.fd
        self.workers.on_beat = self.health.worker_showed_life
        self.workers.on_released = self.health.worker_started
        self.workers.on_gone = self.health.worker_gone
        self._reloader = Reloader(
            dict(self._launch.settings),
            self._launch.resolve_argv,
            supervisor,
            loop,
            self._reaper,
            self._apply_settings,
        )
        self._control = ControlSocket(
            os.path.join(config.runtime_dir, "control.sock"),
            loop,
            log,
            Roles(config, lambda: self.link.pid).of,
            group_id(config.sockets_group),
        )
        self.status = self._show(supervisor)
        self._desk = EvidenceDesk(
            config,
            supervisor,
            loop,
            log,
            self.workers,
            self._reaper,
            self.status.output_tail,
            self.status.whole,
            self._recorder.dump,
        )
        self._desk.on_saved = self.status.tell_evidence
        ControlRequests(self._control, supervisor, self.status.whole)
        self._handover = self._leave_behind(supervisor)
        self._wire_effects(supervisor)
        self._use_standby(supervisor)
        supervisor.on_step += [self._counters.observe, self._after_step]
        self._adopt(found)
        self.link.end_left_over(recovery.link)
        if recovery.unjournaled:
            at = round(loop.now, 3)
            self._durability.append([{**to_json(record), "at": at} for record in recovery.unjournaled])
        self._reap()
        supervisor.tell(e.NannyStarted())
        if self._durability.degraded:
            supervisor.tell(e.JournalDegraded(self._durability.degraded))
        self.health.serve(supervisor, self.status.words)
        if self.health.fd < 0 and no_socket:
            supervisor.tell(e.HealthSocketLost(no_socket))
        if self._shutdown_wanted:
            supervisor.tell(e.ShutdownRequested())
        if self._watchdog_s is not None:
            self._pet_at = loop.now
            loop.add_source(DeadlineSource(lambda: self._pet_at, self._pet))

    def _show(self, supervisor: Supervisor) -> NannyStatus:
        status = NannyStatus(
            launch=self._launch,
            state_dir=self._config.state_dir,
            boot_id=self._boot_id,
            supervisor=supervisor,
            loop=self._loop,
            workers=self.workers,
            health=self.health,
            output=self._output,
            durability=self._durability,
            reaper=self._reaper,
            outlet=self._outlet,
            counters=self._counters,
            control=self._control,
            recorder=self._recorder,
            started_at=self._started_at,
        )
        status.serve()
        return status

    def _leave_behind(self, supervisor: Supervisor) -> Handover:
        handover = Handover(
            started=self._launch,
            facts_path=self._facts_path(),
            boot_id=self._boot_id,
            lock_fd=self._lock.fileno(),
            claim_fd=-1 if self._claim is None else self._claim.fileno(),
            supervisor=supervisor,
            loop=self._loop,
            workers=self.workers,
            link=self.link,
            health=self.health,
            durability=self._durability,
            reloader=self._reloader,
            control=self._control,
            lines=self._log,
        )
        handover.serve()
        self._durability.snapshot = handover.snapshot
        return handover

    def _adopt(self, found: list[adoption.Found]) -> None:
        for one in found:
            life = Life(
                one.started.incarnation, one.started.pid, one.pidfd, one.started.start_time_ticks, None, None
            )
            life.is_ready = one.was_ready
            self.workers.adopt(life)
            if one.fenced:
                # Nobody's any more, whatever kept its end from being brought about.
                pidfd.send_signal(one.pidfd, signal.SIGKILL)
                self.workers.fence(FenceWorker(one.started.incarnation))
            self._log.info("worker adopted", incarnation=str(one.started.incarnation), pid=one.started.pid)
        self.workers.sweep_left_over()

    def _wire_effects(self, supervisor: Supervisor) -> None:
        supervisor.effect(SpawnWorker, self._spawn)
        supervisor.effect(ReleaseWorker, self.workers.release)
        supervisor.effect(AbandonWorker, self.workers.abandon)
        supervisor.effect(SignalWorker, self.workers.signal)
        supervisor.effect(ExamineWorker, self.workers.examine)
        supervisor.effect(FenceWorker, self.workers.fence)
        supervisor.effect(CollectEvidence, self._desk.collect)
        supervisor.effect(SpawnLink, self.link.spawn)
        supervisor.effect(SignalLink, self.link.signal)
        supervisor.effect(ReloadConfig, self._reloader.reload)
        supervisor.effect(ExitNanny, self._end)

    def _spawn(self, action: SpawnWorker) -> None:
        self.health.retry()
        self.workers.spawn(action)

    def _use_standby(self, supervisor: Supervisor) -> None:
        if not wants_standby(self._config):
            return
        from nanny.standby_process import StandbyProcess  # noqa: PLC0415  # no memory where none is wanted

        cgroup_dir = None if self._cgroup is None else self._cgroup.path
        standby = StandbyProcess(self._config, self._loop, self._log, self._reaper, cgroup_dir)
        self.workers.use_standby(standby)
        supervisor.on_step.append(standby.observe)

    def _own_cgroup(self) -> str | None:
        try:
            own = cgroup.own_cgroup_dir()
        except HostError as error:
            self._log.warning("no cgroups", why=str(error))
            return None
        if own is None:
            return None
        # Several nannies may share a cgroup (no unit of their own): each keeps to a subtree named after its
        # runtime directory, of which it is the only user.
        runtime_dir = os.path.realpath(self._config.runtime_dir)
        subtree = cgroup.SubCgroup(os.path.join(own, f"nodenanny-{crc32(runtime_dir.encode()):08x}"))
        try:
            subtree.create()
        except (HostError, OSError) as error:
            self._log.warning("no cgroups", why=str(error))
            return None
        self._cgroup = subtree
        return subtree.path

    def _open_output(self) -> WorkerOutput | None:
        path = os.path.join(self._config.runtime_dir, "output.fifo")
        try:
            opened = fifo.open_output_fifo(path, self._config.output_backlog_bytes)
        except HostError as error:
            self._log.error("no output of the worker", why=str(error))
            return None
        output = WorkerOutput(opened.read_fd, self._outlet.worker_lines)
        self.workers.output_fd = opened.write_fd
        self.link.output_fd = opened.write_fd
        self._loop.watch(opened.read_fd, self._on_output)
        return output

    def _on_output(self) -> None:
        if self._output is not None:
            self._output.on_readable()

    # Running

    def run(self) -> None:
        """Turn the loop until the core says exit."""
        self._log.info(
            "nanny started",
            version=self._launch.version,
            pid=os.getpid(),
            node=self._launch.node_name,
            healthz=self.health.address,
            reexecuted=self._launch.reexecuted,
        )
        self._notifier.ready()
        assert self._supervisor is not None
        self._tell_phase(self._supervisor.state)
        while not self._is_ending:
            self._loop.turn()
            self._handover.attend()
        self._close()

    def _end(self, _action: ExitNanny) -> None:
        self._is_ending = True

    def _close(self) -> None:
        self._notifier.stopping()
        self._log.info("nanny ended")
        for close in (
            self._control.close,
            self.workers.close,
            self.link.close,
            self.health.close,
            self._durability.close,
            self._remove_cgroup,
            self._handover.remove_facts,
            self._outlet.close,
        ):
            # What can't be tidied up is the next nanny's; an ordered end is no crash.
            with suppress(NannyError, OSError):
                close()
        self._lock.release()

    def _remove_cgroup(self) -> None:
        if self._cgroup is not None:
            self._cgroup.remove()

    def _on_signals(self) -> None:
        for signum in self._signals.drain():
            match signum:
                case signal.SIGTERM | signal.SIGINT:
                    self._shutdown_wanted = True
                    if self._supervisor is not None:
                        self._supervisor.tell(e.ShutdownRequested())
                case signal.SIGHUP:
                    if self._supervisor is not None:
                        self._reloader.reload(ReloadConfig())
                case _:
                    pass
        self._reap()

    def _reap(self) -> None:
        """Reap a bounded number of children; what is left, or what an owner's failure cut short, comes next turn."""
        self._reap_at = self._loop.now
        if not self._reaper.reap():
            self._reap_at = None

    def _callback_failed(self, what: str, error: Exception) -> None:
        import traceback  # noqa: PLC0415  # a bug is rare, the module is not small

        story = "".join(traceback.format_exception(error, limit=-4))
        self._log.error("callback failed", what=what, error=repr(error), story=story)

    def _tell_phase(self, state: NannyState) -> None:
        """At the start, too: systemd forgets a service's words at its end, and an adopted worker's phase stays."""
        self._notifier.status(f"{state.phase}, incarnation {state.incarnation}")

    def _was_late(self, late_s: float) -> None:
        if self._supervisor is not None:
            self._supervisor.was_late(late_s)

    def _was_away(self, away_s: float) -> None:
        if self._supervisor is not None:
            self._supervisor.was_away(away_s)

    def _pet(self, now: float) -> None:
        assert self._watchdog_s is not None
        self._notifier.watchdog()
        self._pet_at = now + self._watchdog_s / 2

    def _apply_settings(self, settings: dict[str, Any]) -> None:
        assert self._supervisor is not None
        config = launch.as_attributes(settings)
        self._config.__dict__.update(config.__dict__)
        self._supervisor.config = policy(self._config, self._launch.node_id)
        if self.workers.standby is not None:
            self.workers.standby.reloaded()

    def _after_step(self, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:
        if records or before.link.pid != after.link.pid:
            self._handover.write_facts()
            for record in records:
                plain = to_json(record)
                self._log.info(str(plain.pop("type")), **plain)
        if before.phase is not after.phase:
            self.health.words_changed()
            self._tell_phase(after)
