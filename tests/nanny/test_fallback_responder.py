"""The fallback on a real listener that real workers share: never a stolen connection, never an unanswered one."""

import json
import os
import resource
import select
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nanny.core.accept_watch import Stance
from nanny.fallback_responder import PER_TURN, FallbackResponder
from tests.support.processes import StartedProcess, spawn_python, wait_until

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")

WORDS = b'{"status": "fallback"}'
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"

# argv: the listener's descriptor, seconds before each accept, seconds between accepting and answering.
WORKER = """
import socket, sys, time
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(True)
print("ready", flush=True)
while True:
    time.sleep(float(sys.argv[2]))
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        # The flag is shared with the nanny, which may have set it just now.
        continue
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    connection.close()
"""

# argv: port, connections, parallel clients, pause between two of a client. Prints how each answer began.
CLIENTS = """
import collections, json, selectors, socket, sys, time
port, total, parallel, pause_s = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
answers, begun, longest_s = collections.Counter(), 0, 0.0
selector = selectors.DefaultSelector()
def begin():
    global begun
    begun += 1
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET /healthz HTTP/1.1\\r\\n\\r\\n")
    selector.register(client, selectors.EVENT_READ, time.monotonic())
for _ in range(parallel):
    begin()
while selector.get_map():
    for key, _ in selector.select():
        client = key.fileobj
        try:
            answer = client.recv(65536)[9:12].decode()
        except OSError as error:
            answer = type(error).__name__
        answers[answer] += 1
        longest_s = max(longest_s, time.monotonic() - key.data)
        selector.unregister(client)
        client.close()
        if begun < total:
            time.sleep(pause_s)
            begin()
print(json.dumps([answers, longest_s]), flush=True)
"""


@pytest.fixture
def listener(leaves_nothing_behind: None) -> Iterator[socket.socket]:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen(2048)
        opened.setblocking(False)
        yield opened


class Nanny:
    """The nanny's loop around the responder: one selector, one deadline, wake-ups counted."""

    def __init__(self, listener: socket.socket, after_s: float) -> None:
        self.listener = listener
        self.responder = FallbackResponder(listener, after_s, WORDS)
        self.wakeups = 0
        self.most_in_a_turn = 0
        self._selector = selectors.DefaultSelector()
        self._is_selected = False

    def close(self) -> None:
        self._selector.close()
        self.responder.close()

    def run_until(self, is_done: Callable[[], object], timeout_s: float = 20.0) -> None:
        end = time.monotonic() + timeout_s
        while not is_done():
            assert time.monotonic() < end, f"not done after {timeout_s} s; {self.responder.stance}"
            self.turn(0.01)

    def run_for(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self.turn(end - time.monotonic())

    def turn(self, limit_s: float) -> None:
        responder = self.responder
        if responder.wants_readable() is not self._is_selected:
            self._is_selected = not self._is_selected
            if self._is_selected:
                self._selector.register(responder, selectors.EVENT_READ)
            else:
                self._selector.unregister(responder)
        deadline = responder.next_deadline()
        if deadline is not None:
            limit_s = min(limit_s, max(0.0, deadline - time.monotonic()))
        is_ready = bool(self._selector.select(limit_s))
        now = time.monotonic()
        ended_before = responder.answered_total + responder.resets_total
        if is_ready:
            self.wakeups += 1
            responder.on_readable(now)
        if deadline is not None and now >= deadline - 0.001:
            self.wakeups += 1
            responder.on_deadline(max(now, deadline))
        ended = responder.answered_total + responder.resets_total
        self.most_in_a_turn = max(self.most_in_a_turn, ended - ended_before)

    def ask(self) -> "Asked":
        return Asked(self.listener.getsockname())


class Asked:
    """One request under way."""

    def __init__(self, address: object, request: bytes = REQUEST) -> None:
        self.socket = socket.create_connection(address)  # type: ignore[arg-type]
        self.began_at = time.monotonic()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])

    def answer(self) -> bytes:
        """Give all that comes until end of file, and close."""
        self.socket.settimeout(10)
        received = b""
        with self.socket:
            while chunk := self.socket.recv(65536):
                received += chunk
        return received

    def status(self) -> bytes:
        return self.answer()[9:12]


