"""The control socket under clients that break every rule: refused, counted, bounded, and nobody else notices."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import ControlClient, RealNanny, Refused


@pytest.mark.parametrize(
    "line",
    [
        b"\n\n\n",
        b"garbage\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"id":1}\n',
        b'{"do":["status"]}\n',
        b'{"do":"status","id":{"a":[1]}}\n',
        b'{"do":"reboot"}\n',
        b"\xff\xfe\x00\n",
        b"[" * 30_000 + b"\n",
        b'{"do":"command","command_id":"x","kind":"stop"}\n',
        b'{"do":"command","command_id":"01a1fc7b-353d-7002-a243-a3831a9928e5","kind":"stop","reason":"r","actor":"a","time_to_live_s":NaN}\n',
        b'{"do":"command","command_id":"01a1fc7b-353d-7002-a243-a3831a9928e5","kind":"reboot","reason":"r","actor":"a"}\n',
        b'{"do":"command","command_id":"01a1fc7b-353d-7002-a243-a3831a9928e5","kind":"restart","target":"x/y","reason":"r","actor":"a"}\n',
        b'{"do":"logs","limit_bytes":-1}\n',
        b'{"do":"logs","limit_bytes":"all"}\n',
        b'{"do":"acknowledge","command_id":"x"}\n',
        b'{"do":"hold","for_s":1e400}\n',
    ],
)
def test_what_is_no_request_is_refused_in_words_and_the_connection_goes_on(
    node: RealNanny, line: bytes
) -> None:
    node.start()
    before = node.wait_for_phase("running")
    with node.connect() as client:
        client.socket.sendall(line)
        if line.strip() and not line.startswith(b'{"do":"status"'):
            assert client.line()["ok"] is False
        assert client.ask("status")["phase"] == "running"
    after = node.status()
    assert (after["incarnation"], after["desired"]) == (before["incarnation"], before["desired"])


def test_a_request_that_never_ends_costs_its_connection(node: RealNanny) -> None:
    node.start()
    with node.connect() as client:
        try:
            for _ in range(100):
                client.socket.sendall(b"x" * 10_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert client.line()["ok"] is False
        with pytest.raises((EOFError, ConnectionResetError)):
            client.line()
    assert node.status()["counters"]["control_refused_total"] >= 1


def test_half_a_line_waits_for_its_other_half(node: RealNanny) -> None:
    node.start()
    with node.connect() as client:
        client.socket.sendall(b'{"id":7,"do":')
        node.status()
        client.socket.sendall(b'"healthcheck"}\n{"id":8,"do":"healthcheck"}\n')
        assert [client.line()["id"], client.line()["id"]] == [7, 8]


def test_a_hundred_idle_connections_lock_nobody_out(node: RealNanny) -> None:
    node.start()
    idle: list[ControlClient] = []
    try:
        for _ in range(100):
            idle.append(ControlClient(node.control_path))  # noqa: PERF401  # those made are closed below
        assert idle[-1].ask("status")["phase"]
        assert node.status()["counters"]["control_refused_total"] >= 36
        assert len(os.listdir(f"/proc/{node.pid}/fd")) < 100
    finally:
        for one in idle:
            one.socket.close()
    node.assert_unharmed()


def test_a_client_that_asks_and_never_reads_is_dropped_and_holds_nobody(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    with node.connect() as deaf:
        deaf.socket.settimeout(0.5)
        sent = 0
        try:
            for _ in range(20_000):
                deaf.socket.sendall(b'{"id":1,"do":"status"}\n')
                sent += 1
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        began = time.monotonic()
        assert node.status()["phase"] == "running"
        assert time.monotonic() - began < 2.0
        node.wait_for(lambda _: "control client does not read" in node.log(), "the deaf one to be dropped")
    resident = Path(f"/proc/{node.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(resident) < 60_000


def test_clients_that_leave_at_any_moment_cost_nothing(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    before = len(os.listdir(f"/proc/{node.pid}/fd"))
    for n in range(200):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(node.control_path)
            request = json.dumps({"id": n, "do": ("status", "subscribe", "logs")[n % 3]}).encode() + b"\n"
            client.sendall(request[: len(request) - n % 2 * 5])
    wait_until(
        lambda: len(os.listdir(f"/proc/{node.pid}/fd")) <= before, 10, "their descriptors to be closed"
    )
    node.assert_unharmed()


@pytest.mark.root
def test_another_user_is_refused_by_who_it_is(node: RealNanny) -> None:
    node.directory.chmod(0o755)
    node.start()
    os.chmod(node.control_path, 0o666)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(node.control_path)
                os.write(write_fd, client.recv(4096))
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        told = json.loads(file.read())
    os.waitpid(pid, 0)
    assert told["ok"] is False
    assert "65534" in told["error"]


def test_a_command_with_the_same_id_has_one_effect_and_one_outcome(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    command = {
        "command_id": "01a1fc7b-353d-7002-a243-a3831a9928e5",
        "kind": "restart",
        "reason": "test",
        "actor": "tester",
    }
    with node.connect() as client:
        client.ask("subscribe")
        for _ in range(5):
            client.ask("command", **command)
    node.wait_for(lambda status: status["counters"]["command_outcomes_total"] == {"done": 1}, "the outcome")
    node.kill()
    node.start()
    with node.connect() as client:
        assert client.ask("command", **command)["outcome"] == "done"
    assert node.wait_for_phase("running")["counters"]["incarnations_total"] == 0


def test_what_only_an_operator_may_is_named_in_the_refusal(node: RealNanny) -> None:
    node.start()
    with node.connect() as client, pytest.raises(Refused, match="may not acknowledge"):
        client.ask("acknowledge", command_id="01a1fc7b-353d-7002-a243-a3831a9928e5")
