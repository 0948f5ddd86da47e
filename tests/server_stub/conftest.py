"""A real server in this process, on a file of its own, with intervals short enough for tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from server_stub.config import ServerConfig
from server_stub.main import running
from tests.support.server_peers import Client, Healthz, Peer, healthz_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from nanny.protocol.messages import Role
    from server_stub.main import RunningServer

    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start a server on this test's database; its settings may be changed by name."""

    @asynccontextmanager
    async def start(clock: Any = None, **changed: Any) -> AsyncIterator[RunningServer]:
        settings: dict[str, Any] = {
            "port": 0,
            "database": str(tmp_path / "server.sqlite3"),
            "probe_interval_s": 2.0,
            "probe_budget_s": 0.6,
            "probe_try_timeout_s": 0.3,
            "offline_timeout_s": 10.0,
            "silence_timeout_s": 8.0,
            "hello_timeout_s": 0.5,
            "log_level": "warning",
        }
        async with running(ServerConfig(**(settings | changed)), clock) as server:
            yield server

    return start


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[RunningServer]:
    async with serve() as started:
        yield started


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(server.url, http)


@pytest.fixture
async def peers(server: RunningServer) -> AsyncIterator[Callable[..., Peer]]:
    """Make peers of the server that are disconnected at the end, whatever happens."""
    made: list[Peer] = []

    def make(role: Role, node_id: str = "node-1", number: int | None = 1) -> Peer:
        made.append(Peer(server.url, role, node_id, number))
        return made[-1]

    yield make
    for peer in made:
        await peer.disconnect()


@pytest.fixture
async def healthz() -> AsyncIterator[Healthz]:
    async with healthz_server() as started:
        yield started