@contextmanager
def nanny_of(listener: socket.socket, after_s: float) -> Iterator[Nanny]:
    nanny = Nanny(listener, after_s)
    try:
        yield nanny
    finally:
        nanny.close()


@contextmanager
def worker_of(listener: socket.socket, before_accept_s: float = 0.0) -> Iterator[StartedProcess]:
    fd = listener.fileno()
    with spawn_python(WORKER, argv=(str(fd), str(before_accept_s)), pass_fds=(fd,)) as worker:
        assert worker.read_line() == "ready"
        yield worker


def load(nanny: Nanny, total: int, parallel: int, pause_s: float) -> tuple[dict[str, int], float]:
    """Run clients in a process of their own and the nanny meanwhile; give the answers and the longest wait."""
    port = nanny.listener.getsockname()[1]
    argv = (str(port), str(total), str(parallel), str(pause_s))
    with spawn_python(CLIENTS, argv=argv) as clients:
        assert clients.popen.stdout is not None
        out = clients.popen.stdout.fileno()
        nanny.run_until(lambda: select.select([out], [], [], 0)[0], 60.0)
        answers, longest_s = json.loads(clients.read_line())
        assert clients.wait_for_exit() == 0
    return answers, longest_s


def ask_and_wait(nanny: Nanny, timeout_s: float = 20.0) -> tuple[bytes, float]:
    asked = nanny.ask()
    nanny.run_until(asked.is_answered, timeout_s)
    waited_s = time.monotonic() - asked.began_at
    return asked.status(), waited_s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("total", "parallel", "pause_s", "before_accept_s"),
    [
        (2000, 8, 0.0015, 0.0),  # some 500 a second, from eight at a time
        (150, 1, 0.0, 0.012),  # one patient client, a slow worker: always one in the queue, never the same
        (300, 12, 0.0, 0.005),  # the queue is never empty and its length hardly changes
    ],
)
def test_a_living_workers_connections_are_never_stolen(
    listener: socket.socket, total: int, parallel: int, pause_s: float, before_accept_s: float
) -> None:
    with worker_of(listener, before_accept_s), nanny_of(listener, 1.0) as nanny:
        answers, _ = load(nanny, total, parallel, pause_s)
        assert answers == {"200": total}
        assert nanny.responder.answered_total == 0


@pytest.mark.slow
def test_a_slow_workers_full_queue_is_not_taken_for_the_same_connection_waiting(
    listener: socket.socket,
) -> None:
    # The window is far longer than any connection waits, and the load far longer than the window.
    with worker_of(listener, 0.01), nanny_of(listener, 0.5) as nanny:
        answers, longest_s = load(nanny, 200, 6, 0.0)
        assert longest_s < 0.5, "too slow to tell anything"
        assert answers == {"200": 200}
        assert nanny.responder.stance is not Stance.ANSWERING


def test_a_stopped_workers_connection_is_answered_when_the_window_ends_and_the_next_at_once(
    listener: socket.socket,
) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 0.5) as nanny:
        assert ask_and_wait(nanny)[0] == b"200"
        stop(worker)
        status, waited_s = ask_and_wait(nanny)
        assert (status, 0.4 <= waited_s < 1.5) == (b"503", True)
        waits = []
        for _ in range(20):
            status, waited_s = ask_and_wait(nanny)
            assert status == b"503"
            waits.append(waited_s)
        # Seen: 0.3 ms.
        assert sorted(waits)[10] < 0.1
        assert nanny.responder.misjudged_total == 0


@pytest.mark.slow
def test_with_the_defaults_nobody_waits_for_more_than_the_window_and_a_tenth(listener: socket.socket) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 1.0) as nanny:
        stop(worker)
        status, waited_s = ask_and_wait(nanny)
        assert status == b"503"
        # The promise is 1.1 s; the rest is for a machine that runs other tests, too.
        assert 0.95 <= waited_s < 1.4


