"""Slow and flooding clients against a real nanny and a real worker: everyone else is served as before.

Bounded in number and time, on loopback. Throughout a flood the control socket is probed; `flooded_node.py` says what
counts as late. Afterwards the same worker beats, and the nanny has given back its descriptors.
"""

import base64
import hashlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from nanny.protocol.codec import encode_frame
from nanny.protocol.messages import CommandOrder, Ping, Welcome
from tests.fuzz.flooded_node import flooded_node
from tests.support.nodes import ControlLines
from tests.support.processes import StartedProcess, spawn_python, wait_until
from tests.support.vitals_subject import http_get

pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaves_nothing_behind"),
]

FLOOD_S = 1.5
CONNECTIONS = 1000

SENDER = """
import os, socket, sys, time
os.nice(10)
path, seconds, per_s, size = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
payload = (b"WATCHDOG=trigger\\nSTATUS=" + b"x" * size)[:size]
print("ready", flush=True)
sys.stdin.readline()
began_at, tried, sent = time.monotonic(), 0, 0
while time.monotonic() - began_at < seconds:
    # No rate: as fast as it goes, and the clock is looked at now and then.
    due = int((time.monotonic() - began_at) * per_s) + 1 if per_s else tried + 50
    while tried < due:
        tried += 1
        try:
            door.sendto(payload, socket.MSG_DONTWAIT, path)
            sent += 1
        except OSError:
            pass
    time.sleep(0.0005 if per_s else 0)
print(tried, sent, flush=True)
"""

TALKER = """
import os, socket, sys, time
os.nice(10)
family, address, kind, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
def connect():
    if family == "unix":
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.connect(address)
    else:
        peer = socket.create_connection(("127.0.0.1", int(address)))
    peer.setblocking(False)
    return peer
def say(peer, text):
    try:
        return peer.send(text)
    except BlockingIOError:
        return 0
    except OSError:
        return -1
print("ready", flush=True)
sys.stdin.readline()
began_at, total, connections = time.monotonic(), 0, 0
peers = []
while time.monotonic() - began_at < seconds:
    while len(peers) < {"crowd": 150, "lines": 20, "empty": 20, "half": 60, "head": 4, "unread": 10}[kind]:
        peer = connect()
        connections += 1
        peers.append(peer)
        if kind == "head":
            say(peer, b"GET /healthz HTTP/1.1\\r\\nHost: h\\r\\n")
        if kind == "crowd":
            say(peer, b'{"id":1,"do":"subscribe"}\\n')
    for peer in list(peers):
        text = {
            "crowd": b'{"id":1,"do":"status"}\\n',
            "lines": b'{"id":1,"do":"status"}\\n' * 200,
            "empty": b"\\n" * 60000,
            "half": b'{"id":1,"do":"',
            "head": b"X-Filler: " + b"f" * 60000 + b"\\r\\n",
            "unread": b'{"id":1,"do":"status"}\\n' * 200,
        }[kind]
        done = say(peer, text)
        total += max(done, 0)
        if kind != "unread":
            try:
                while peer.recv(1 << 18):
                    pass
                done = -1
            except BlockingIOError:
                pass
            except OSError:
                done = -1
        if done < 0:
            peers.remove(peer)
            peer.close()
    if kind == "head" and total >= 64 << 20:
        break
    time.sleep(0.001)
print(total, connections, flush=True)
"""


@contextmanager
def flooder(code: str, *argv: object) -> Iterator[StartedProcess]:
    """A process that floods from `go` on and says at its end what it did."""
    with spawn_python(code, argv=tuple(map(str, argv))) as process:
        assert process.read_line(60.0) == "ready"
        yield process


def go(process: StartedProcess) -> None:
    assert process.popen.stdin is not None
    process.popen.stdin.write(b"\n")
    process.popen.stdin.flush()


def result(process: StartedProcess) -> tuple[int, int]:
    first, second = process.read_line(120.0).split()
    process.wait_for_exit(60.0)
    return int(first), int(second)


def test_a_thousand_connections_at_once_leave_healthz_to_the_prober() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < CONNECTIONS + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CONNECTIONS + 1000), hard))
    with flooded_node() as flooded, ExitStack() as crowd:
        address = flooded.health_address
        for number in range(CONNECTIONS):
            peer = crowd.enter_context(socket.socket())
            peer.setblocking(False)
            with suppress(BlockingIOError):
                peer.connect(address)
            if number % 2:
                # Half of them have said half of a request; the others nothing.
                with suppress(OSError):
                    peer.send(b"GET /healthz HTTP/1.1\r\nHo")
        probes = flooded.probe(FLOOD_S)
        answers = [http_get(address, "/healthz", timeout_s=60.0).status for _ in range(20)]
        assert answers == [200] * 20
        flooded.assert_responsive(probes)
        crowd.close()
        flooded.assert_unharmed()


