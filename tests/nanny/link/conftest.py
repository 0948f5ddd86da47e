"""A node with a real nanny and a real link, and the server that the link speaks with."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.link_server import PATIENCE_S, link_server
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, real_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.link_server import LinkServer
    from tests.support.real_nanny import RealNanny

QUICK_LINK = {"LINK_BACKOFF_BASE_S": "0.05", "LINK_BACKOFF_CEILING_S": "0.2", "LINK_CONNECT_TIMEOUT_S": "5"}


class Node:
    """A real node whose link speaks with the test's server."""

    def __init__(self, nanny: RealNanny, server: LinkServer) -> None:
        self.nanny = nanny
        self.server = server
        self._port_file = nanny.directory / "metrics-port"
        self._link: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, program: str = BEATS) -> None:
        """Start a nanny whose child link is."""
        told = ",".join(f"{name}={value}" for name, value in self.link_environment().items())
        self.nanny.start(program, "--link=child", f"--link-environment={told}", *flags)

    def start_nanny_for_unit(self, *flags: str) -> None:
        """Start a nanny that takes a link of our own user for its link."""
        me = pwd.getpwuid(os.geteuid()).pw_name
        self.nanny.start(BEATS, "--link=unit", f"--link-user={me}", *flags)

    def start_link(self, **environ: str) -> subprocess.Popen[bytes]:
        """Start link as a unit of its own."""
        told = self.link_environment() | {"LINK_CONTROL_SOCKET": self.nanny.control_path}
        with open(self.nanny.log_path, "ab") as log:
            self._link = subprocess.Popen(
                [sys.executable, "-m", "nanny.link.main"],
                env=self.nanny.environment() | told | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self._link

    def link_environment(self) -> dict[str, str]:
        return QUICK_LINK | {
            "LINK_SERVER_URL": self.server.url,
            "LINK_METRICS_PORT": "0",
            "LINK_METRICS_PORT_FILE": str(self._port_file),
        }

    def link_pid(self) -> int:
        """The pid of the link that the nanny has ready."""
        return int(
            self.nanny.wait_for(lambda status: status["link"]["stage"] == "ready", "link")["link"]["pid"]
        )

    def signal_link(self, signum: int) -> int:
        """Signal the present link; give its pid."""
        pid = self.link_pid()
        pidfd = os.pidfd_open(pid)
        try:
            assert self.nanny.status()["link"]["pid"] == pid
            signal.pidfd_send_signal(pidfd, signum)
        finally:
            os.close(pidfd)
        return pid

    def get(self, path: str) -> str:
        port = int(self._port_file.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str) -> float | None:
        """The value of one series, as it is written; None without."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(f"nodenanny_{name} "):
                return float(line.rpartition(" ")[2])
        return None

    def wait_for_metric(self, name: str, value: float) -> None:
        def reached() -> bool:
            with suppress(OSError, ValueError):
                return self.metric(name) == value
            return False

        wait_until(reached, PATIENCE_S, f"{name} {value}")

    def close(self) -> None:
        if self._link is not None:
            self._link.kill()
            self._link.wait(PATIENCE_S)


@pytest.fixture
def server(leaves_nothing_behind: None) -> Iterator[LinkServer]:
    with link_server() as started:
        yield started


@pytest.fixture
def node(server: LinkServer) -> Iterator[Node]:
    with real_node() as nanny:
        made = Node(nanny, server)
        try:
            yield made
        finally:
            made.close()
