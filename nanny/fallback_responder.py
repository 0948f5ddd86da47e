"""Answers HTTP on the worker's listening socket while nobody accepts there: a canned 503, nothing is parsed.

The nanny and the worker share one listener. Whose turn it is `nanny.core.accept_watch` decides; here are the
system calls. The listener sits in an epoll of our own, edge-triggered while somebody may accept: a
connection that waits for a stopped worker wakes us once and not for ever, and an edge tells of arrivals
between two looks at the queue's length. Order for a connection: discard what it sent, send, shut down,
discard, close; one that has sent nothing yet is given a moment, for a request that meets a closed socket
resets the answer away.

Neither waits nor raises on what peers, worker or host do. It knows nothing of beats, pids and HTTP requests.
accept(2), epoll(7), tcp(7) TCP_INFO (of a listener: tcpi_unacked is the length of its accept queue).
"""

import errno
import os
import select
import socket
import struct
from contextlib import suppress
from typing import Final

from nanny.core.accept_watch import (
    AcceptEvent,
    AcceptWatch,
    FirstTaken,
    QueueSampled,
    Stance,
    TakenByOther,
    WorkerGone,
    WorkerShowedLife,
    WorkerStarted,
    next_deadline,
    observe,
)
from nanny.linux.cut_short import CutShort

PER_TURN: Final = 64
WORDS_LIMIT_BYTES: Final = 4096

# How long a connection without a request is kept, from its establishment on, and how many of them.
_PATIENCE_S: Final = 0.05
_PATIENCE_LIMIT: Final = 64
_PAUSE_S: Final = 0.1
_ACCEPT_LIMIT_S: Final = 0.05
_DISCARD_CHUNK_BYTES: Final = 16 * 1024
_DISCARD_CHUNKS: Final = 4
_DRAIN_EVENTS: Final = _PATIENCE_LIMIT + 1

_TCP_LISTEN: Final = 10
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# accept(2): errors of the new connection and of its network, to be treated like EAGAIN by retrying.
_PASSING: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    }
)