@pytest.mark.parametrize("size", [10, 15_000], ids=["small", "large"])
def test_ten_thousand_datagrams_a_second_from_a_stranger_drown_no_beat(size: int) -> None:
    with flooded_node() as flooded, flooder(SENDER, flooded.notify_path, FLOOD_S, 10_000, size) as stranger:
        refused = flooded.node.status()["counters"]["datagrams_refused_total"]
        beats = flooded.node.status()["counters"]["beats_total"]
        go(stranger)
        probes = flooded.probe(FLOOD_S)
        tried, sent = result(stranger)
        # As many as this machine lets through: what finds the queue full is the sender's loss.
        assert tried > 1000
        assert sent > 0
        flooded.node.wait_for(lambda now: now["counters"]["beats_total"] > beats, "more beats", 60.0)
        flooded.node.wait_for(
            lambda now: now["counters"]["datagrams_refused_total"] - refused >= sent, "each to be refused"
        )
        flooded.assert_responsive(probes)
        flooded.assert_unharmed()


def test_strangers_that_keep_the_queue_full_at_any_time_drown_no_beat() -> None:
    """The worst that unprivileged processes can do: senders that wait for room, so that there is hardly ever any."""
    blocking = SENDER.replace("socket.MSG_DONTWAIT, path", "path")
    with (
        flooded_node() as flooded,
        flooder(blocking, flooded.notify_path, 120.0, 0, 20) as one,
        flooder(blocking, flooded.notify_path, 120.0, 0, 20) as two,
    ):
        beats = flooded.node.status()["counters"]["beats_total"]
        go(one)
        go(two)
        probes = flooded.probe(FLOOD_S)
        # The flood goes on until beats have got through; it ends with this block.
        flooded.node.wait_for(
            lambda now: now["counters"]["beats_total"] > beats + 2, "beats in the flood", 60.0
        )
        assert flooded.node.status()["counters"]["datagrams_refused_total"] > 1000
        one.send_signal(signal.SIGKILL)
        two.send_signal(signal.SIGKILL)
        flooded.assert_responsive(probes)
        flooded.assert_unharmed()


