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
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn
from zlib import crc32

from nanny import adoption, facts, fault_point, fork_gate, launch, state_claim, view
from nanny.common.identifiers import uuid7
from nanny.common.log_lines import LogLines, is_journal
from nanny.control import Client, ControlSocket, RequestError
from nanny.control_requests import ALL, OPERATING, ControlRequests
from nanny.core import events as e
from nanny.core import startup
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
from nanny.core.child import Stage
from nanny.core.records import EpochMinted, IncarnationEnded, IncarnationStarted, to_json
from nanny.durability import Durability
from nanny.errors import HostError, NannyError
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.evidence.desk import EvidenceDesk
from nanny.health_socket import HealthSocket
from nanny.journal.client import JournalClient
from nanny.link_process import LinkProcess
from nanny.linux import cgroup, fifo, file_lock, pidfd, procfs, subreaper
from nanny.linux.clocks import SystemClock
from nanny.linux.inherited_sockets import take_inherited
from nanny.linux.signals import SignalDoor
from nanny.linux.systemd_notify import SystemdNotifier, watchdog_interval_s
from nanny.log_outlet import LogOutlet
from nanny.metrics import Counters
from nanny.policy_settings import policy
from nanny.reaper import Reaper
from nanny.reload import Reloader
from nanny.roles import Roles, group_id
from nanny.supervisor import Supervisor
from nanny.worker_output import WorkerOutput
from nanny.worker_process import Life, WorkerProcess
from nanny.worker_spec import LISTENER_NAME

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from nanny.evidence.desk import Saved
    from nanny.launch import Launch

