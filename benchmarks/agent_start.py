"""From the agent's spawn to its first /livez 200, to READY=1, and to its registration, without a nanny.

The listening socket is inherited, as from the nanny; SIGKILL between the rounds.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.asking import ask_until
from benchmarks.figures import Effort, Figure, measured
from benchmarks.processes import clean_environment, marked
from tests.support.notify_listener import notify_listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BIN = Path(sys.executable).parent


def measure(effort: Effort) -> Iterator[Figure]:
    """With a server to register at."""
    with tempfile.TemporaryDirectory(prefix="ws") as folder:
        port_file = Path(folder, "port")
        server = [
            str(_BIN / "server-stub"),
            "--port",
            "0",
            "--port-file",
            str(port_file),
            "--data-dir",
            folder,
        ]
        with marked(server):
            until = time.monotonic() + 30
            while not (port_file.exists() and port_file.read_text().strip()):
                if time.monotonic() > until:
                    raise TimeoutError("the server does not start")
                time.sleep(0.02)
            yield from _measured(f"http://127.0.0.1:{port_file.read_text().strip()}", effort.count(20, 4))


def _measured(url: str, rounds: int) -> Iterator[Figure]:
    answered, ready, registered, ended = [], [], [], []
    with notify_listener() as supervisor, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        address = listener.getsockname()
        environ = clean_environment() | {"NOTIFY_SOCKET": supervisor.address, "AGENT_SERVER_URL": url}
        for number in range(rounds):
            supervisor.skip()
            began_at = time.monotonic()
            worker = _spawn(listener, environ)
            try:
                answered.append(ask_until(address, "200", "/livez") - began_at)
                supervisor.hear_until(lambda beat: beat.ready)
                ready.append(time.monotonic() - began_at)
                registered.append(ask_until(address, "200", "/readyz") - began_at)
                if number % 4 == 3:
                    began_at = time.monotonic()
                    worker.send_signal(signal.SIGTERM)
                    worker.wait(20)
                    ended.append(time.monotonic() - began_at)
            finally:
                worker.kill()
                worker.wait()
    yield measured("agent alone: spawn -> /livez 200", "ms", answered, 1e3)
    yield measured("agent alone: spawn -> READY=1", "ms", ready, 1e3)
    yield measured("agent alone: spawn -> registered", "ms", registered, 1e3)
    yield measured("agent alone: SIGTERM -> exit", "ms", ended, 1e3)


def _spawn(listener: socket.socket, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    fd = listener.fileno()
    program = shutil.which("node-agent", path=str(_BIN)) or "node-agent"
    return subprocess.Popen(
        ["/bin/sh", "-c", 'export LISTEN_PID=$$; exec "$0" "$@"', program],
        env={**environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "healthz"},
        pass_fds=(3,),
        preexec_fn=lambda: os.dup2(fd, 3),  # noqa: PLW1509  # no threads here
        stderr=subprocess.DEVNULL,
    )