def test_a_flood_at_a_stopped_worker_is_answered_in_time_too(listener: socket.socket) -> None:
    """Arrivals all the time: the proof is weak, and the first connection's age confirms it."""
    with worker_of(listener) as worker, nanny_of(listener, 0.5) as nanny:
        stop(worker)
        answers, longest_s = load(nanny, 500, 50, 0.002)
        assert answers == {"503": 500}
        assert longest_s < 1.5
        assert nanny.responder.misjudged_total == 0


def test_a_stopped_worker_with_a_waiting_connection_does_not_keep_us_busy(listener: socket.socket) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 1.0) as nanny:
        stop(worker)
        asked = nanny.ask()
        nanny.run_for(0.8)
        assert not asked.is_answered()
        # One for the connection, then a look each 50 to 80 ms.
        assert nanny.wakeups <= 18
        nanny.run_until(asked.is_answered)
        assert asked.status() == b"503"


def test_without_connections_the_nanny_sleeps(listener: socket.socket) -> None:
    with worker_of(listener), nanny_of(listener, 0.2) as nanny:
        nanny.run_for(0.5)
        assert (nanny.wakeups, nanny.responder.next_deadline()) == (0, None)


def test_a_worker_that_beats_again_gets_its_connections_back(listener: socket.socket) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 0.3) as nanny:
        stop(worker)
        assert ask_and_wait(nanny)[0] == b"503"
        worker.send_signal(signal.SIGCONT)
        nanny.responder.worker_showed_life(time.monotonic())
        assert [ask_and_wait(nanny)[0] for _ in range(20)] == [b"200"] * 20


@pytest.mark.slow
def test_a_worker_that_comes_back_without_a_beat_is_noticed(listener: socket.socket) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 0.3) as nanny:
        stop(worker)
        assert ask_and_wait(nanny)[0] == b"503"
        worker.send_signal(signal.SIGCONT)
        began_at = time.monotonic()
        while nanny.responder.stance in (Stance.ANSWERING, Stance.YIELDING):
            assert time.monotonic() - began_at < 10.0
            assert ask_and_wait(nanny)[0] in (b"200", b"503")
        assert [ask_and_wait(nanny)[0] for _ in range(20)] == [b"200"] * 20


@pytest.mark.slow
def test_yielding_to_a_worker_that_stays_silent_is_no_new_window(listener: socket.socket) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 0.3) as nanny:
        stop(worker)
        assert ask_and_wait(nanny)[0] == b"503"
        yields = 0
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            asked = nanny.ask()
            while not asked.is_answered():
                nanny.turn(0.01)
                yields += nanny.responder.stance is Stance.YIELDING
                assert nanny.responder.stance in (Stance.ANSWERING, Stance.YIELDING)
            assert asked.status() == b"503"
        assert yields > 0


def test_a_beat_of_a_worker_that_does_not_accept_costs_one_window_each_time(listener: socket.socket) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 0.3) as nanny:
        stop(worker)
        for _ in range(3):
            nanny.responder.worker_showed_life(time.monotonic())
            status, waited_s = ask_and_wait(nanny)
            assert (status, 0.2 <= waited_s < 1.2) == (b"503", True)


def test_a_dead_workers_connections_are_answered_at_once_the_waiting_ones_too(
    listener: socket.socket,
) -> None:
    with worker_of(listener) as worker, nanny_of(listener, 60.0) as nanny:
        stop(worker)
        waiting = nanny.ask()
        nanny.run_for(0.05)
        worker.send_signal(signal.SIGKILL)
        worker.wait_for_exit()
        nanny.responder.worker_gone(time.monotonic())
        assert waiting.status() == b"503"
        assert ask_and_wait(nanny, 10.0)[0] == b"503"