LATE_AFTER_S: Final = 1.0
_OUTCOMES_IN_FACTS: Final = 32
_REEXEC_PAUSE_S: Final = 60.0
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
        self._reexec_wanted = False
        self._reexec_not_before = 0.0
        self._shutdown_wanted = False
        self._reap_at: float | None = None
        self._cgroup: cgroup.SubCgroup | None = None
        self._unjournaled: list[Record] = []
        with suppress(HostError):
            subreaper.set_process_name("nanny")
        os.makedirs(config.runtime_dir, mode=0o755, exist_ok=True)
        self._lock = self._take_lock()
        self._claim = self._claim_state_dir()
        fault_point.arm(config.fault_point)
        fault_point.reach("recovering")
        self._boot_id = procfs.boot_id()
        self._clock = SystemClock()
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
        self._wire(*self._recover())

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

    def _recover(self) -> tuple[startup.Recovered, list[adoption.Found], dict[str, Any]]:
        known = facts.read_facts(self._facts_path())
        remembered = known.facts or {}
        of_run = remembered.get("records")
        of_run = of_run if isinstance(of_run, list) else []
        opened = self._durability.opened
        plain: Sequence[Any] = of_run if opened is None else opened.records
        if opened is None:
            self._log.error("starting without a journal", why=self._durability.degraded)
        elif opened.torn_bytes or opened.damaged:
            self._log.warning("journal repaired", torn_bytes=opened.torn_bytes, damaged=opened.damaged)
        records, problems = adoption.parse_records(plain, self._boot_id)
        if opened is not None and opened.damaged:
            # Reserved numbers may be among what was lost: the epoch that the writer went on with counts anew.
            records.append((EpochMinted(opened.epoch), None))
        if opened is not None:
            of_this_boot = adoption.parse_records(of_run, self._boot_id)[0]
            adoption.add_unknown_living(records, of_this_boot)
            self._unjournaled += adoption.add_unknown_orders(records, of_this_boot)
        for problem in problems:
            self._log.warning("journal record passed over", why=problem)
        found = adoption.find_living(records)
        living = tuple(
            startup.Living(one.started.incarnation, one.started.pid, one.was_ready, one.fenced)
            for one in found
        )
        epochs = (self._mint(), self._mint())
        recovered = startup.recover(
            records, living, self._loop.now, epochs, policy(self._config, self._launch.node_id)
        )
        return recovered, found, remembered

    def _wire(
        self, recovered: startup.Recovered, found: list[adoption.Found], remembered: dict[str, Any]
    ) -> None:
        config, loop, log = self._config, self._loop, self._log
        supervisor = Supervisor(
            recovered.state, policy(config, self._launch.node_id), loop, self._durability, log, self._mint
        )
        self._supervisor = supervisor
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
        self._desk = EvidenceDesk(
            config, supervisor, loop, log, self.workers, self._reaper, self._output_tail, self.status
        )
        self._desk.on_saved = self._tell_evidence
        self._control = ControlSocket(
            os.path.join(config.runtime_dir, "control.sock"),
            loop,
            log,
            Roles(config, lambda: self.link.pid).of,
            group_id(config.sockets_group),
        )
        ControlRequests(self._control, supervisor, self.status)
        self._control.serve("logs", OPERATING, self._serve_logs)
        self._control.serve("reexec", OPERATING, self._serve_reexec)
        self._control.serve("healthcheck", ALL, self._serve_healthcheck)
        self._wire_effects(supervisor)
        supervisor.on_step += [self._counters.observe, self._after_step]
        self._durability.snapshot = self._snapshot
        for one in found:
            life = Life(
                one.started.incarnation, one.started.pid, one.pidfd, one.started.start_time_ticks, None, None
            )
            life.is_ready = one.was_ready
            self.workers.adopt(life)
            if one.fenced:
                # Nobody's any more, whatever kept its end from being brought about.
                pidfd.send_signal(one.pidfd, signal.SIGKILL)
            log.info("worker adopted", incarnation=str(one.started.incarnation), pid=one.started.pid)
        self.workers.sweep_left_over()
        if remembered.get("boot") == self._boot_id:
            self.link.end_left_over(remembered.get("link"))
        self._record_deaths(recovered)
        self._reap()
        supervisor.tell(e.NannyStarted())
        if self._durability.degraded:
            supervisor.tell(e.JournalDegraded(self._durability.degraded))
        self.health.serve(supervisor, self._words)
        if self.health.fd < 0 and no_socket:
            supervisor.tell(e.HealthSocketLost(no_socket))
        if self._shutdown_wanted:
            supervisor.tell(e.ShutdownRequested())
        if self._watchdog_s is not None:
            self._pet_at = loop.now
            loop.add_source(DeadlineSource(lambda: self._pet_at, self._pet))

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

    def _record_deaths(self, recovered: startup.Recovered) -> None:
        failures = recovered.state.worker.failures
        records = [
            *self._unjournaled,
            *(
                IncarnationEnded(one, "unseen", "ended while no nanny watched", failures)
                for one in recovered.dead_unrecorded
            ),
        ]
        if records:
            at = round(self._loop.now, 3)
            self._durability.append([{**to_json(record), "at": at} for record in records])

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
        while not self._is_ending:
            self._loop.turn()
            if self._reexec_wanted or self._durability.wants_fresh_start:
                self._try_reexec()
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
            lambda: os.unlink(self._facts_path()),
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

    def _after_step(self, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:
        if records or before.link.pid != after.link.pid:
            self._write_facts()
            for record in records:
                plain = to_json(record)
                self._log.info(str(plain.pop("type")), **plain)
        if before.phase is not after.phase:
            self.health.words_changed()
            self._notifier.status(f"{after.phase}, incarnation {after.incarnation}")

    # Shown to others

    def status(self) -> dict[str, Any]:
        """The whole status, as JSON values; ages in seconds."""
        supervisor = self._supervisor
        assert supervisor is not None
        return {
            **view.status(supervisor.state, self._loop.now, supervisor.config),
            "stall_stack": self._stall_stack(),
            "node_name": self._launch.node_name,
            "healthz": self.health.address,
            "state_dir": self._config.state_dir,
            "boot_id": self._boot_id,
            "nanny": {
                "version": self._launch.version,
                "pid": os.getpid(),
                "age_s": round(self._loop.now - self._started_at, 3),
                "reexecuted": self._launch.reexecuted,
                "late_s": round(self._loop.latest_s, 6),
                "steps_total": supervisor.steps_total,
                "errors_total": supervisor.errors_total + self._loop.errors_total,
                "violations_total": supervisor.violations_total,
            },
            "counters": {
                **self._counters.as_json(),
                "beats_total": self.workers.beats_total,
                "datagrams_refused_total": self.workers.refused_total,
                "children_reaped_total": self._reaper.reaped_total,
                "fallback_answers_total": 0
                if self.health.responder is None
                else self.health.responder.answered_total,
                "control_refused_total": self._control.refused_total,
                "log_lines_dropped_total": self._outlet.dropped_total,
                "journal_bytes": self._durability.file_bytes,
            },
        }

    def _tell_evidence(self, saved: Saved) -> None:
        self._control.push(
            {
                "push": "evidence",
                "bundle": saved.name,
                "incarnation": str(saved.incarnation),
                "reason": saved.reason,
                "size_bytes": saved.size_bytes,
                "stalled_at": saved.stalled_at,
            }
        )

    def _stall_stack(self) -> str:
        """The stack of the loop while it stalls, as the latest beat told it."""
        life = self.workers.current()
        beat = None if life is None else life.last_beat
        return "" if beat is None else beat.stall_stack or ""

    def _words(self) -> dict[str, Any]:
        told = self.status()
        return {
            key: told[key]
            for key in ("phase", "because", "next_step", "next_step_in_s", "incarnation", "desired")
        }

    def _output_tail(self, limit_bytes: int) -> bytes:
        return b"" if self._output is None else self._output.tail(limit_bytes)

    def _serve_logs(self, request: dict[str, Any], _client: Client) -> dict[str, Any]:
        limit = request.get("limit_bytes", 65536)
        if not isinstance(limit, int) or not 0 < limit <= 1 << 20:
            raise RequestError("limit_bytes: 1 to 1048576")
        return {"text": self._output_tail(limit).decode("utf-8", "replace")}

    def _serve_healthcheck(self, _request: dict[str, Any], _client: Client) -> dict[str, Any]:
        assert self._supervisor is not None
        state = self._supervisor.state
        return {"healthy": state.phase == "running", "phase": str(state.phase), "draining": state.draining}

    def _serve_reexec(self, request: dict[str, Any], client: Client) -> None:
        """Once the program on disk has shown that it can be loaded, and has read the settings."""

        def read(problem: str) -> None:
            if problem:
                self._control.refuse(client, request.get("id"), f"not executed anew: {problem}")
                return
            self._control.answer(client, request.get("id"), {"reexecuting": True, "pid": os.getpid()})
            self._reexec_wanted = True

        self._reloader.read(read)

    # What survives

    def _facts_path(self) -> str:
        return os.path.join(self._config.runtime_dir, "facts")

    def _snapshot(self, delivered_limit: int | None = None) -> list[dict[str, Any]]:
        """The state as records; of outcomes that nobody waits for any more, only the latest so many."""
        assert self._supervisor is not None
        # One that is parked belongs in as soon as the core knows it: it is released after this is written.
        worker_pid = self._supervisor.state.worker.pid
        living = tuple(
            IncarnationStarted(life.incarnation, life.pid, life.start_time_ticks)
            for life in self.workers.lives.values()
            if life.parked is None or life.pid == worker_pid
        )
        at = round(self._loop.now, 3)
        state = self._supervisor.state
        if delivered_limit is not None:
            state = replace(state, ledger=state.ledger.without_old_delivered(delivered_limit))
        return [{**to_json(record), "at": at} for record in startup.compact(state, living)]

    def _write_facts(self) -> None:
        records = [{**record, "boot": self._boot_id} for record in self._snapshot(_OUTCOMES_IN_FACTS)]
        known = {"boot": self._boot_id, "records": records, "link": self.link.remembered}
        try:
            facts.write_facts(self._facts_path(), known)
        except (OSError, ValueError) as error:
            self._log.error("the facts for adoption could not be written", error=str(error))

    def _try_reexec(self) -> None:
        """Execute the nanny anew in place, once everything decided is durable or degraded for good."""
        supervisor = self._supervisor
        assert supervisor is not None
        is_born = supervisor.state.worker.stage is not Stage.SPAWNING and supervisor.is_idle
        if not is_born or not self._durability.is_settled or self._loop.now < self._reexec_not_before:
            return
        self._reexec_wanted = False
        # Once more in a while, if it fails.
        self._reexec_not_before = self._loop.now + _REEXEC_PAUSE_S
        listeners = {} if self.health.fd < 0 else {LISTENER_NAME: [os.dup(self.health.fd)]}
        self._log.info("executing anew", pid=os.getpid())
        self._write_facts()
        again = launch.Launch(
            settings=self._reloader.latest,
            resolve_argv=self._launch.resolve_argv,
            version=self._launch.version,
            node_id=self._launch.node_id,
            node_name=self._launch.node_name,
            lock_fd=self._lock.fileno(),
            claim_fd=-1 if self._claim is None else self._claim.fileno(),
            listeners=listeners,
            reexecuted=self._launch.reexecuted + 1,
        )
        try:
            launch.execute(again, os.environ)
        except OSError as error:
            self._log.error("could not execute anew; going on as before", error=str(error))
            for fd in (again.lock_fd, again.claim_fd):
                if fd >= 0:
                    os.set_inheritable(fd, False)
            for fd in listeners.get(LISTENER_NAME, []):
                os.close(fd)
