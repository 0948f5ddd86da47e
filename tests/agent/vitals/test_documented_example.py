"""The example in docs/vitals-in-any-program.md is run as it stands there, with a notify socket of the test."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from nanny.protocol.stack_signal import STACKS_FD_VARIABLE
from tests.support.notify_listener import notify_listener
from tests.support.processes import spawn_python, wait_until
from tests.support.vitals_subject import http_get

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_behind")]

PAGE = Path(__file__).parents[3] / "docs" / "vitals-in-any-program.md"


def _example() -> str:
    return PAGE.read_text().partition("```python\n")[2].partition("```")[0]


def test_the_documented_example_starts_beats_answers_and_ends() -> None:
    stacks_fd = os.memfd_create("stacks")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = ("127.0.0.1", free.getsockname()[1])
    try:
        with notify_listener() as supervisor:
            env = os.environ | {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "NOTIFY_SOCKET": supervisor.address,
                "PORT": str(address[1]),
                STACKS_FD_VARIABLE: str(stacks_fd),
            }
            with spawn_python(_example(), env=env, pass_fds=(stacks_fd,)) as program:
                loading = supervisor.hear_until(lambda beat: beat.watchdog)
                ready = supervisor.hear_until(lambda beat: beat.ready)
                health = http_get(address, "/healthz").json
                wait_until(lambda: "queue" in http_get(address, "/healthz").body, 10, "the progress point")
                readyz = http_get(address, "/readyz?verbose").body
                program.send_signal(signal.SIGTERM)
                supervisor.hear_until(lambda beat: beat.stopping)

                assert not loading.ready
                assert ready.status == "serving"
                assert health["status"] == "ok"
                assert readyz == "[+]started ok\n[+]model ok\nreadyz check passed\n"
                assert program.wait_for_exit() == 0
    finally:
        os.close(stacks_fd)
