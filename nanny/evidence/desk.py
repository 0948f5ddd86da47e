"""Evidence from the nanny's side: hands out orders, waits for no one, tells the core each answer exactly once.

An order takes what lies in the nanny's memory and one fork; reading and writing is the collector's. An answer,
a collector's death or the deadline ends an order, whichever comes first. An overdue collector is killed by its
pidfd; one that survives that (D state) is left and counted, as is a hanging step that it leaves behind; with
four of them at once no more are made, and the ladder goes on without evidence.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nanny import fork_gate
from nanny.core.events import EvidenceCollected
from nanny.errors import HostError
from nanny.event_loop import DeadlineSource
from nanny.evidence import answer as answers
from nanny.evidence.answer import Answer
from nanny.evidence.bundle_name import bundle_name
from nanny.evidence.collector import collect
from nanny.evidence.order import Order
from nanny.examination import UNKNOWN_BASELINE
from nanny.linux import pidfd, procfs
from nanny.reaper import UNKNOWN, ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.config import NannyConfig
    from nanny.core.actions import CollectEvidence
    from nanny.event_loop import EventLoop
    from nanny.evidence.apart import Stuck
    from nanny.fork_gate import Helper
    from nanny.life import Life
    from nanny.protocol.incarnation import Incarnation
    from nanny.reaper import Reaper
    from nanny.supervisor import Supervisor
    from nanny.worker_process import WorkerProcess

COLLECTORS_LIMIT: Final = 4
OUTPUT_TAIL_BYTES: Final = 256 << 10
UNHURRIED_S: Final = 5.0
"""For a dead worker and for an ordered look: nobody's kill waits."""
ANSWER_MARGIN_S: Final = 1.0
TIDY_S: Final = 10.0
"""From the answer to the collector's end: it deletes and syncs."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A bundle that was made, for whoever shows or reports it."""

    name: str
    incarnation: Incarnation
    reason: str
    size_bytes: int
    stalled_at: str
    signature: str


@dataclass(slots=True)
class _Open:
    """One collector that has not been reaped."""

    action: CollectEvidence
    helper: Helper
    name: str
    result_fd: int
    """-1 once the answer is known."""
    deadline_at: float | None
    """None once it was killed: there is nothing more to do about it."""
    line: bytes = b""
    is_told: bool = False


