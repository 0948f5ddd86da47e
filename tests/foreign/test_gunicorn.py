"""gunicorn under `nanny run`: who is the main process, who beats, what a hang of the worker's loop leads to."""

import functools
import http.client
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.foreign_programs import (
    GUNICORN,
    GUNICORN_WITH_VITALS,
    START_TIMEOUT_S,
    ForeignProgram,
    are_gone,
    children,
    kill,
    nannyctl,
    running_program,
    wait_for_beats,
    wait_for_next,
)
from tests.support.nodes import RunningNanny
from tests.support.processes import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]


@pytest.fixture(params=[GUNICORN, GUNICORN_WITH_VITALS], ids=lambda one: one.name)
def program(request: pytest.FixtureRequest) -> ForeignProgram:
    """As its own README says, and with our hooks."""
    chosen: ForeignProgram = request.param
    return chosen


@pytest.fixture
def node(leaves_nothing_behind: None) -> Iterator[RunningNanny]:
    with running_program(GUNICORN_WITH_VITALS) as made:
        yield made


def ask(node: RunningNanny, path: str = "/", timeout_s: float = 10.0) -> tuple[int, str]:
    """Ask gunicorn, or whoever answers in its place, on the port that the nanny holds."""
    host, _, port = str(node.status()["healthz"]).rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def served_by(node: RunningNanny, unlike: int = 0) -> int:
    """Wait for an answer of the application; the pid of the worker that gave it."""
    pids: list[int] = []

    def is_served() -> bool:
        with suppress(OSError, http.client.HTTPException):
            code, text = ask(node)
            if code == 200 and int(text) != unlike:
                pids.append(int(text))
        return bool(pids)

    wait_until(is_served, START_TIMEOUT_S, "an answer of the application")
    return pids[0]


def hang(node: RunningNanny, path: str) -> None:
    """Have the application hang; whoever asked waits in vain."""
    with suppress(TimeoutError, OSError, http.client.HTTPException):
        ask(node, path, timeout_s=0.2)


def test_it_serves_on_the_nannys_socket_and_the_supervised_process_is_the_arbiter(
    leaves_nothing_behind: None, program: ForeignProgram
) -> None:
    with running_program(program) as node:
        # The arbiter is ready before it has forked anything: the worker's answer first.
        worker = served_by(node)
        assert children(node.worker_pid) == [worker]


@pytest.mark.parametrize(("path", "reason"), [("/block", "stalled"), ("/gil", "lost")])
def test_a_worker_whose_loop_hangs_is_found_twice_and_replaced_with_its_arbiter(
    node: RunningNanny, path: str, reason: str
) -> None:
    for _ in range(2):
        worker = served_by(node)
        before = wait_for_beats(node)
        hang(node, path)
        after = wait_for_next(node, before)
        assert after["last_restart"]["reason"] == reason
        assert served_by(node) != worker
        gone = {worker, before["worker"]["pid"]}
        wait_until(functools.partial(are_gone, node, gone), 30, "the end of arbiter and worker")
    told = nannyctl(node, "explain")
    assert reason in told
    if reason == "stalled":
        assert "app:app" in told  # where it stood


def test_a_worker_that_dies_alone_is_its_arbiters_business(node: RunningNanny) -> None:
    before = wait_for_beats(node)
    worker = served_by(node)
    kill(worker)
    assert served_by(node, unlike=worker) in children(before["worker"]["pid"])
    # The next one beats too: longer than the nanny would wait for a silent one.
    after = wait_for_beats(node, 15)
    assert after["incarnation"] == before["incarnation"]


def test_a_stopped_arbiter_is_nobodys_concern_while_its_worker_serves(node: RunningNanny) -> None:
    before = wait_for_beats(node)
    kill(before["worker"]["pid"], signal.SIGSTOP)
    served_by(node)
    after = wait_for_beats(node, 15)
    assert (after["incarnation"], after["phase"]) == (before["incarnation"], "running")
    # Alone it can replace nobody: when its worker dies too, the beats end, and both are followed.
    kill(served_by(node))
    assert wait_for_next(node, before)["last_restart"]["reason"] == "lost"
    served_by(node)
