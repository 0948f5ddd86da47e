"""A real server in this process, on a database of its own, with intervals short enough for tests.

The database is a SQLite file, unless a test asks for both kinds with
`pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)`.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from server_stub.config import ServerConfig
from server_stub.main import running
from server_stub.store.engine import Database, sqlite_url
from tests.support import postgres
from tests.support.server_peers import Client, Healthz, Peer, healthz_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from nanny.protocol.messages import Role
    from server_stub.main import RunningServer

    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[postgres.Cluster]:
    """A private PostgreSQL for all tests that want one."""
    if postgres.installed() is None:
        pytest.skip(f"PostgreSQL {postgres.OLDEST} or newer is not installed: make system-deps")
    with postgres.running_cluster() as cluster:
        asyncio.run(postgres.make_databases(cluster))
        yield cluster


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the server's tables, to be copied: that costs a tenth of making them."""
    path = tmp_path_factory.mktemp("template") / "server.sqlite3"

    async def make() -> None:
        await (await Database.open(sqlite_url(str(path)))).close()

    asyncio.run(make())
    return path


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def cluster(request: pytest.FixtureRequest, database_kind: str) -> postgres.Cluster | None:
    """The PostgreSQL of a test that runs on one."""
    return request.getfixturevalue("postgres_cluster") if database_kind == "postgresql" else None


@pytest.fixture
def copied_sqlite(sqlite_template: Path, tmp_path: Path) -> Path:
    """This test's own SQLite file."""
    return shutil.copyfile(sqlite_template, tmp_path / "server.sqlite3")


@pytest.fixture
async def database_url(cluster: postgres.Cluster | None, copied_sqlite: Path) -> str:
    """A database of this test's alone, with the server's tables and no rows."""
    return sqlite_url(str(copied_sqlite)) if cluster is None else await cluster.emptied(postgres.SERVED)


@pytest.fixture
def serve(database_url: str) -> Serve:
    """Start a server on this test's database; its settings may be changed by name."""

    @asynccontextmanager
    async def start(clock: Any = None, **changed: Any) -> AsyncIterator[RunningServer]:
        settings: dict[str, Any] = {
            "port": 0,
            "database": database_url,
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