def test_ten_thousand_datagrams_a_second_from_the_worker_itself_hold_nothing_up() -> None:
    with flooded_node() as flooded:
        pidfd = os.pidfd_open(flooded.node.worker_pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
        finally:
            os.close(pidfd)
        probes = flooded.probe(FLOOD_S)
        wait_until(lambda: os.path.exists(f"{flooded.node.root}/flooded"), 120.0, "the worker's flood to end")
        flooded.assert_responsive(probes)
        flooded.assert_unharmed()


def test_64_mib_of_header_are_neither_kept_nor_waited_for_by_the_worker() -> None:
    with flooded_node() as flooded:
        worker_pid = flooded.node.worker_pid
        address = flooded.health_address
        with flooder(TALKER, "tcp", address[1], "head", 20.0) as talker:
            go(talker)
            probes = flooded.probe(FLOOD_S)
            assert http_get(address, "/healthz", timeout_s=60.0).status == 200
            total, connections = result(talker)
        assert total > 1 << 20
        assert connections > 4
        with open(f"/proc/{worker_pid}/status") as file:
            (peak,) = [int(line.split()[1]) for line in file if line.startswith("VmHWM")]
        assert peak < 120 << 10
        flooded.assert_responsive(probes)
        flooded.assert_unharmed()


def test_64_mib_of_header_are_answered_by_the_fallback_while_there_is_no_worker() -> None:
    with flooded_node() as flooded:
        node, address = flooded.node, flooded.health_address
        node.request(
            "command",
            command_id="0190e0a0-5c1e-7d52-8f3b-6f2d4a9b1c07",
            kind="stop",
            reason="flood",
            actor="test",
        )
        node.wait_for_phase("down", 60.0)
        with flooder(TALKER, "tcp", address[1], "head", 20.0) as talker:
            go(talker)
            probes = flooded.probe(FLOOD_S)
            answer = http_get(address, "/healthz", timeout_s=60.0)
            assert (answer.status, answer.json["status"]) == (503, "fallback")
            assert result(talker)[1] > 4
        flooded.assert_responsive(probes)
        wait_until(
            lambda: len(os.listdir(f"/proc/{node.nanny_pid}/fd")) <= flooded.descriptors,
            60.0,
            "all descriptors back",
        )
        status = node.status()
        assert (status["nanny"]["errors_total"], status["nanny"]["violations_total"]) == (0, 0), (
            node.log_tail()
        )


@pytest.mark.parametrize("kind", ["crowd", "lines", "empty", "half", "unread"])
def test_clients_that_flood_the_control_socket_share_what_is_left_by_others(kind: str) -> None:
    with flooded_node() as flooded:
        # A prober of its own each time: in a crowd, whoever is silent for longest makes room.
        with flooder(TALKER, "unix", flooded.node.control_path, kind, FLOOD_S) as talker:
            go(talker)
            if kind == "crowd":
                answered, ends_at = 0, time.monotonic() + 60.0
                while answered < 3 and time.monotonic() < ends_at:
                    with suppress(OSError), ControlLines(flooded.node.control_path, 60.0) as lines:
                        answered += lines.request("status")["phase"] in {"running", "degraded"}
                assert answered >= 3
            else:
                probes = flooded.probe(FLOOD_S)
                flooded.assert_responsive(probes)
            total, connections = result(talker)
        assert (total > 0, connections > 0) == (True, True)
        flooded.assert_unharmed()


class HostileServer:
    """Speaks just enough WebSocket to be let in, then says anything: one thread, one connection at a time."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.connections = 0
        self.sent_bytes = 0
        self._is_begun = False
        self._is_ending = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="hostile-server")
        self._thread.start()

    def begin(self) -> None:
        """Let the next one in; until now all were turned away."""
        self._is_begun = True

    def close(self) -> None:
        self._is_ending = True
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join(60.0)
        self._listener.close()

    def _run(self) -> None:
        while not self._is_ending:
            with suppress(OSError), self._listener.accept()[0] as peer:
                peer.settimeout(1.0)
                if self._is_begun:
                    self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        heard = b""
        while b"\r\n\r\n" not in heard:
            chunk = peer.recv(1 << 16)
            if not chunk:
                return
            heard += chunk
        key = next(
            line[19:] for line in heard.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        peer.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.connections += 1
        peer.recv(1 << 16)  # its Hello
        number = 0
        while not self._is_ending:
            number += 1
            text = self._words(number)
            peer.sendall(text)
            self.sent_bytes += len(text)

    def _words(self, number: int) -> bytes:
        match self.kind:
            case "giant":
                # Claims 2^62 bytes, and sends what it can of them.
                return (b"\x82\x7f" + (1 << 62).to_bytes(8, "big") if number == 1 else b"") + bytes(1 << 16)
            case "garbage":
                return _frame(os.urandom(1000))
            case "pings":
                return b"\x89\x7d" + bytes(125)
            case _:
                welcome = Welcome(
                    1, "s", resumed=False, received_up_to=0, keepalive_interval_s=10.0, report_interval_s=0.01
                )
                if number == 1:
                    return _frame(encode_frame(welcome, version=1))
                orders = b"".join(_frame(self._order(100 * number + n)) for n in range(100))
                return orders + _frame(encode_frame(Ping(number), version=1))

    def _order(self, number: int) -> bytes:
        sequence = number - 199
        order = CommandOrder(
            f"0190e0a0-5c1e-7d52-8f3b-{number:012x}", "collect-evidence", 0.001, "flood", "hostile"
        )
        return encode_frame(order, version=1, sequence=sequence)


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return b"\x82" + head + payload


@pytest.mark.parametrize("kind", ["giant", "garbage", "pings", "orders"])
def test_a_hostile_server_reaches_link_and_nobody_behind_it(kind: str) -> None:
    server = HostileServer(kind)
    try:
        environment = {
            "LINK_SERVER_URL": f"http://127.0.0.1:{server.port}",
            "LINK_METRICS_PORT": "0",
            "LINK_BACKOFF_BASE_S": "0.05",
            "LINK_BACKOFF_CEILING_S": "0.2",
        }
        with flooded_node(link="child", link_environment=environment) as flooded:
            server.begin()
            wait_until(lambda: server.connections > 0, 60.0, "link to connect")
            probes = flooded.probe(FLOOD_S)
            flooded.assert_responsive(probes)
            link = flooded.node.status()["link"]
            assert link["failures"] == 0, flooded.node.log_tail()
            server.close()
            flooded.assert_unharmed()
        assert server.sent_bytes > 0
    finally:
        server.close()