@dataclass(slots=True)
class EvidenceDesk:
    """Carries out CollectEvidence.

    Attributes:
        config: replaced by a reload.
        output_tail: gives the last bytes of the worker's output.
        status: gives what ``nannyctl status`` shows.
        recording: renders the flight recorder.
        on_saved: called with each bundle that was made.
        overdue_total: collectors that had to be killed.
    """

    config: NannyConfig
    supervisor: Supervisor
    loop: EventLoop
    log: LogLines
    workers: WorkerProcess
    reaper: Reaper
    output_tail: Callable[[int], bytes]
    status: Callable[[], dict[str, Any]]
    recording: Callable[[], bytes] = bytes
    on_saved: Callable[[Saved], None] = lambda _saved: None
    overdue_total: int = 0
    _open: dict[int, _Open] = field(default_factory=dict)
    _stuck: list[Stuck] = field(default_factory=list)
    _last_wall_s: float = 0.0

    def __post_init__(self) -> None:
        self.loop.add_source(DeadlineSource(self._next_deadline, self._on_due))

    @property
    def collectors(self) -> int:
        """Collectors, and steps left behind by them, that have not ended."""
        self._stuck = [one for one in self._stuck if _is_there(one)]
        return len(self._open) + len(self._stuck)

    def collect(self, action: CollectEvidence) -> None:
        """Start a collector; EvidenceCollected follows, at once where there can be none."""
        life = self._find(action.incarnation)
        if life is None:
            self._tell(action, "", "nothing is known of this incarnation any more")
        elif self.collectors >= COLLECTORS_LIMIT:
            self._tell(action, "", "too many evidence helpers hang")
        else:
            try:
                self._start(action, life)
            except Exception as error:
                self._tell(action, "", f"no evidence helper: {error}")

    def _start(self, action: CollectEvidence, life: Life) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            order = self._order(action, life, write_fd)
            keep = {write_fd, life.stacks_fd if life.stacks_fd is not None else write_fd}
            if order.pidfd >= 0:
                keep.add(order.pidfd)
            helper = fork_gate.fork_helper(lambda: collect(order), keep)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        entry = _Open(action, helper, order.name, read_fd, order.answer_by)
        self._open[helper.pid] = entry
        self.loop.watch(read_fd, lambda: self._on_readable(entry))
        self.reaper.register(helper.pid, lambda _pid, status: self._reaped(entry, status))

    def _order(self, action: CollectEvidence, life: Life, result_fd: int) -> Order:
        now = self.loop.now
        is_dead = life.incarnation not in self.workers.lives
        is_urgent = not (is_dead or action.post_mortem or action.command_id)
        victim_until = now + (self.config.evidence_timeout_s if is_urgent else UNHURRIED_S)
        # Strictly later than the one before: names are unique, and sort even when the clock is set back a bit.
        self._last_wall_s = max(time.time(), self._last_wall_s + 2e-6)
        try:
            status = self.status()
        except Exception as error:
            status = {"because": [f"the status failed: {error!r}"]}
        return Order(
            name=bundle_name(self._last_wall_s, action.incarnation.number, action.reason),
            incarnation=action.incarnation,
            reason=str(action.reason),
            command_id=action.command_id,
            post_mortem=is_dead,
            wall_s=self._last_wall_s,
            monotonic_s=now,
            victim_until=victim_until,
            answer_by=victim_until + ANSWER_MARGIN_S,
            pid=life.pid,
            pidfd=-1 if is_dead else life.pidfd,
            stacks_fd=life.stacks_fd,
            cgroup_path=None if life.cgroup is None else life.cgroup.path,
            exit_status=str(life.status) if is_dead else "",
            baseline=life.beats[-1].baseline if life.beats else UNKNOWN_BASELINE,
            beats=tuple((one.at, one.beat) for one in life.beats),
            status=status,
            output_tail=self.output_tail(OUTPUT_TAIL_BYTES),
            recording=self.recording,
            node_name=self.config.node_name,
            state_dir=self.config.state_dir,
            runtime_dir=self.config.runtime_dir,
            keep=self.config.evidence_keep,
            keep_bytes=self.config.evidence_keep_bytes,
            avoid_disk=self._disk_hangs(),
            result_fd=result_fd,
        )

    def _disk_hangs(self) -> bool:
        """Whether one of ours sits in the disk and cannot be ended: another one would only join it."""
        tidying = (entry.deadline_at is None and entry.is_told for entry in self._open.values())
        return any(one.on_disk and _is_there(one) for one in self._stuck) or any(tidying)

    def _find(self, incarnation: Incarnation) -> Life | None:
        ended = (life for life in self.workers.ended if life.incarnation == incarnation)
        return self.workers.lives.get(incarnation) or next(ended, None)

    # Answers

    def _on_readable(self, entry: _Open) -> None:
        try:
            chunk = os.read(entry.result_fd, answers.LINE_LIMIT_BYTES)
        except BlockingIOError:
            return
        entry.line += chunk
        if b"\n" not in entry.line and chunk and len(entry.line) < answers.LINE_LIMIT_BYTES:
            return
        answer = answers.parse(entry.line.partition(b"\n")[0])
        self._close_pipe(entry)
        if entry.deadline_at is not None:
            entry.deadline_at = self.loop.now + TIDY_S
        self._answered(entry, answer or Answer("", "the evidence helper died before it answered"))

    def _answered(self, entry: _Open, answer: Answer) -> None:
        if entry.is_told:
            return
        entry.is_told = True
        self._stuck.extend(answer.stuck)
        if answer.stuck:
            self.log.warning(
                "an evidence step hangs", bundle=entry.name, pids=[one.pid for one in answer.stuck]
            )
        if answer.bundle:
            action = entry.action
            self.on_saved(
                Saved(
                    answer.bundle,
                    action.incarnation,
                    str(action.reason),
                    answer.size_bytes,
                    answer.stalled_at,
                    answer.signature,
                )
            )
        message = f"at {answer.stalled_at}" if answer.stalled_at else ""
        self._tell(entry.action, answer.bundle, "; ".join(filter(None, (message, answer.message))))

    def _tell(self, action: CollectEvidence, bundle: str, message: str) -> None:
        self.supervisor.tell(EvidenceCollected(action.incarnation, bundle, message, action.command_id))

    def _reaped(self, entry: _Open, status: ExitStatus) -> None:
        if status is UNKNOWN and not pidfd.has_exited(entry.helper.pidfd):
            return
        self._open.pop(entry.helper.pid, None)
        os.close(entry.helper.pidfd)
        if entry.result_fd >= 0:
            # Its last words may still be in the pipe.
            self._on_readable(entry)
        if entry.result_fd >= 0:
            self._close_pipe(entry)
        self._answered(entry, Answer("", f"the evidence helper died: {status}"))

    def _close_pipe(self, entry: _Open) -> None:
        self.loop.unwatch(entry.result_fd)
        os.close(entry.result_fd)
        entry.result_fd = -1

    # Deadlines

    def _next_deadline(self) -> float | None:
        deadlines = [entry.deadline_at for entry in self._open.values() if entry.deadline_at is not None]
        return min(deadlines, default=None)

    def _on_due(self, now: float) -> None:
        for entry in list(self._open.values()):
            if entry.deadline_at is not None and entry.deadline_at <= now:
                entry.deadline_at = None
                self.overdue_total += 1
                pidfd.send_signal(entry.helper.pidfd, signal.SIGKILL)
                if entry.result_fd >= 0:
                    self._close_pipe(entry)
                self._answered(entry, Answer("", "the evidence helper did not answer in time"))

    def close(self) -> None:
        """Let go, for the nanny's own exit: bundles under way are finished without us, and nobody is told."""
        for entry in self._open.values():
            self.reaper.forget(entry.helper.pid)
            os.close(entry.helper.pidfd)
            if entry.result_fd >= 0:
                self._close_pipe(entry)
        self._open.clear()


def _is_there(one: Stuck) -> bool:
    try:
        return procfs.read_stat(one.pid).start_time_ticks == one.start_time_ticks
    except (ProcessLookupError, HostError):
        return False
