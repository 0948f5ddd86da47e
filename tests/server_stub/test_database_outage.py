"""A server whose PostgreSQL goes away and comes back: it says so, loses nothing, and goes on by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from nanny.protocol.messages import CommandOrder, Role
from nanny.protocol.session_events import Established, SessionRefused
from server_stub.store import sightings
from tests.support import postgres
from tests.support.server_peers import Client, Peer, nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from server_stub.main import RunningServer
    from tests.support.server_peers import Healthz

    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0


class Power:
    """A PostgreSQL that is switched off and on; its data stay."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._running = ExitStack()
        self.cluster: postgres.Cluster

    def on(self) -> postgres.Cluster:
        # In this thread: PostgreSQL dies with the thread that started it.
        self.cluster = self._running.enter_context(postgres.running_cluster(self.directory))
        return self.cluster

    def off(self) -> None:
        self._running.close()


@pytest.fixture
def power() -> Iterator[Power]:
    if postgres.installed() is None:
        pytest.skip(f"PostgreSQL {postgres.OLDEST} or newer is not installed: make system-deps")
    directory = tempfile.mkdtemp(prefix="nn-pg-", dir="/tmp")
    os.chmod(directory, 0o755)
    made = Power(directory)
    yield made
    made.off()
    shutil.rmtree(directory)


async def until(server: RunningServer, name: str, at_least: float) -> None:
    """Wait for a counter."""
    async with asyncio.timeout(PATIENCE_S):
        while server.metrics.value(name) < at_least:  # noqa: ASYNC110 (counters tell nobody)
            await asyncio.sleep(0.02)


async def status(http: aiohttp.ClientSession, url: str, method: str = "GET", **more: Any) -> tuple[int, str]:
    async with http.request(method, url, **more) as response:
        content = await response.json(content_type=None)
        return response.status, content.get("type", "")


UNAVAILABLE = (503, "urn:nodenanny:problem:database-unavailable")


async def test_the_server_outlives_its_database(serve: Serve, power: Power, healthz: Healthz) -> None:
    await power.on().execute("CREATE DATABASE server")
    settings = {
        "database": power.cluster.url("server"),
        "probe_interval_s": 0.3,
        "probe_budget_s": 0.2,
        "probe_try_timeout_s": 0.1,
        "offline_timeout_s": 300.0,
        "silence_timeout_s": 200.0,
        "sightings_interval_s": 0.1,
        "log_level": "critical",
    }
    async with serve(**settings) as server, aiohttp.ClientSession() as http:
        client = Client(server.url, http)
        link, worker, stranger = (Peer(server.url, role, node) for role, node in PEERS)
        await link.connect()
        await link.send(nanny_report())
        await worker.connect()
        await worker.send(registration(healthz.port))
        await client.node_in("READY")

        power.off()

        assert await status(http, f"{server.url}/readyz") == UNAVAILABLE
        assert (await status(http, f"{server.url}/livez"))[0] == 200
        assert await status(http, f"{server.url}/v1/events") == UNAVAILABLE
        order = {"kind": "restart", "reason": "test", "actor": "test"}
        assert await status(http, f"{server.url}/v1/nodes/node-1/commands", "POST", json=order) == UNAVAILABLE
        refused = await stranger.connect()
        assert isinstance(refused, SessionRefused), refused
        assert refused.code == "database-unavailable"
        await stranger.disconnect()
        await until(server, "sync_round_failures_total", 2)
        await until(server, "sighting_failures_total", 2)
        assert not server.failed.done()
        assert server.database.failures_total > 0

        power.on()

        async with asyncio.timeout(PATIENCE_S):
            while (await status(http, f"{server.url}/readyz"))[0] != 200:  # noqa: ASYNC110 (nor does readyz)
                await asyncio.sleep(0.02)
        assert isinstance(await stranger.connect(), Established)
        told = await client.order()
        assert (await link.expect(CommandOrder)).command_id == told["id"]
        rounds = server.metrics.value("sync_rounds_total")
        await until(server, "sync_rounds_total", rounds + 2)
        await client.node_in("READY")
        for peer in (link, worker, stranger):
            await peer.disconnect()
        seen_at = server.arrivals.of("node-1").answered_at

    # The last flush, at the shutdown, had all that the outage kept back.
    rows = await power.cluster.execute("SELECT * FROM sightings WHERE node_id = 'node-1'", "server")
    assert seen_at is not None
    assert all(rows[0][name] is not None for name in sightings.Sighting.__slots__)


PEERS = ((Role.LINK, "node-1"), (Role.WORKER, "node-1"), (Role.LINK, "node-2"))


async def test_a_server_does_not_start_without_its_database(serve: Serve, power: Power) -> None:
    from server_stub.main import StartError

    with pytest.raises(StartError, match=r"cannot open the database postgresql://.*") as raised:
        async with serve(database=power_url(power)):
            pass
    assert "s3cret" not in str(raised.value)


def power_url(power: Power) -> str:
    return f"postgresql://server:s3cret@/server?host={power.directory}"


async def test_a_server_stops_in_time_while_its_database_is_away(serve: Serve, power: Power) -> None:
    await power.on().execute("CREATE DATABASE server")
    async with asyncio.timeout(PATIENCE_S):
        async with serve(database=power.cluster.url("server"), log_level="critical") as server:
            server.arrivals.of("node-1").answered_at = 1.0
            power.off()
