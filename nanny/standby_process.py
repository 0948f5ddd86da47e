"""The standby worker as the kernel has it: made at the fork gate, kept waiting on its channel, promoted or dropped.

It has no identity, no listening socket and no voice until its wake, and ends at end of file when the nanny is gone.
Its cgroup is its own from birth and stays the worker's: a move costs some 8 ms and would leave children behind.
Whether the program's files still are what it loaded, and whether it lives, is asked of itself: the nanny touches no
file system for it but /proc. When to have one decides ``nanny.core.standby``. unix(7), cgroups(7).
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any, Final

from nanny import fork_gate, worker_spec
from nanny.core import standby as core
from nanny.core import standby_events as events
from nanny.core.child import Stage as WorkerStage
from nanny.core.records import IncarnationEnded, IncarnationFenced
from nanny.core.worker_life import ORDERED
from nanny.errors import HostError
from nanny.event_loop import DeadlineSource
from nanny.linux import memfd, meminfo, pidfd, procfs
from nanny.linux.cgroup import SubCgroup
from nanny.protocol import standby_words
from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.config import NannyConfig
    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from nanny.event_loop import EventLoop
    from nanny.protocol.incarnation import Incarnation
    from nanny.reaper import ExitStatus, Reaper

_STACKS_LIMIT_BYTES: Final = 4 << 20
_WORD_LIMIT_BYTES: Final = 1024
_NAMES_TRIED: Final = 64
_WAKE_TIMEOUT_S: Final = 5.0
_CANNOT_ANSWER: Final = "TtZX"
"""States of proc_pid_stat(5): stopped, traced, dead. Whoever sleeps or waits for a disk may yet answer."""


@dataclass(slots=True)
class StandbyChild:
    """A process that is nobody yet; its descriptors go with it when it is promoted."""

    number: int
    pid: int
    pidfd: int
    start_time_ticks: int
    exec_error_fd: int
    stacks_fd: int
    channel: socket.socket
    cgroup: SubCgroup | None
    made_at: float
    is_woken: bool = False
    """Whether its wake was sent."""


class StandbyProcess:
    """At most one standby, and the wake of the one that was promoted last.

    Attributes:
        state: of the deciding core.
        promote: gives the process to a life; start_cold: makes a child for it; kill: ends a life's process;
            sweep_up: ends whoever is in a cgroup, and removes it; on_taken: a woken one goes on as the worker. To
            be set before the first event.
    """

    def __init__(
        self, config: NannyConfig, loop: EventLoop, log: LogLines, reaper: Reaper, cgroup_dir: str | None
    ) -> None:
        self._config = config
        self._loop = loop
        self._log = log
        self._reaper = reaper
        self._cgroup_dir = cgroup_dir
        self.state = core.Standby()
        self.output_fd: Callable[[], int] = lambda: -1
        self.promote: Callable[[Incarnation, StandbyChild], None]
        self.start_cold: Callable[[Incarnation], None]
        self.kill: Callable[[Incarnation], None]
        self.sweep_up: Callable[[SubCgroup], None]
        self.on_taken: Callable[[], None]
        self._child: StandbyChild | None = None
        self._woken: tuple[Incarnation, StandbyChild] | None = None
        self._worker_ready_since: float | None = None
        self._squeezes = self._count_squeezes()
        self._cgroups_made = 0
        self.made_total = self.promoted_total = self.cold_total = self.failed_total = 0
        self.dropped_total: dict[str, int] = {}
        loop.add_source(
            DeadlineSource(
                lambda: core.next_deadline(self.state, self._timing()),
                lambda _now: self._tell(events.TimePassed()),
            )
        )

    # What happens to the worker

    def child_wanted(self, incarnation: Incarnation) -> None:
        """Give a child to this life, from here or from cold."""
        self._tell(events.ChildWanted(incarnation))

    def reloaded(self) -> None:
        """The settings were read anew."""
        self._tell(events.Reloaded())

    def observe(self, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:
        """Follow the nanny's own steps: when the worker is ready, ends, and whether that was wanted."""
        if after.is_shutting_down and not before.is_shutting_down:
            self._tell(events.Closing())
        is_ready = after.worker.stage is WorkerStage.READY and after.stopping is None
        ready_since = after.worker.since if is_ready else None
        if ready_since != self._worker_ready_since:
            self._worker_ready_since = ready_since
            self._tell(events.WorkerAway() if ready_since is None else events.WorkerReady(ready_since))
        for record in records:
            # A fenced life was over when it was fenced; that it has died after all is nothing to its successor.
            if (
                isinstance(record, IncarnationEnded | IncarnationFenced)
                and record.incarnation == before.incarnation
            ):
                self._tell(events.WorkerEnded(record.incarnation, record.reason in ORDERED))

    def wake(self, incarnation: Incarnation, notify_path: str, listener_fd: int) -> None:
        """Send the wake to the child that was promoted to this life, which is on record by now."""
        assert self._woken is not None, "it was promoted"
        woken, child = self._woken
        assert woken == incarnation, "one life at a time"
        environ = worker_spec.woken_environ(
            self._config, str(incarnation), notify_path, child.pid, listener_fd
        )
        rights = []
        if listener_fd >= 0:
            rights.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, pack("i", listener_fd)))
        child.is_woken = True
        try:
            child.channel.sendmsg([standby_words.wake(environ)], rights)
        except (OSError, ProtocolViolation) as error:
            self._log.error("the wake could not be sent", incarnation=str(incarnation), why=str(error))
            pidfd.send_signal(child.pidfd, signal.SIGKILL)

    def discard(self, incarnation: Incarnation) -> None:
        """The child that was promoted to this life cannot be used: end it."""
        if self._woken is not None and self._woken[0] == incarnation:
            child, self._woken = self._woken[1], None
            pidfd.send_signal(child.pidfd, signal.SIGKILL)
            self._let_go(child)

    def forget_woken(self, incarnation: Incarnation) -> None:
        """The life has ended, or is not to begin: its channel is of no more use."""
        if self._woken is not None and self._woken[0] == incarnation:
            self._close_channel(self._woken[1])
            self._woken = None

    def shown(self) -> dict[str, Any]:
        """For status: what there is, or why there is none; ages in seconds."""
        state, child = self.state, self._child
        return {
            "stage": str(state.stage),
            "pid": 0 if child is None else child.pid,
            "age_s": None if child is None else round(self._loop.now - child.made_at, 3),
            "why_none": state.why_none if child is None else "",
            "is_cold": core.is_cold(state, self._timing()),
            "made_total": self.made_total,
            "promoted_total": self.promoted_total,
            "cold_total": self.cold_total,
            "failed_total": self.failed_total,
            "dropped_total": dict(self.dropped_total),
        }

    # Deciding

    def _timing(self) -> core.StandbyConfig:
        config = self._config
        return core.StandbyConfig(
            after_s=config.standby_after_s,
            max_age_s=config.standby_max_age_s,
            min_available_bytes=config.standby_min_available_bytes,
            answer_timeout_s=config.standby_answer_timeout_s,
            # The wake follows the record, which may wait for the disk for so long.
            wake_timeout_s=_WAKE_TIMEOUT_S + config.journal_timeout_s,
        )

    def _tell(self, event: events.Event) -> None:
        was_cold = core.is_cold(self.state, self._timing())
        self.state, actions = core.step(self.state, event, self._loop.now, self._timing())
        if core.is_cold(self.state, self._timing()) and not was_cold:
            self._log.warning(
                "no standby for now: promoted ones died quickly", deaths=self.state.quick_deaths
            )
        for action in actions:
            self._run(action)

    def _run(self, action: events.Action) -> None:
        match action:
            case events.Make(number):
                self._make(number)
            case events.Call(number):
                self._call(number)
            case events.CheckCode():
                self._say(standby_words.CHECK)
            case events.Drop(_, reason, why):
                self._log.info("standby dropped", reason=str(reason), why=why)
                self.dropped_total[str(reason)] = self.dropped_total.get(str(reason), 0) + 1
                self._drop()
            case events.Promote(_, incarnation):
                self._promote(incarnation)
            case events.StartCold(incarnation, why):
                self.cold_total += 1
                self._log.info("started from cold", incarnation=str(incarnation), why=why)
                self.start_cold(incarnation)
            case events.LookAtMemory():
                self._look_at_memory()
            case events.KillUnwoken(incarnation):
                self._log.error("a standby did not take its wake", incarnation=str(incarnation))
                self.kill(incarnation)

    # The process

    def _make(self, number: int) -> None:
        stacks_fd, cgroup, ours, theirs = -1, None, None, None
        try:
            stacks_fd = memfd.create_memfd(f"stacks-standby-{number}", _STACKS_LIMIT_BYTES, inheritable=False)
            cgroup = self._make_cgroup()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            spec = worker_spec.standby_spec(
                self._config,
                theirs.fileno(),
                worker_spec.Descriptors(self.output_fd(), -1, stacks_fd),
                None if cgroup is None else cgroup.path,
            )
            parked = fork_gate.park(spec)
        except (HostError, OSError) as error:
            if stacks_fd >= 0:
                os.close(stacks_fd)
            if ours is not None:
                ours.close()
            if cgroup is not None:
                self.sweep_up(cgroup)
            self._fail(number, str(error))
            return
        finally:
            if theirs is not None:
                theirs.close()
        self.made_total += 1
        child = StandbyChild(
            number,
            parked.pid,
            parked.pidfd,
            parked.start_time_ticks,
            parked.exec_error_fd,
            stacks_fd,
            ours,
            cgroup,
            self._loop.now,
        )
        self._child = child
        self._loop.watch(ours.fileno(), lambda: self._hear(child))
        fork_gate.release(parked)
        self._reaper.register(child.pid, lambda _pid, status: self._reaped(child, status))

    def _make_cgroup(self) -> SubCgroup | None:
        if self._cgroup_dir is None:
            return None
        # Some names may be taken by workers of an earlier nanny that were promoted from standbys of those names.
        for _ in range(_NAMES_TRIED):
            self._cgroups_made += 1
            cgroup = SubCgroup(os.path.join(self._cgroup_dir, f"worker-standby-{self._cgroups_made}"))
            if cgroup.create():
                return cgroup
        return None

    def _hear(self, child: StandbyChild) -> None:
        try:
            word = child.channel.recv(_WORD_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            # The end of one that still waits shows by its death; that of a woken one's channel is its answer.
            self._close_channel(child)
            if child.is_woken and self._woken is not None and self._woken[1] is child:
                incarnation, self._woken = self._woken[0], None
                self._tell(events.WakeTaken(incarnation))
                self.on_taken()
        elif word == standby_words.PARKED:
            self._log.info("standby parked", pid=child.pid, after_s=round(self._loop.now - child.made_at, 3))
            self._tell(events.Parked(child.number))
        elif word == standby_words.HERE:
            self._tell(events.Answered(child.number))
        elif (changed := standby_words.change_in(word)) is not None:
            self._tell(events.CodeChanged(child.number, changed))

    def _call(self, number: int) -> None:
        assert self._child is not None, "it is parked"
        with suppress(ProcessLookupError, HostError):
            state = procfs.read_stat(self._child.pid).state
            if state in _CANNOT_ANSWER:
                self._tell(events.CannotAnswer(number, f"it is in state {state}"))
                return
        self._say(standby_words.CALL)

    def _say(self, word: bytes) -> None:
        # What cannot be sent is not answered, and that is decided upon.
        if self._child is not None:
            with suppress(OSError):
                self._child.channel.send(word)

    def _promote(self, incarnation: Incarnation) -> None:
        child = self._child
        assert child is not None, "it has just answered"
        self._child = None
        self.promoted_total += 1
        self._reaper.forget(child.pid)
        self._close_exec_error(child)
        self._woken = (incarnation, child)
        self._log.info("standby promoted", incarnation=str(incarnation), pid=child.pid)
        self._set_oom_score(child.pid)
        self.promote(incarnation, child)

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            pidfd.send_signal(child.pidfd, signal.SIGKILL)
            self._let_go(child)

    def _let_go(self, child: StandbyChild) -> None:
        self._close_channel(child)
        self._close_exec_error(child)
        os.close(child.pidfd)
        os.close(child.stacks_fd)
        if child.cgroup is not None:
            self.sweep_up(child.cgroup)

    def _reaped(self, child: StandbyChild, status: ExitStatus) -> None:
        if self._child is not child:
            self._tell(events.Buried())
            return
        self._child = None
        told = fork_gate.read_exec_error(child.exec_error_fd) if child.exec_error_fd >= 0 else None
        self._let_go(child)
        why = told.message if isinstance(told, fork_gate.ExecFailed) else str(status)
        self._fail(child.number, why)

    def _fail(self, number: int, why: str) -> None:
        self.failed_total += 1
        self._log.warning("the standby ended", why=why)
        self._tell(events.Ended(number, f"the last one ended: {why}"))

    def _close_channel(self, child: StandbyChild) -> None:
        if child.channel.fileno() >= 0:
            self._loop.unwatch(child.channel.fileno())
            child.channel.close()

    @staticmethod
    def _close_exec_error(child: StandbyChild) -> None:
        if child.exec_error_fd >= 0:
            os.close(child.exec_error_fd)
            child.exec_error_fd = -1

    def _set_oom_score(self, pid: int) -> None:
        """Be no longer the first to be killed; raising it needed no privilege, so lowering it needs none."""
        score = self._config.worker_oom_score_adj
        try:
            if score is None:
                fd = os.open("/proc/self/oom_score_adj", os.O_RDONLY | os.O_CLOEXEC)
                score = int(os.read(fd, 16))
                os.close(fd)
            fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"%d" % score)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            self._log.warning("the worker keeps a standby's OOM score", why=str(error))

    # Memory

    def _look_at_memory(self) -> None:
        available, squeezes = None, self._count_squeezes()
        with suppress(HostError):
            available = meminfo.available_bytes()
        is_squeezed, self._squeezes = squeezes > self._squeezes, squeezes
        self._tell(events.MemoryLooked(available, is_squeezed))

    def _count_squeezes(self) -> int:
        """How often our own cgroup (the unit's) ran against its limits; 0 where nobody counts."""
        if self._cgroup_dir is None:
            return 0
        with suppress(HostError):
            counted = SubCgroup(os.path.dirname(self._cgroup_dir)).memory_events() or {}
            return sum(counted.get(name, 0) for name in ("high", "max", "oom"))
        return 0
