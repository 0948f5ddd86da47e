"""Design 5.7, the fallback responder, end to end: a new connection is answered in every state of the worker.

Its finer points have tests of their own beside nanny/fallback_responder.py.
"""

import json
import os
import signal
import threading
import time
from contextlib import suppress

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import RealNanny

from .test_06_listening_socket import ANSWERS, SERVES, get

MARGIN_S = 3.0
"""Of a busy machine; the promise is 1.1 s."""


def words(told: bytes) -> dict:  # type: ignore[type-arg]
    head, _, body = told.partition(b"\r\n\r\n")
    assert b" 503 " in head.splitlines()[0]
    spoken: dict = json.loads(body)  # type: ignore[type-arg]
    return spoken


def test_without_a_worker_the_nanny_answers_in_its_own_words(node: RealNanny) -> None:
    node.start(ANSWERS, "--port=0")
    status = node.wait_for_phase("running")
    node.order("stop")
    began = time.monotonic()
    said = words(get(status["healthz"]))
    assert time.monotonic() - began < 1.1 + MARGIN_S
    assert (said["status"], said["phase"], said["desired"]["value"]) == ("fallback", "down", "down")
    assert "stopped by tester" in " ".join(said["because"])


def is_spoken_for(address: str) -> bool:
    with suppress(TimeoutError):
        return get(address, 3.0).startswith(b"HTTP")
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["holds the GIL", "is stopped", "never accepts"])
def test_a_worker_that_does_not_accept_is_spoken_for(node: RealNanny, how: str) -> None:
    program = {
        "holds the GIL": SERVES
        + "import ctypes\nthreading.Thread(target=serve, daemon=True).start()\ntell('READY=1\\nWATCHDOG=1')\n"
        + "time.sleep(0.5)\nctypes.PyDLL(None).sleep(600)",
        "is stopped": ANSWERS,
        "never accepts": SERVES + "beat_for_ever()",
    }[how]
    node.start(program, "--port=0", "--heartbeat=ready")
    status = node.wait_for_phase("running")
    if how == "is stopped":
        os.kill(status["worker"]["pid"], signal.SIGSTOP)
    # What the worker accepted before it stood still is its own for ever.
    wait_until(lambda: is_spoken_for(status["healthz"]), 30, "the first answer of the nanny")
    for _ in range(3):
        began = time.monotonic()
        said = words(get(status["healthz"]))
        assert time.monotonic() - began < 1.1 + MARGIN_S
        assert said["status"] == "fallback"
    assert node.status()["worker"]["pid"] == status["worker"]["pid"], "answering for it is no verdict"


@pytest.mark.slow
def test_a_living_worker_is_never_robbed_of_a_connection(node: RealNanny) -> None:
    node.start(ANSWERS, "--port=0")
    status = node.wait_for_phase("running")
    wait_until(lambda: get(status["healthz"]).startswith(b"worker"), 10, "the worker to answer")
    answers = [get(status["healthz"]) for _ in range(500)]
    assert set(answers) == {b"worker %d" % status["worker"]["pid"]}
    assert node.status()["counters"]["fallback_answers_total"] == 0


@pytest.mark.slow
def test_no_connection_is_refused_over_restarts(node: RealNanny) -> None:
    node.start(ANSWERS, "--port=0")
    status = node.wait_for_phase("running")
    refused: list[str] = []
    answered = 0
    ends = threading.Event()

    def ask() -> None:
        nonlocal answered
        while not ends.is_set():
            try:
                get(status["healthz"])
                answered += 1
            except ConnectionRefusedError as error:
                refused.append(str(error))
            except OSError:
                pass  # accepted by a worker that then died
            time.sleep(0.002)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(10):
            os.kill(node.wait_for_phase("running")["worker"]["pid"], signal.SIGKILL)
            node.order("clear")
            status = node.wait_for_next(status)
    finally:
        ends.set()
        asker.join()
    assert refused == []
    assert answered > 10
