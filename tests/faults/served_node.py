"""A whole node and its real server: nanny, link and the repository's agent, all through a front that can break.

``serve`` starts the server as an operator would and the node behind a Front; ``Served`` asks the server what it thinks
of the node. The server is a process of the node's token, so that it is swept with it. It judges nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from server_stub.client import RequestFailed, ServerClient
from tests.faults import fault_makers as make
from tests.faults.hostile_servers import front
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.fault_node import FaultNode
    from tests.faults.hostile_servers import Front

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


class Server:
    """The real server, a process of a node's token; it keeps port and database over its restarts.

    Attributes:
        port: 0 before the first start.
    """

    def __init__(self, node: FaultNode) -> None:
        self.port = 0
        self._node = node
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait for its port."""
        directory = self._node.directory
        port_file = directory / "server-port"
        port_file.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "server_stub.cli", "serve"]
        argv += [f"--port={self.port}", f"--port-file={port_file}", f"--data-dir={directory}"]
        with open(directory / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                argv, env=self._node.environment() | _SERVER, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(
            lambda: port_file.exists() and port_file.read_text().strip(), PATIENCE_S, "the server's port"
        )
        self.port = int(port_file.read_text())

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    @property
    def pid(self) -> int:
        """Of the one that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


def link_flags(url: str) -> tuple[str, str]:
    """A link that dials this address, as a child of the nanny."""
    return "--link=child", f"--link-environment={json.dumps(_LINK | {'LINK_SERVER_URL': url})}"


class Served:
    """A node with its server.

    Attributes:
        server: as it is.
        front: what link and worker dial.
        client: asks the server directly.
    """

    def __init__(self, node: FaultNode, server: Server, broken: Front) -> None:
        self.node = node
        self.server = server
        self.front = broken
        self.client = ServerClient(server.url)

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
        return ["--port=0", *link_flags(self.front.url), environment]


def is_heard(page: dict[str, Any]) -> bool:
    """Whether both of the node's connections are open."""
    connections = list(page["connections"].values())
    return len(connections) == 2 and all(one is not None and one["is_open"] for one in connections)


@contextmanager
def serve(node: FaultNode, **settings: object) -> Iterator[Served]:
    """A server and a node that it sees as READY, for the length of the block."""
    with Server(node) as server, front(server.port) as broken:
        served = Served(node, server, broken)
        command, _ = make.own_agent(node)
        # What is slow to start is told off for it by nobody: these nodes import much, and together.
        relaxed = {"heartbeat_timeout_s": 3.0, "stall_timeout_s": 3.0} | settings
        node.begin(command, *served.settings(), **relaxed)
        served.until_whole()
        yield served
        node.stop()