def test_the_next_worker_answers_for_itself_once_it_lives(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        assert ask_and_wait(nanny)[0] == b"503"
        nanny.responder.worker_started(time.monotonic())
        assert ask_and_wait(nanny)[0] == b"503"
        with worker_of(listener):
            nanny.responder.worker_showed_life(time.monotonic())
            assert [ask_and_wait(nanny)[0] for _ in range(20)] == [b"200"] * 20


def test_a_flood_is_answered_in_bounded_turns(listener: socket.socket) -> None:
    clients = [Asked(listener.getsockname()) for _ in range(1000)]
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        assert nanny.responder.answered_total == PER_TURN
        nanny.run_until(lambda: nanny.responder.answered_total == 1000)
        assert nanny.most_in_a_turn <= PER_TURN
        assert {client.status() for client in clients} == {b"503"}
        assert nanny.responder.resets_total == 0


def test_the_answer_is_whole_http_and_says_our_words(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        nanny.responder.set_words(b'{"reason": "backoff"}')
        asked = nanny.ask()
        nanny.run_until(asked.is_answered)
        head, _, body = asked.answer().partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert dict(field.split(": ") for field in fields) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    assert json.loads(body) == {"reason": "backoff"}


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_a_request_that_comes_after_its_connection_was_taken_does_not_reset_the_answer(
    listener: socket.socket, delay_s: float
) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        hasty = 0
        for _ in range(10):
            asked = Asked(listener.getsockname(), b"")
            nanny.run_for(0.005)
            hasty += asked.is_answered()
            asked.socket.sendall(REQUEST)
            time.sleep(delay_s)
            nanny.run_until(asked.is_answered)
            assert asked.status() == b"503"
        nanny.run_until(lambda: nanny.responder.answered_total == 10)
        assert nanny.responder.resets_total == 0
        # Some may be, on a machine so busy that five milliseconds became fifty.
        assert hasty < 10


def test_a_client_that_never_speaks_is_answered_soon_and_costs_one_wakeup_more(
    listener: socket.socket,
) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        silent = Asked(listener.getsockname(), b"")
        nanny.run_until(silent.is_answered)
        assert time.monotonic() - silent.began_at < 1.0
        assert silent.status() == b"503"
        assert nanny.wakeups <= 4


def test_more_silent_clients_than_we_are_patient_with_are_all_answered(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        clients = [Asked(listener.getsockname(), b"") for _ in range(200)]
        nanny.run_until(lambda: nanny.responder.answered_total == 200)
        assert {client.status() for client in clients} == {b"503"}


def test_a_long_request_is_discarded_and_the_answer_arrives(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        asked = Asked(listener.getsockname(), REQUEST + b"x" * 50_000)
        nanny.responder.worker_gone(time.monotonic())
        nanny.run_until(asked.is_answered)
        assert asked.answer().endswith(WORDS)


def test_a_client_that_is_gone_again_is_counted_and_disturbs_nobody(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        gone = Asked(listener.getsockname())
        # SO_LINGER of zero: close sends a reset.
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone.socket.close()
        nanny.responder.worker_gone(time.monotonic())
        assert ask_and_wait(nanny)[0] == b"503"
        assert (nanny.responder.answered_total, nanny.responder.resets_total) == (1, 1)


def test_a_client_that_leaves_right_after_its_answer_was_answered(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        for _ in range(20):
            asked = nanny.ask()
            nanny.run_until(asked.is_answered)
            asked.socket.close()
        assert (nanny.responder.answered_total, nanny.responder.resets_total) == (20, 0)


def test_patient_connections_are_answered_when_the_responder_closes(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        silent = Asked(listener.getsockname(), b"")
        nanny.run_for(0.01)
    assert silent.status() == b"503"


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_free_descriptor_the_spare_one_still_answers(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        clients = [nanny.ask() for _ in range(5)]
        with no_descriptor_left():
            nanny.responder.worker_gone(time.monotonic())
            nanny.run_until(lambda: nanny.responder.answered_total == 5)
        assert [client.status() for client in clients] == [b"503"] * 5
        assert nanny.responder.exhausted_total >= 5


def test_without_even_the_spare_descriptor_we_wait_and_do_not_spin(listener: socket.socket) -> None:
    with nanny_of(listener, 60.0) as nanny:
        asked = nanny.ask()
        os.close(nanny.responder._spare_fd)
        nanny.responder._spare_fd = -1
        # The freed number is the lowest free one now: take it away, too.
        with no_descriptor_left():
            nanny.responder.worker_gone(time.monotonic())
            nanny.run_for(0.5)
            assert nanny.wakeups <= 12
            assert nanny.responder.exhausted_total >= 2
        nanny.run_until(asked.is_answered)
        assert asked.status() == b"503"


def test_a_listener_that_was_shut_down_by_another_holder_is_no_busy_loop(listener: socket.socket) -> None:
    with nanny_of(listener, 0.2) as nanny:
        listener.shutdown(socket.SHUT_RDWR)
        nanny.run_for(0.2)
        nanny.responder.worker_gone(time.monotonic())
        nanny.run_for(0.5)
        assert nanny.wakeups <= 20
        assert nanny.responder.failed_total >= 1


def test_a_blocking_listener_never_holds_us_and_stays_blocking(listener: socket.socket) -> None:
    listener.setblocking(True)
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        assert ask_and_wait(nanny)[0] == b"503"
        assert os.get_blocking(listener.fileno())


def test_a_worker_that_makes_the_listener_blocking_and_takes_the_connection_holds_us_not_for_long(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a race shows: the queue was readable, and at the accept it is empty and would wait."""
    listener.setblocking(True)
    with nanny_of(listener, 60.0) as nanny:
        monkeypatch.setattr(nanny.responder, "_polled", lambda: select.POLLIN)
        began = time.monotonic()
        nanny.responder.worker_gone(time.monotonic())
        assert time.monotonic() - began < 5.0
    assert os.get_blocking(listener.fileno())


def test_connections_held_by_a_child_forked_in_between_end_all_the_same(listener: socket.socket) -> None:
    """A fork copies every open connection; the client must see the end although the copy is still open."""
    with nanny_of(listener, 60.0) as nanny:
        nanny.responder.worker_gone(time.monotonic())
        silent = Asked(listener.getsockname(), b"")
        nanny.run_for(0.01)
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        try:
            silent.socket.sendall(REQUEST)
            nanny.run_until(lambda: nanny.responder.answered_total == 1)
            # The child has a copy of this end as well: without it the other end would never see its end.
            silent.socket.shutdown(socket.SHUT_WR)
            assert silent.answer().endswith(WORDS)
            # Later connections get the same descriptor number, and the copy's readiness is nobody's business.
            assert ask_and_wait(nanny)[0] == b"503"
            wakeups_before = nanny.wakeups
            nanny.run_for(0.2)
            assert nanny.wakeups - wakeups_before <= 2
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def unix_listener(leaves_nothing_behind: None) -> Iterator[socket.socket]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as opened:
        opened.bind(f"{folder}/s")
        opened.listen(64)
        opened.setblocking(False)
        yield opened


def test_where_the_host_shows_no_queue_length_the_queue_being_empty_is_the_sign(
    unix_listener: socket.socket,
) -> None:
    path = unix_listener.getsockname()
    with nanny_of(unix_listener, 0.4) as nanny, worker_of(unix_listener) as worker:

        def ask() -> bytes:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(REQUEST)
                nanny.run_until(lambda: select.select([client], [], [], 0)[0])
                return client.recv(65536)[9:12]

        assert [ask() for _ in range(20)] == [b"200"] * 20
        stop(worker)
        began_at = time.monotonic()
        assert ask() == b"503"
        assert time.monotonic() - began_at >= 0.3
        assert ask() == b"503"


def stop(worker: StartedProcess) -> None:
    """SIGSTOP, and wait until it has stopped."""
    worker.send_signal(signal.SIGSTOP)

    def is_stopped() -> bool:
        with open(f"/proc/{worker.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    wait_until(is_stopped, 5.0, "the worker to stop")


def test_a_busy_accept_in_another_process_is_no_reset_for_anyone(listener: socket.socket) -> None:
    """Worker and nanny race for the same connections: each is answered by one of them."""
    with worker_of(listener), nanny_of(listener, 60.0) as nanny:
        # As after a premature verdict: the nanny answers although the worker lives.
        nanny.responder.worker_gone(time.monotonic())
        answers, _ = load(nanny, 300, 4, 0.0)
        assert set(answers) <= {"200", "503"}
        assert sum(answers.values()) == 300
