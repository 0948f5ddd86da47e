"""A real worker and real servers: registered, reporting, READY, and back after whatever happens to the server."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from nanny.protocol.messages import Registered, Registration, Role, WorkerReport
from server_stub.config import ServerConfig
from server_stub.main import running
from tests.support.agent_process import Agent, running_agent
from tests.support.link_server import Disconnected, LinkServer, link_server
from tests.support.server_peers import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_behind")]


@asynccontextmanager
async def stub(folder: Path, port: int = 0) -> AsyncIterator[Client]:
    settings: dict[str, Any] = {"probe_interval_s": 0.5, "probe_budget_s": 2.0, "probe_try_timeout_s": 1.0}
    settings |= {"report_interval_s": 0.5, "log_level": "error"}
    config = ServerConfig(port=port, database=str(folder / "server.sqlite3"), **settings)
    async with running(config) as server, aiohttp.ClientSession() as http:
        yield Client(server.url, http)


async def the_node(client: Client, state: str) -> Any:
    async with asyncio.timeout(30.0):
        while not (nodes := (await client.get("/v1/nodes"))["nodes"]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the list of nodes cannot be waited for
    return await client.node_in(state, nodes[0]["name"])


async def test_a_worker_registers_reports_is_ready_and_says_goodbye(tmp_path: Path) -> None:
    async with stub(tmp_path) as client:
        with running_agent(server_url=client.url, node_name="node-7", labels="rack=r1") as agent:
            page = await the_node(client, "READY")
            ready = await asyncio.to_thread(agent.answers, "/readyz", 200)
            agent.process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(agent.process.wait_for_exit, 20.0)

            assert page["name"] == "node-7"
            assert page["labels"] == {"rack": "r1"}
            assert page["capacity"]["cpus"] >= 1
            assert ready.body == "ok"
            assert status == 0
            assert agent.logged("the agent has ended in order")


async def test_a_worker_outlives_its_server_and_finds_it_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        async with stub(tmp_path) as client:
            port = int(client.url.rpartition(":")[2])
            agent = stack.enter_context(running_agent(server_url=client.url))
            await the_node(client, "READY")
        await asyncio.to_thread(agent.answers, "/readyz", 503)
        assert (await asyncio.to_thread(agent.get, "/healthz")).status == 200
        async with stub(tmp_path, port) as client:
            await asyncio.to_thread(agent.answers, "/readyz", 200)
            await the_node(client, "READY")


@pytest.fixture
def server() -> Iterator[LinkServer]:
    with link_server(role=Role.WORKER) as started:
        yield started


@pytest.fixture
def agent(server: LinkServer) -> Iterator[Agent]:
    with running_agent(server_url=server.url) as started:
        yield started


def test_reports_carry_the_node_and_come_at_the_servers_interval_and_on_change(
    leaves_nothing_behind: None, server: LinkServer, agent: Agent
) -> None:
    registration = server.expect(Registration)
    server.send(Registered("node"))
    full = server.expect(WorkerReport, lambda report: "busy_ratio" in report.telemetry["host"].get("cpu", {}))
    later = [server.expect(WorkerReport) for _ in range(3)]

    assert registration.addresses == ("127.0.0.1",)
    assert registration.healthz_port == agent.address[1]
    assert full.telemetry["host"]["memory"]["total_bytes"] > 0
    assert full.telemetry["disks"]["mounts"]["/"]["total_bytes"] > 0
    assert "gpu" not in full.telemetry or full.telemetry["gpu"]["devices"]
    assert [report.seq for report in later] == sorted(report.seq for report in later)
    assert {condition.type for condition in later[-1].conditions} >= {"ProbeResidue", "DiskPressure"}


def test_the_loops_worst_lag_between_two_reports_is_in_the_second(
    leaves_nothing_behind: None, server: LinkServer, agent: Agent
) -> None:
    server.expect(WorkerReport)
    agent.order("block 1.5")

    late = server.expect(WorkerReport, lambda report: report.loop_lag_s > 1.0)
    after = server.expect(WorkerReport)
    assert late.loop_lag_s < 10.0
    assert after.loop_lag_s < late.loop_lag_s


def test_a_server_that_crashes_again_and_again_and_forgets_all_is_found_each_time(
    leaves_nothing_behind: None, server: LinkServer, agent: Agent
) -> None:
    for _ in range(5):
        server.expect(Registration)
        server.send(Registered("node"))
        server.expect(WorkerReport)
        agent.answers("/readyz", 200)
        server.stop()
        server.expect(Disconnected)
        agent.answers("/readyz", 503)
        server.start(forget_session=True)

    server.expect(Registration)
    assert agent.get("/healthz").json["status"] == "ok"
    assert agent.process.popen.poll() is None
