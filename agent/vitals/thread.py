"""The vitals thread: answers and beats that go on while the rest of the process stands still.

Started before the heavy imports, it has its own epoll loop and imports only what is cheap. It takes no lock
that another thread can hold, never logs, imports nothing at run time. What it tells it reads from references
that others swap and floats that others write. It lets no garbage collection happen in its turns: a collection
runs the finalizers of other people's objects, and one that waits would take the beats along.

Order of a turn: wait, look (ages, stack of a stalled loop), beat, serve, sweep. Whoever was late itself, since
the process was stopped or starved, holds nobody else's silence against them. epoll(7), sd_notify(3).
"""

from __future__ import annotations

import gc
import os
import select
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.core.health import Health, HealthStatus, Observation, assess
from agent.vitals import listener as listeners
from agent.vitals.answers import Answers
from agent.vitals.connections import Connections
from agent.vitals.heartbeat_sender import HeartbeatSender
from agent.vitals.loop_lag import LoopTick
from agent.vitals.metrics_text import ProcessFigures, counts, family, health_text
from agent.vitals.progress import Expectation, Expectations, ProgressPoint, ProgressPoints
from agent.vitals.snapshot import Snapshot
from agent.vitals.stall_stack import ThreadStack, stack_of
from nanny.protocol.notify_format import Beat

if TYPE_CHECKING:
    from agent.vitals.config import VitalsConfig
    from agent.vitals.http_request import Request
    from agent.vitals.loop_lag import EventLoop

_LOOK_INTERVAL_S = 1.0
_LATE_S = 1.0
_FULL_PAUSE_S = 0.01  # before a beat that found the queue full is tried again; doubles up to the interval
_BEAT_GAP_S = 0.1  # between beats out of turn: a flapping status must not flood the supervisor
_STACK_INTERVAL_S = 5.0
_ERROR_PAUSE_S = 0.05
_EVENTS_A_TURN = 64


def start_vitals(config: VitalsConfig) -> Vitals:
    """Start the thread; answers and beats go on from now until `Vitals.stop`.

    Raises:
        OSError: the address to listen at cannot be bound.
        ValueError: the notify socket's name is none.
    """
    return Vitals(config)


@dataclass(slots=True)
class _Counts:
    """What went on in the thread, since its start."""

    turn_errors: int = 0
    late_turns: int = 0
    stalls: int = 0


