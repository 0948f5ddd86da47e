"""Design 5.6, the listening socket is the nanny's: the port outlives every worker and every nanny.

Workers here accept on descriptor 3, as LISTEN_FDS says.
"""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny

SERVES = (
    PRELUDE
    + """
import threading
assert (os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"]) == ("1", str(os.getpid()))
listener = socket.socket(fileno=3)
def serve():
    listener.setblocking(True)
    while True:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"worker %d" % os.getpid())
        connection.close()
"""
)
ANSWERS = SERVES + "threading.Thread(target=serve, daemon=True).start()\nbeat_for_ever()"


def get(address: str, timeout_s: float = 10.0) -> bytes:
    """Everything that a new connection is told."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        told = b""
        while chunk := connection.recv(65536):
            told += chunk
        return told


def answered_by_worker(status: dict) -> bool:  # type: ignore[type-arg]
    return get(status["healthz"]) == b"worker %d" % status["worker"]["pid"]


def test_the_port_stays_over_worker_restarts_and_the_death_of_the_nanny(node: RealNanny) -> None:
    node.start(ANSWERS, "--port=0")
    first = node.wait_for_phase("running")
    wait_until(lambda: answered_by_worker(first), 10, "the worker to answer")
    os.kill(first["worker"]["pid"], signal.SIGKILL)
    second = node.wait_for_next(first)
    assert second["healthz"] == first["healthz"]
    wait_until(lambda: answered_by_worker(second), 10, "the next worker to answer")
    # Got back from the adopted worker: nobody else has it.
    node.kill()
    assert answered_by_worker(second), "a dead nanny is no reason to be unreachable"
    node.start(ANSWERS, "--port=0")
    third = node.wait_for_phase("running")
    assert third["healthz"] == first["healthz"]
    # More than once: the blocking accept of this worker is not to be broken by our O_NONBLOCK.
    for _ in range(5):
        assert answered_by_worker(third)
    assert third["conditions"] == []


def test_a_port_that_is_taken_is_a_condition_and_tried_again(node: RealNanny) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        node.start(PRELUDE + "beat_for_ever()", f"--port={port}")
        status = node.wait_for_phase("running")
        assert [one["type"] for one in status["conditions"]] == ["HealthSocketLost"]
        assert str(port) in status["conditions"][0]["message"]
    assert node.order("restart")["outcome"] == "done"
    after = node.wait_for(lambda status: status["conditions"] == [], "the condition to go")
    assert after["healthz"] == f"127.0.0.1:{port}"


def test_a_listener_that_another_holder_shut_down_is_bound_anew_and_said(node: RealNanny) -> None:
    program = (
        SERVES
        + """
os.makedirs(sys.argv[1], exist_ok=True)
if not os.listdir(sys.argv[1]):
    open(sys.argv[1] + "/once", "w").close()
    listener.shutdown(socket.SHUT_RDWR)
else:
    threading.Thread(target=serve, daemon=True).start()
beat_for_ever()
"""
    )
    import sys

    argv = (sys.executable, "-I", "-S", "-c", program, str(node.directory / "marks"))
    node.start(argv, "--port=0")
    status = node.wait_for(
        lambda status: "HealthSocketLost" in {one["type"] for one in status["conditions"]}, "the loss"
    )
    assert "503" in get(status["healthz"]).decode(), "our own words, in the worker's stead"
    assert node.order("restart")["outcome"] == "done"
    after = node.wait_for_next(status)
    assert after["conditions"] == []
    assert after["healthz"] == status["healthz"]
    wait_until(lambda: answered_by_worker(node.status()), 10, "the next worker to answer")


def test_a_socket_unit_is_taken_up(node: RealNanny) -> None:
    with socket.socket() as unit:
        unit.bind(("127.0.0.1", 0))
        unit.listen()
        port = unit.getsockname()[1]

        # LISTEN_PID has to be the nanny's own, as systemd sets it: through a shell that execs.
        command = node.command(ANSWERS)
        script = 'export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=healthz; exec "$@"'
        node.command = lambda *_: ["/bin/sh", "-c", script, "sh", *command]  # type: ignore[method-assign]
        fd = unit.fileno()
        node.start(wait=False, preexec_fn=lambda: os.dup2(fd, 3), pass_fds=(3,))
        node.wait_until_it_answers()
        status = node.wait_for_phase("running")
        assert status["healthz"] == f"127.0.0.1:{port}"
        wait_until(lambda: answered_by_worker(status), 10, "the worker to answer")


def test_a_stored_listener_at_an_address_that_was_left_is_not_kept(node: RealNanny) -> None:
    """As systemd hands it back at a restart of the unit for which the settings were changed."""
    with socket.socket() as stored, socket.socket() as wanted:
        for one in (stored, wanted):
            one.bind(("127.0.0.1", 0))
        stored.listen()
        port = wanted.getsockname()[1]
        wanted.close()
        command = node.command(ANSWERS, f"--port={port}")
        script = 'export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=healthz; exec "$@"'
        node.command = lambda *_: ["/bin/sh", "-c", script, "sh", *command]  # type: ignore[method-assign]
        fd = stored.fileno()
        node.start(wait=False, preexec_fn=lambda: os.dup2(fd, 3), pass_fds=(3,))
        node.wait_until_it_answers()
        assert node.wait_for_phase("running")["healthz"] == f"127.0.0.1:{port}"


@pytest.mark.parametrize("what", ["file", "closed listener"])
def test_an_inherited_descriptor_that_is_no_listener_costs_no_start(node: RealNanny, what: str) -> None:
    with socket.socket() as unit, open("/dev/null") as file:
        unit.bind(("127.0.0.1", 0))
        fd = file.fileno() if what == "file" else unit.fileno()
        command = node.command(ANSWERS, "--port=0")
        script = 'export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=healthz; exec "$@"'
        node.command = lambda *_: ["/bin/sh", "-c", script, "sh", *command]  # type: ignore[method-assign]
        node.start(wait=False, preexec_fn=lambda: os.dup2(fd, 3), pass_fds=(3,))
        node.wait_until_it_answers()
        status = node.wait_for_phase("running")
        wait_until(lambda: answered_by_worker(status), 10, "the worker to answer on another one")


def test_a_listener_of_the_workers_own_is_not_taken_for_ours(node: RealNanny) -> None:
    """A nanny without a port started it; the next nanny has one, and the worker's descriptor 3 is its own."""
    own = (
        PRELUDE
        + "_notify = _notify.dup(); own = socket.create_server(('127.0.0.1', 0))\n"
        + "os.dup2(own.fileno(), 3); beat_for_ever()"
    )
    node.start(own)
    node.wait_for_phase("running")
    node.kill()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node.start(own, f"--port={port}")
    status = node.wait_for_phase("running")
    assert status["healthz"] == f"127.0.0.1:{port}"


def test_the_worker_inherits_listener_stacks_and_output_and_nothing_else(node: RealNanny) -> None:
    node.start("import time; time.sleep(600) # _notify", "--heartbeat=none", "--port=0")
    status = node.wait_for_phase("running")
    wait_until(lambda: node.workers() == [status["worker"]["pid"]], 10, "the worker's exec")
    folder = Path(f"/proc/{status['worker']['pid']}/fd")
    held = {int(path.name): os.readlink(path) for path in folder.iterdir()}
    assert set(held) == {0, 1, 2, 3, 4}
    assert held[0] == "/dev/null"
    assert held[1] == held[2] == str(node.runtime_dir / "output.fifo")
    assert held[3].startswith("socket:")
    assert held[4].startswith("/memfd:stacks-")