class FallbackResponder:
    """The nanny's side of the shared listener.

    After every call look at `wants_readable` and `next_deadline` again.

    Attributes:
        answered_total: connections that got the whole answer.
        resets_total: connections that were gone before or while they were answered.
        misjudged_total: connections of a living worker that were answered here; 0 but for overload.
        exhausted_total: accepts that found no descriptor or memory.
        failed_total: accepts that failed for another reason (the listener was shut down).
    """

    def __init__(self, listener: socket.socket, after_s: float, words: bytes) -> None:
        """Take up the watch.

        Args:
            listener: shared with the worker; stays the caller's to close.
            after_s: how long nobody may accept before we do.
            words: see `set_words`.

        Raises:
            OSError: no descriptor left.
        """
        assert after_s > 0, "a window without length proves nothing"
        self.answered_total = 0
        self.resets_total = 0
        self.misjudged_total = 0
        self.exhausted_total = 0
        self.failed_total = 0
        self._listener = listener
        self._listener_fd = listener.fileno()
        self._watch = AcceptWatch(after_s)
        self._can_count = True
        self._paused_until: float | None = None
        self._waste = bytearray(_DISCARD_CHUNK_BYTES)
        # Connections without a request, in the order of their deadlines.
        self._patient: dict[int, tuple[socket.socket, float]] = {}
        self._is_level_triggered = False
        self._cut_short = CutShort(_ACCEPT_LIMIT_S)
        self._epoll = select.epoll()
        self._spare_fd = -1
        self._keep_spare()
        self._epoll.register(self._listener_fd, select.EPOLLIN | select.EPOLLET)
        self.set_words(words)

    @property
    def stance(self) -> Stance:
        """Who takes the next connection."""
        return self._watch.stance

    def close(self) -> None:
        """Close everything but the listener; patient connections get their answer first."""
        for fd in list(self._patient):
            self._answer_patient(fd)
        self._epoll.close()
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1

    def set_words(self, words: bytes) -> None:
        """Set the body of the answer: JSON, at most 4 KiB, so that one send always takes it whole."""
        assert len(words) <= WORDS_LIMIT_BYTES, "the answer must fit any send buffer"
        self._response = (
            b"HTTP/1.1 503 Service Unavailable\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: %d\r\n"
            b"Cache-Control: no-store\r\n"
            b"Connection: close\r\n"
            b"\r\n%b" % (len(words), words)
        )

    def fileno(self) -> int:
        """Give the descriptor to select for reading while `wants_readable`; the same for the whole life."""
        return self._epoll.fileno()

    def wants_readable(self) -> bool:
        """Tell whether to select now. Not while the queue is only looked at now and then."""
        match self._watch.stance:
            case Stance.QUIET:
                return True
            case Stance.ANSWERING:
                return self._paused_until is None
            case Stance.WATCHING | Stance.YIELDING:
                return False

    def next_deadline(self) -> float | None:
        """Give when `on_deadline` wants to be called."""
        deadlines = [self._paused_until, next_deadline(self._watch)]
        deadlines += [deadline for _, deadline in self._patient.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_readable(self, now: float) -> None:
        """Answer, or begin to watch; at most `PER_TURN` connections."""
        for fd, _ in self._epoll.poll(0, _DRAIN_EVENTS):
            if fd in self._patient:
                self._answer_patient(fd)
            elif self._watch.stance is Stance.ANSWERING:
                self._answer_turn(now)
            elif self._watch.stance is Stance.QUIET:
                self._look(now)

    def on_deadline(self, now: float) -> None:
        """Do what is due; nothing if it is too early."""
        for fd in [fd for fd, (_, deadline) in self._patient.items() if now >= deadline]:
            self._answer_patient(fd)
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until = None
        look_at = next_deadline(self._watch)
        if look_at is not None and now >= look_at:
            self._look(now)

    def worker_showed_life(self, now: float) -> None:
        """Leave the connections to the worker again: a beat arrived."""
        self._observe(WorkerShowedLife(), now)

    def worker_started(self, now: float) -> None:
        """Note that a new worker is on its way; answering goes on until it shows life."""
        self._observe(WorkerStarted(), now)

    def worker_gone(self, now: float) -> None:
        """Answer from now on, and whoever waits at once: the worker is dead."""
        self._observe(WorkerGone(), now)
        self._answer_turn(now)

    def _observe(self, event: AcceptEvent, now: float) -> None:
        self._watch = observe(self._watch, event, now)
        is_answering = self._watch.stance is Stance.ANSWERING
        if is_answering is not self._is_level_triggered:
            self._is_level_triggered = is_answering
            self._epoll.modify(self._listener_fd, select.EPOLLIN | (0 if is_answering else select.EPOLLET))
            if self._watch.stance is Stance.YIELDING:
                # The change itself tells an edge for what is in the queue already.
                self._drain_edge()
        if next_deadline(self._watch) == now:
            self._look(now)

    def _look(self, now: float) -> None:
        """Look at the queue; answer at once if that was the last proof."""
        was_answering = self._watch.stance is Stance.ANSWERING
        self._observe(self._sample(), now)
        if self._watch.stance is Stance.ANSWERING and not was_answering:
            self._answer_turn(now)

    def _sample(self) -> QueueSampled:
        """Give the queue's length and whether anything arrived since the last sample.

        The edge is drained between two equal readings of the length: an arrival beside it would else be in
        only one of the two, and look like an accept next time.
        """
        if not self._can_count:
            return QueueSampled(int(self._is_queue_readable()), None)
        has_arrivals = False
        after = self._queue_length()
        for _ in range(4):
            before = after
            has_arrivals = self._drain_edge() or has_arrivals
            after = self._queue_length()
            if before == after:
                break
        if after == 0 and self._is_blind():
            self._can_count = False
            return QueueSampled(1, None)
        return QueueSampled(after, has_arrivals)

    def _queue_length(self) -> int:
        try:
            tcp_info = self._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        except OSError:
            return 0
        if len(tcp_info) < 28 or tcp_info[0] != _TCP_LISTEN:
            return 0
        length: int = struct.unpack_from("=I", tcp_info, 24)[0]
        return length

    def _is_blind(self) -> bool:
        """Tell whether the host shows no lengths: three times "readable" and "empty" cannot be chance."""
        return all(self._is_queue_readable() and self._queue_length() == 0 for _ in range(3))

    def _is_queue_readable(self) -> bool:
        return bool(self._polled() & select.POLLIN)

    def _polled(self) -> int:
        """Events of the listener: 0 says that accept would wait; one that was shut down has POLLHUP alone."""
        poll = select.poll()
        poll.register(self._listener_fd, select.POLLIN)
        return sum(events for _, events in poll.poll(0))

    def _drain_edge(self) -> bool:
        return any(fd == self._listener_fd for fd, _ in self._epoll.poll(0, _DRAIN_EVENTS))

    def _answer_turn(self, now: float) -> None:
        """Take and answer what waits, at most `PER_TURN`; the rest makes us readable again."""
        if self._watch.is_yield_due(now):
            self._look(now)
        if self._watch.stance is not Stance.ANSWERING or self._paused_until is not None:
            return
        self._take_and_answer(now)

    def _take_and_answer(self, now: float) -> None:
        for taken in range(PER_TURN):
            is_last_reserve = False
            try:
                connection = self._accept()
            except BlockingIOError:
                if taken == 0:
                    self._observe(TakenByOther(), now)
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                reserve = self._accept_on_reserve(error)
                if reserve is None:
                    self._paused_until = now + _PAUSE_S
                    return
                connection, is_last_reserve = reserve, True
            if self._watch.is_proof_weak:
                self._observe(FirstTaken(_age_s(connection)), now)
                self.misjudged_total += self._watch.stance is not Stance.ANSWERING
            if is_last_reserve or not self._keep_patient(connection, now):
                self._answer(connection)
            if is_last_reserve:
                self._keep_spare()
            if self._watch.stance is not Stance.ANSWERING:
                return

    def _accept(self) -> socket.socket:
        """Take a connection; BlockingIOError if there is none, whatever the worker made of the listener's flags."""
        if not self._polled():
            raise BlockingIOError
        # Somebody else may take it in between, and O_NONBLOCK is the worker's as much as ours.
        with self._cut_short:
            return self._listener.accept()[0]

    def _accept_on_reserve(self, error: OSError) -> socket.socket | None:
        """Accept one connection on the spare descriptor, if that is what is missing."""
        if error.errno not in _EXHAUSTED:
            self.failed_total += 1
            return None
        self.exhausted_total += 1
        if self._spare_fd < 0:
            self._keep_spare()
            return None
        os.close(self._spare_fd)
        self._spare_fd = -1
        try:
            return self._accept()
        except OSError:
            self._keep_spare()
            return None

    def _keep_spare(self) -> None:
        try:
            self._spare_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._spare_fd = -1

    def _keep_patient(self, connection: socket.socket, now: float) -> bool:
        """Keep a young connection whose request is still on its way; False if it is to be answered now."""
        if len(self._patient) >= _PATIENCE_LIMIT:
            return False
        try:
            connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            return False
        else:
            return False
        left_s = _PATIENCE_S - _age_s(connection)
        if left_s <= 0:
            return False
        self._patient[connection.fileno()] = (connection, now + left_s)
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        return True

    def _answer_patient(self, fd: int) -> None:
        connection, _ = self._patient.pop(fd)
        # Closing would not do it while a child forked in between still holds the descriptor.
        self._epoll.unregister(fd)
        self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            self._discard(connection)
            connection.send(self._response, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self.answered_total += 1
        except OSError:
            self.resets_total += 1
        # A client that has read its answer may be gone by now: no error of ours nor of its.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            self._discard(connection)
        connection.close()

    def _discard(self, connection: socket.socket) -> None:
        """Throw away what was received: a socket closed with unread bytes resets its connection."""
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        try:
            for _ in range(_DISCARD_CHUNKS):
                if connection.recv_into(self._waste, 0, flags) < _DISCARD_CHUNK_BYTES:
                    return
        except BlockingIOError:
            return


def _age_s(connection: socket.socket) -> float:
    """Give how long a connection has certainly waited: since the older of its last data and its last ACK."""
    try:
        tcp_info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        data_ms, ack_ms = struct.unpack_from("=II", tcp_info, 52)
    except (OSError, struct.error):
        return float("inf")
    return float(max(data_ms, ack_ms)) / 1000