class Vitals:
    """The thread, and what the program tells it. All methods may be called from any thread, and none waits."""

    def __init__(self, config: VitalsConfig) -> None:
        """See `start_vitals`."""
        self._config = config
        self._started_at = time.monotonic()
        self._snapshot = Snapshot()
        self._tick = LoopTick()
        self._points = ProgressPoints()
        self._expectations = Expectations(config.expect_total_s)
        self._stack: ThreadStack | None = None
        self._stack_at = 0.0
        self._forgiven_at = 0.0
        self._is_stopping = False
        self._is_ended = False
        self._counts = _Counts()
        self._seq = 0
        self._full_pause_s = _FULL_PAUSE_S
        self._beat_at = self._urgent_at = 0.0
        self._look_at = 0.0
        self._turned_at = self._started_at
        self._is_released = False

        self._sender = None if config.notify_socket is None else HeartbeatSender(config.notify_socket)
        listener = None if config.listener_fd is None else listeners.inherited(config.listener_fd)
        if listener is None and config.listen is not None:
            listener = listeners.bound(*config.listen)
        self._figures = ProcessFigures()
        self._answers = Answers(
            self._observe, self._metrics_text, config.token, trusts_loopback=config.trusts_loopback
        )
        self._epoll = select.epoll()
        # Reentrant: a signal's Python handler may interrupt `publish` and call `stopping`.
        self._wake_lock = threading.RLock()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self.address: object = None if listener is None else listener.getsockname()
        """Where it listens; None where nothing is served."""
        self._connections = (
            None
            if listener is None
            else Connections(
                self._epoll,
                listener,
                self._answer,
                config.client_limit,
                config.client_deadline_s,
                config.keepalive_s,
            )
        )
        self._former_switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(config.switch_interval_s)
        # A forked child must hold neither our connections nor a second voice.
        os.register_at_fork(after_in_child=self._release_in_child)
        self._thread = threading.Thread(target=self._run, name="vitals", daemon=True)
        self._thread.start()

    # What the program tells

    def watch_loop(self, loop: EventLoop) -> None:
        """Hold `loop` to turning, from now on."""
        self._tick.attach(loop)

    def unwatch_loop(self) -> None:
        """The loop ends on purpose; call it in the loop's thread."""
        self._tick.detach()

    def progress_point(self, name: str, deadline_s: float, *, critical: bool = False) -> ProgressPoint:
        """Hold a service to touching the point once in `deadline_s`; a critical one's failure is a stall.

        Raises:
            ValueError: see `ProgressPoints.add`.
        """
        return self._points.add(name, deadline_s, critical=critical)

    def expect(self, timeout_s: float, why: str) -> Expectation:
        """Announce long work: ``with vitals.expect(120, "loading the model"):``; nothing stalls meanwhile.

        The ``with`` gives the seconds that were granted: what is left of the total of this life.
        """
        return Expectation(self._expectations, timeout_s, why)

    def publish(self, snapshot: Snapshot) -> None:
        """Answer from `snapshot` from now on; what supervisors wait for is sent at once."""
        told = (snapshot.started, snapshot.status_text, snapshot.phase)
        former, self._snapshot = self._snapshot, snapshot
        if told != (former.started, former.status_text, former.phase):
            self._wake()

    @property
    def snapshot(self) -> Snapshot:
        """The one that was published last."""
        return self._snapshot

    def adjust(
        self,
        *,
        stall_warn_s: float | None,
        stall_timeout_s: float | None,
        expect_total_s: float,
        token: str | None,
    ) -> None:
        """Go on with other settings (None: as before): the thread may have to start before they can be read."""
        self._expectations.change_total(expect_total_s - self._config.expect_total_s)
        self._answers.token = token
        self._config = replace(
            self._config,
            stall_warn_s=self._config.stall_warn_s if stall_warn_s is None else stall_warn_s,
            stall_timeout_s=self._config.stall_timeout_s if stall_timeout_s is None else stall_timeout_s,
            expect_total_s=expect_total_s,
            token=token,
        )

    @property
    def beats_unheard(self) -> int | None:
        """Beats in a row that reached nobody; None where none are sent."""
        return None if self._sender is None else self._sender.unheard

    def take_worst_loop_lag_s(self) -> float:
        """How late the loop's ticks were at worst since the last call; call it in the loop's thread."""
        worst_lag_s, self._tick.worst_lag_s = self._tick.worst_lag_s, 0.0
        return worst_lag_s

    def stopping(self) -> None:
        """Say STOPPING=1 from now on; answers and beats go on until `stop`."""
        self._is_stopping = True
        self._wake()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Send a last beat, close everything; False if the thread did not end in time."""
        self._is_stopping = True
        self._is_ended = True
        self._wake()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1
        return True

    # What the thread tells

    def _observe(self) -> tuple[Observation, Health]:
        now = time.monotonic()
        if now - self._turned_at > _LATE_S:
            self._forgive(now)
        since = max(self._expectations.over_since(now), self._forgiven_at)
        lag_s = self._tick.lag_s(now, since)
        stack = None if lag_s is None or lag_s <= self._config.stall_warn_s else self._stack
        seen = Observation(
            snapshot=self._snapshot,
            loop_lag_s=lag_s,
            progress=self._points.ages(now, since),
            expected=self._expectations.current(now),
            stalled_at=None if stack is None else stack.stalled_at,
            stall_stack=None if stack is None else stack.text,
            incarnation=self._config.incarnation,
            pid=os.getpid(),
            uptime_s=now - self._started_at,
        )
        return seen, assess(seen, self._config.stall_timeout_s)

    def _answer(self, request: Request, is_loopback: bool) -> bytes:  # noqa: FBT001
        return self._answers.answer(request, is_loopback=is_loopback)

    def _beat(self, now: float) -> None:
        self._beat_at = now + self._config.interval_s
        if self._sender is None:
            return
        seen, health = self._observe()
        snapshot = seen.snapshot
        triggers = self._config.triggers_watchdog and health.status is HealthStatus.STALLED
        self._seq += 1
        beat = Beat(
            ready=snapshot.started,
            stopping=self._is_stopping,
            watchdog=not triggers,
            trigger=triggers,
            status=snapshot.status_text or None,
            seq=self._seq,
            sent_at_s=time.monotonic(),
            loop_lag_s=seen.loop_lag_s,
            progress=seen.progress,
            vitals_tid=threading.get_native_id(),
            stalled_at=seen.stalled_at,
            stall_stack=seen.stall_stack,
            stuck_probes=snapshot.stuck_probes,
            phase=snapshot.phase or None,
        )
        if seen.expected is not None:
            left_s, why = seen.expected
            beat = replace(beat, expected_until=left_s, expected_why=why)
            if self._is_stopping or not snapshot.started:
                # Plain systemd knows only its own deadlines for starting and stopping.
                beat = replace(beat, extend_timeout_s=left_s)
        if self._sender.send(beat):
            self._full_pause_s = _FULL_PAUSE_S
        elif self._sender.is_full:
            # Someone floods the queue, or the supervisor stands still: a healthy worker must get its word in.
            self._beat_at = min(self._beat_at, now + self._full_pause_s)
            self._full_pause_s = min(2 * self._full_pause_s, self._config.interval_s)

    def _metrics_text(self) -> str:
        seen, health = self._observe()
        parts = [
            self._figures.text(),
            health_text(seen, health),
            family("vitals_stalls_total", "counter", [("", self._counts.stalls)]),
            family("vitals_late_turns_total", "counter", [("", self._counts.late_turns)]),
            family("vitals_turn_errors_total", "counter", [("", self._counts.turn_errors)]),
            family("vitals_expectations_refused_total", "counter", [("", self._expectations.refused_total)]),
            family(
                "vitals_requests_total",
                "counter",
                [
                    (f'path="{path}",code="{code}"', n)
                    for (path, code), n in self._answers.answered_total.items()
                ],
            ),
        ]
        if self._sender is not None:
            parts.append(family("vitals_beats_sent_total", "counter", [("", self._sender.sent_total)]))
            parts.append(counts("vitals_beats_failed_total", "error", self._sender.failed_total))
        if self._connections is not None:
            parts.append(family("vitals_connections", "gauge", [("", len(self._connections))]))
            parts.append(counts("vitals_connection_events_total", "event", self._connections.counts))
            parts.append(counts("vitals_requests_refused_total", "code", self._connections.refused_total))
        parts.append(seen.snapshot.metrics_text)
        return "".join(parts)

    # The loop

    def _run(self) -> None:
        poll, timeout_s = self._epoll.poll, 0.0
        events: list[tuple[int, int]] = []
        while not self._is_ended:
            try:
                # While collections are allowed epoll alone makes an object: a list, taken from the free ones.
                events = poll(timeout_s, _EVENTS_A_TURN)
                collects = gc.isenabled()
                gc.disable()
                try:
                    self._turn(events)
                    timeout_s = max(0.0, self._wake_at() - time.monotonic())
                finally:
                    if collects:
                        gc.enable()
            except Exception:
                self._counts.turn_errors += 1
                time.sleep(_ERROR_PAUSE_S)
        try:
            self._beat(time.monotonic())
        finally:
            self._is_released = True
            self._release()
            sys.setswitchinterval(self._former_switch_interval_s)

    def _wake_at(self) -> float:
        wake_at = min(self._look_at, self._beat_at)
        return wake_at if self._connections is None else min(wake_at, self._connections.next_sweep_at)

    def _turn(self, events: list[tuple[int, int]]) -> None:
        connections = self._connections
        now = time.monotonic()
        if now - max(self._wake_at(), self._turned_at) > _LATE_S:
            self._forgive(now)
        self._turned_at = now
        if now >= self._look_at:
            self._look(now)
        for fd, _ in events:
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                urgent_at = max(now, self._urgent_at + _BEAT_GAP_S)
                if urgent_at < self._beat_at:
                    self._beat_at = self._urgent_at = urgent_at
        if now >= self._beat_at:
            self._beat(now)
        if connections is not None:
            for fd, mask in events:
                if fd != self._wake_fd:
                    connections.on_event(fd, mask, now)
            if now >= connections.next_sweep_at:
                connections.sweep(now)

    def _forgive(self, now: float) -> None:
        """Start all ages anew: while we were held up ourselves, nobody could prove anything.

        But only once for each proof of progress, else whoever holds the interpreter for a second at a time is
        never seen to stand still.
        """
        self._counts.late_turns += 1
        self._turned_at = now
        due_at = self._tick.due_at
        if due_at is None or due_at > self._forgiven_at:
            self._forgiven_at = now

    def _look(self, now: float) -> None:
        """Capture where a silent loop stands, once it is silent for long, and from time to time again."""
        self._look_at = now + _LOOK_INTERVAL_S
        lag_s = self._tick.lag_s(now, self._forgiven_at)
        if lag_s is None or lag_s <= self._config.stall_warn_s:
            self._stack = None
        elif self._stack is None or now >= self._stack_at + _STACK_INTERVAL_S:
            if self._stack is None:
                self._counts.stalls += 1
            thread_id = self._tick.thread_id
            self._stack = None if thread_id is None else stack_of(thread_id)
            self._stack_at = now

    def _wake(self) -> None:
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _release(self) -> None:
        """Close all but the wake descriptor; called by the thread at its end, and in forked children."""
        # First the epoll: a forked child shares it, and must take nothing out of it.
        self._epoll.close()
        if self._connections is not None:
            self._connections.close()
        if self._sender is not None:
            self._sender.close()
        self._figures.close()

    def _release_in_child(self) -> None:
        if not self._is_released:
            self._release()
            os.close(self._wake_fd)
            self._wake_fd = -1
