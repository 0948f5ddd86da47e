"""The endpoints on real sockets: persistence, bounds, hostile clients, inherited listeners, forks."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from agent.vitals.config import VitalsConfig
from agent.vitals.snapshot import ActiveCondition, Check, Snapshot
from agent.vitals.thread import Vitals, start_vitals
from tests.support.notify_listener import notify_listener
from tests.support.processes import wait_until
from tests.support.vitals_subject import http_get

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")

ASK = b"GET /livez HTTP/1.1\r\nHost: n\r\n\r\n"


@contextmanager
def _running(**settings: Any) -> Iterator[tuple[Vitals, Any]]:
    vitals = start_vitals(VitalsConfig(**({"listen": ("127.0.0.1", 0)} | settings)))
    try:
        yield vitals, vitals.address
    finally:
        assert vitals.stop(10.0)


def _all_of(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(1 << 16):
        received += chunk
    return received


def _some_of(client: socket.socket, count: int) -> bytes:
    received = b""
    while received.count(b"\r\n\r\nok") < count:
        chunk = client.recv(1 << 16)
        assert chunk, received
        received += chunk
    return received


def _event_count(address: Any, event: str) -> int:
    line = next(line for line in http_get(address, "/metrics").body.splitlines() if f'"{event}"' in line)
    return int(line.split()[-1])


def test_endpoints_answer_from_what_was_published() -> None:
    checks = (Check("server", passed=False, reason="10.0.0.1 refuses"), Check("disk", passed=True))
    with _running(incarnation="e/7") as (vitals, address):
        starting = http_get(address, "/healthz").json
        not_started = http_get(address, "/readyz")
        vitals.publish(
            Snapshot(
                started=True,
                readiness=checks,
                conditions=(ActiveCondition("DiskPressure", "2 % left"),),
                metrics_text='app_things_total{kind="a"} 3\n',
            )
        )

        assert (starting["status"], starting["incarnation"], starting["pid"]) == (
            "starting",
            "e/7",
            os.getpid(),
        )
        assert not_started.status == 503
        assert http_get(address, "/healthz").json["status"] == "ok"
        assert http_get(address, "/healthz?verbose").json["conditions"] == {"DiskPressure": "2 % left"}
        assert http_get(address, "/livez").body == "ok"
        assert http_get(address, "/readyz").body == (
            "[+]started ok\n[-]server failed: reason withheld\n[+]disk ok\nreadyz check failed\n"
        )
        assert "10.0.0.1 refuses" in http_get(address, "/readyz?verbose").body
        assert http_get(address, "/metrics").body.endswith('app_things_total{kind="a"} 3\n')
        assert http_get(address, "/").status == 404
        json_form = http_get(address, "/healthz", headers={"Accept": "application/health+json"})
        assert (json_form.headers["Content-Type"], json_form.json["status"]) == (
            "application/health+json",
            "warn",
        )


def test_reasons_are_for_loopback_and_bearers_of_the_token_only() -> None:
    with _running(token="s3cret", trusts_loopback=False) as (_, address):
        withheld = http_get(address, "/readyz?verbose")
        wrong = http_get(address, "/readyz?verbose", headers={"Authorization": "Bearer s3cre"})
        told = http_get(address, "/readyz", headers={"Authorization": "Bearer s3cret"})

    assert ["reason withheld" in answer.body for answer in (withheld, wrong, told)] == [True, True, False]


def test_a_proxy_on_loopback_gets_no_reasons_for_its_clients() -> None:
    with _running() as (_, address):
        near = http_get(address, "/readyz?verbose")
        forwarded = http_get(address, "/readyz?verbose", headers={"X-Forwarded-For": "192.0.2.7"})

    assert ("starting" in near.body, "starting" in forwarded.body) == (True, False)


def test_a_critical_point_past_its_deadline_is_a_stall_until_it_is_touched() -> None:
    with _running() as (vitals, address), vitals.progress_point("reconcile", 0.05, critical=True) as point:
        wait_until(lambda: http_get(address, "/livez").status == 503, 10, "the stall")
        body = http_get(address, "/healthz").json
        point.deadline_s = 60.0
        point.touch()

        assert body["failed"] == ["progress:reconcile"]
        assert http_get(address, "/healthz").json["progress"]["reconcile"]["deadline_s"] == 60.0
        assert http_get(address, "/healthz").status == 200


def test_a_connection_is_kept_and_serves_many_requests() -> None:
    with _running() as (_, address), closing(socket.create_connection(address, timeout=10)) as client:
        for _ in range(50):
            client.sendall(ASK)
            assert b"Connection: keep-alive" in _some_of(client, 1)

        assert _event_count(address, "accepted") == 2


def test_head_is_answered_without_a_body_and_close_is_obeyed() -> None:
    with _running() as (_, address), closing(socket.create_connection(address, timeout=10)) as client:
        client.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
        received = _all_of(client)

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"Connection: close\r\n\r\n")


def test_a_request_that_comes_byte_by_byte_is_answered() -> None:
    with _running() as (_, address), closing(socket.create_connection(address, timeout=10)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in ASK:
            client.sendall(bytes((byte,)))

        assert _some_of(client, 1).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order_up_to_the_limit() -> None:
    with _running() as (_, address), closing(socket.create_connection(address, timeout=10)) as client:
        client.sendall(ASK * 8)
        assert _some_of(client, 8).count(b"200 OK") == 8

        client.sendall(ASK * 100)

        assert _all_of(client).count(b"200 OK") == 16
        assert _event_count(address, "overlong_pipeline") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (os.urandom(64).replace(b"\r\n\r\n", b"") + b"\xff\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: n\r\nA: " + b"a" * 100_000, b"431"),
        (b"POST /livez HTTP/1.1\r\nHost: n\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 100_000, b"405"),
        (b"GET /livez HTTP/1.1\r\nHost: n\r\nContent-Length: 3\r\n\r\nabc", b"413"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
    ],
)
def test_what_is_no_request_is_refused_and_counted_and_its_answer_arrives(sent: bytes, status: bytes) -> None:
    with _running() as (_, address):
        with closing(socket.create_connection(address, timeout=10)) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            received = _all_of(client)

        assert received[:12] == b"HTTP/1.1 " + status
        assert received.count(b"HTTP/1.1") == 1
        assert f'refused_total{{code="{status.decode()}"}} 1' in http_get(address, "/metrics").body
        assert _event_count(address, "failed") == 0


def test_who_is_slow_is_ended_after_the_deadline_however_many_bytes_come() -> None:
    with (
        _running(client_deadline_s=0.3) as (_, address),
        closing(socket.create_connection(address, timeout=10)) as client,
    ):
        client.sendall(b"G")
        deadline = time.monotonic() + 20
        with pytest.raises(ConnectionError):  # noqa: PT012  # any of the sends may be the one that fails
            while time.monotonic() < deadline:
                client.sendall(b"E")
                time.sleep(0.02)

        wait_until(lambda: _event_count(address, "timed_out") == 1, 10, "the count")


def test_who_never_takes_the_answer_is_ended_and_holds_little() -> None:
    big = "x" * (4 << 20)
    with _running(client_deadline_s=0.3) as (vitals, address):
        vitals.publish(Snapshot(started=True, metrics_text=big))
        with closing(socket.socket()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect(address)
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: n\r\n\r\n")
            wait_until(lambda: _event_count(address, "timed_out") == 1, 10, "the time-out")


def test_a_big_answer_arrives_whole() -> None:
    big = "# " + "x" * (4 << 20) + "\n"
    with _running() as (vitals, address):
        vitals.publish(Snapshot(started=True, metrics_text=big))

        assert http_get(address, "/metrics").body.endswith(big)


def test_idle_connections_give_way_to_new_ones() -> None:
    with _running(client_limit=4) as (_, address), ExitStack() as idle:
        for _ in range(20):
            client = idle.enter_context(socket.create_connection(address, timeout=10))
            client.sendall(ASK)
            _some_of(client, 1)

        assert _event_count(address, "evicted") >= 16


def test_clients_that_reset_are_their_own_matter() -> None:
    with _running() as (_, address):
        for _ in range(20):
            with closing(socket.create_connection(address, timeout=10)) as client:
                client.sendall(b"GET /he")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        assert http_get(address, "/livez").body == "ok"


def test_an_inherited_listener_is_served_and_what_is_none_is_left_alone() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, closing(socket.socket()) as other:
        with _running(listen=None, listener_fd=os.dup(listener.fileno())) as (_, address):
            assert http_get(address, "/livez").status == 200
        with _running(listen=None, listener_fd=other.fileno()) as (_, address):
            assert address is None
        with _running(listen=None, listener_fd=9999) as (_, address):
            assert address is None


def test_beats_go_on_when_another_holder_shuts_the_listener_down() -> None:
    with notify_listener() as supervisor, closing(socket.create_server(("127.0.0.1", 0))) as listener:
        settings = {"listen": None, "listener_fd": os.dup(listener.fileno()), "interval_s": 0.02}
        with _running(notify_socket=supervisor.address, **settings) as (vitals, _):
            listener.shutdown(socket.SHUT_RDWR)
            before = time.process_time()
            for _ in range(20):
                supervisor.hear()

            assert "listener_lost" in vitals._metrics_text()
            assert 'event="listener_lost"} 1' in vitals._metrics_text()
            assert time.process_time() - before < 0.5


def test_without_free_descriptors_it_waits_and_then_goes_on() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _running() as (vitals, address), ExitStack() as sockets:
        client = sockets.enter_context(socket.socket())
        client.settimeout(20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        try:
            client.connect(address)
            client.sendall(ASK)
            wait_until(
                lambda: 'event="accept_failed"} 0' not in vitals._metrics_text(), 10, "a failed accept"
            )
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert _some_of(client, 1).startswith(b"HTTP/1.1 200")


def test_a_forked_child_holds_neither_listener_nor_connections() -> None:
    with _running() as (vitals, address), closing(socket.create_connection(address, timeout=10)) as client:
        client.sendall(ASK)
        _some_of(client, 1)
        read_fd, write_fd = os.pipe()
        child = os.fork()
        if child == 0:
            names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
            vitals.publish(Snapshot(started=True, status_text="from the child"))
            os.write(write_fd, str(sum(name.startswith("anon_inode") for name in names)).encode())
            os._exit(0)
        os.close(write_fd)
        with os.fdopen(read_fd) as told:
            anonymous = told.read()
        assert os.waitpid(child, 0)[1] == 0

        assert anonymous == "0"
        client.sendall(ASK)
        assert _some_of(client, 1).startswith(b"HTTP/1.1 200")
        assert http_get(address, "/livez").body == "ok"


def test_ready_status_and_stopping_are_told_at_once() -> None:
    with (
        notify_listener() as supervisor,
        _running(notify_socket=supervisor.address, interval_s=3600) as (vitals, _),
    ):
        first = supervisor.hear()
        vitals.publish(Snapshot(started=True))
        ready = supervisor.hear()
        vitals.publish(replace(vitals.snapshot, status_text="busy", phase="draining"))
        busy = supervisor.hear()
        vitals.stopping()
        stopping = supervisor.hear()

    assert (first.ready, first.watchdog, first.loop_lag_s) == (False, True, None)
    assert (ready.ready, busy.status, busy.phase) == (True, "busy", "draining")
    assert stopping.stopping
    assert [beat.seq for beat in supervisor.beats] == [1, 2, 3, 4]


def test_long_starts_extend_systemds_own_deadline() -> None:
    with (
        notify_listener() as supervisor,
        _running(notify_socket=supervisor.address, interval_s=0.02) as (vitals, _),
    ):
        with vitals.expect(100, "importing"):
            starting = supervisor.hear_until(lambda beat: beat.expected_until)
        assert 90 < (starting.extend_timeout_s or 0) <= 100


def test_a_flapping_status_floods_nobody() -> None:
    with (
        notify_listener() as supervisor,
        _running(notify_socket=supervisor.address, interval_s=3600) as (vitals, _),
    ):
        supervisor.hear()
        started_at = time.monotonic()
        number = 0
        while time.monotonic() < started_at + 0.5:
            number += 1
            vitals.publish(Snapshot(status_text=str(number)))
        vitals.publish(Snapshot(status_text="last"))
        supervisor.hear_until(lambda beat: beat.status == "last")

        assert len(supervisor.beats) <= 10


def test_an_error_in_a_turn_is_counted_and_the_thread_goes_on() -> None:
    with notify_listener() as supervisor, _running(notify_socket=supervisor.address) as (vitals, address):
        supervisor.hear()
        wrong: Any = 7
        vitals.publish(Snapshot(status_text=wrong, metrics_text=wrong))
        wait_until(lambda: vitals._counts.turn_errors == 1, 10, "the error")

        assert http_get(address, "/metrics").status == 500
        vitals.publish(Snapshot(started=True))
        assert supervisor.hear().ready
        assert "vitals_turn_errors_total 1" in http_get(address, "/metrics").body
        assert _event_count(address, "failed") == 1


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
