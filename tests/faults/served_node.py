"""A whole node and its real server: nanny, link and the repository's agent, all through a front that can break.

``serve`` starts the server as an operator would and the node behind a Front; ``Served`` asks the server what it thinks
of the node. The server is a process of the node's token, so that it is swept with it. It judges nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from server_stub.client import RequestFailed, ServerClient
from tests.faults import fault_makers as make
from tests.faults.hostile_servers import Front
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.fault_node import FaultNode

PATIENCE_S = 40.0
NODE_NAME = "tested"
_SERVER = {
    "SERVER_PROBE_INTERVAL_S": "1",
    "SERVER_PROBE_BUDGET_S": "1",
    "SERVER_PROBE_TRY_TIMEOUT_S": "0.5",
    "SERVER_OFFLINE_TIMEOUT_S": "20",
    "SERVER_SILENCE_TIMEOUT_S": "2",
    "SERVER_KEEPALIVE_INTERVAL_S": "0.5",
    "SERVER_REPORT_INTERVAL_S": "0.5",
}
_LINK = {"LINK_BACKOFF_BASE_S": "0.05", "LINK_BACKOFF_CEILING_S": "0.3", "LINK_CONNECT_TIMEOUT_S": "1"}
_AGENT = {"reconnect_initial_s": "0.05", "reconnect_ceiling_s": "0.3", "connect_timeout_s": "1"}


class Served:
    """A node with its server.

    Attributes:
        client: asks the server directly.
        front: what link and worker dial.
    """

    def __init__(self, node: FaultNode) -> None:
        self.node = node
        self.port = 0
        self._server: subprocess.Popen[bytes] | None = None
        self.start_server()
        self.client = ServerClient(f"http://127.0.0.1:{self.port}")
        self.front = Front(self.port)

    def start_server(self) -> None:
        """Start it, on the port that it had before, with the database that it had before."""
        port_file = self.node.directory / "server-port"
        port_file.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "server_stub.cli", "serve", f"--port={self.port}", f"--port-file={port_file}", f"--data-dir={self.node.directory}"]  # fmt: skip
        with open(self.node.directory / "server.log", "ab") as log:
            self._server = subprocess.Popen(
                argv, env=self.node.environment() | _SERVER, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(
            lambda: port_file.exists() and port_file.read_text().strip(), PATIENCE_S, "the server's port"
        )
        self.port = int(port_file.read_text())

    @property
    def server_pid(self) -> int:
        """Of the server that runs now."""
        assert self._server is not None
        return self._server.pid

    def kill_server(self) -> None:
        """SIGKILL."""
        assert self._server is not None
        self._server.kill()
        self._server.wait(PATIENCE_S)

    def close(self) -> None:
        """End server and front."""
        self.front.close()
        self.kill_server()

    def page(self) -> dict[str, Any] | None:
        """The node as the server lists it; None while it doesn't know it, or doesn't answer."""
        try:
            nodes = self.client.get("v1", "nodes")["nodes"]
        except (RequestFailed, OSError):
            return None
        return next((dict(one) for one in nodes if one["name"] == NODE_NAME), None)

    def until(self, holds: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until the server's page is so, and give it."""
        last: list[dict[str, Any] | None] = [None]

        def looked() -> bool:
            last[0] = self.page()
            return last[0] is not None and bool(holds(last[0]))

        try:
            wait_until(looked, PATIENCE_S, what)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{json.dumps(last[0])[:2000]}\n{self.node.log()[-2000:]}"
            ) from None
        assert last[0] is not None
        return last[0]

    def until_whole(self) -> dict[str, Any]:
        """Wait until the server hears link and worker, and thinks of the node what the node does."""
        incarnation = self.node.status()["incarnation"]
        return self.until(
            lambda page: page["state"] == "READY" and page["incarnation"] == incarnation and is_heard(page),
            f"READY of {incarnation}, with both connections",
        )

    def settings(self) -> list[str]:
        """The flags with which this node's nanny is started."""
        _, environment = make.own_agent(self.node, server_url=self.front.url, **_AGENT)
        link = _LINK | {"LINK_SERVER_URL": self.front.url}
        return ["--port=0", "--link=child", f"--link-environment={json.dumps(link)}", environment]


def is_heard(page: dict[str, Any]) -> bool:
    """Whether both of the node's connections are open."""
    connections = list(page["connections"].values())
    return len(connections) == 2 and all(one is not None and one["is_open"] for one in connections)


@contextmanager
def serve(node: FaultNode, **settings: object) -> Iterator[Served]:
    """A server and a node that it sees as READY, for the length of the block."""
    served = Served(node)
    try:
        command, _ = make.own_agent(node)
        # What is slow to start is told off for it by nobody: these nodes import much, and together.
        relaxed = {"heartbeat_timeout_s": 3.0, "stall_timeout_s": 3.0} | settings
        node.begin(command, *served.settings(), **relaxed)
        served.until_whole()
        yield served
        node.stop()
    finally:
        served.close()
