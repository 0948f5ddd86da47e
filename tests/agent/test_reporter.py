"""Reports are sent on change, carry what the kernel log told, and survive a figure that cannot be sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.core.kernel_log import find_incident, parse_record
from agent.identity import find_identity
from agent.registration import RegistrationSource
from agent.reporter import Reporter
from agent.server_dial import Dialler
from agent.server_link import ServerLink
from agent.telemetry.collector import Collector, CollectorConfig
from agent.telemetry.probe_launch import launch_probe_server
from agent.telemetry.probe_pool import ProbePool
from agent.vitals.config import VitalsConfig
from agent.vitals.thread import Vitals, start_vitals
from nanny.common.backoff import Backoff
from nanny.protocol.messages import Registration, Role, WorkerReport
from tests.support.link_server import LinkServer, link_server

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")

XID = b"3,7,1000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."


class Untouched:
    def touch(self) -> None:
        pass


class Oversized(Collector):
    """Gives samples with more figures than a report has room for."""

    async def sample(self) -> dict[str, Any]:
        return await super().sample() | {"oversized": list(range(9000))}


@pytest.fixture
def server(leaves_nothing_behind: None) -> Iterator[LinkServer]:
    with link_server(started=False, role=Role.WORKER) as made:
        made.session_config = type(made.session_config)(report_interval_s=60.0)
        made.start(forget_session=True)
        yield made


@pytest.fixture
def vitals(leaves_nothing_behind: None) -> Iterator[Vitals]:
    started = start_vitals(VitalsConfig())
    yield started
    started.stop()


@asynccontextmanager
async def reporting(
    vitals: Vitals, server: LinkServer, collector: type[Collector] = Collector
) -> AsyncIterator[Reporter]:
    """A reporter whose services run, connected to the server."""
    pool = ProbePool(first=launch_probe_server())
    await pool.start()
    identity = find_identity("node-1", {}, None)
    registration = RegistrationSource(AgentConfig(), identity, None)
    link = ServerLink(
        Dialler(server.url, None, pool, 5.0), identity, registration.registration, Backoff(0.01, 0.02)
    )
    telemetry = collector(CollectorConfig(), pool)
    reporter = Reporter(
        vitals=vitals,
        collector=telemetry,
        registration=registration,
        link=link,
        sample_interval_s=60.0,
        is_supervised_by_nanny=False,
        more_metrics=lambda: "more 1\n",
    )
    runs = (link.run, reporter.run_telemetry, reporter.run_reports)
    tasks = [asyncio.create_task(run(Untouched())) for run in runs]
    try:
        yield reporter
    finally:
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await telemetry.close()
        await pool.close()


async def expect(server: LinkServer, kind: type[Any], where: Any = lambda _: True) -> Any:
    return await asyncio.to_thread(server.expect, kind, where)


async def test_an_incident_in_the_kernel_log_is_reported_at_once(vitals: Vitals, server: LinkServer) -> None:
    record = parse_record(XID)
    assert record is not None
    incident = find_incident(record)
    assert incident is not None
    async with reporting(vitals, server) as reporter:
        await expect(server, Registration)
        await expect(server, WorkerReport, lambda report: "host" in report.telemetry)
        reporter.note(incident)
        report = await expect(server, WorkerReport, lambda report: "incidents" in report.telemetry)

    (told,) = report.telemetry["incidents"]
    assert (told["kind"], told["code"], told["pci_bus_id"], told["pid"]) == ("xid", 79, "0000:3b:00", 1234)


async def test_a_storm_of_incidents_is_a_bounded_report_now_and_then(
    vitals: Vitals, server: LinkServer
) -> None:
    record = parse_record(XID)
    assert record is not None
    incident = find_incident(record)
    assert incident is not None
    async with reporting(vitals, server) as reporter:
        first = await expect(server, WorkerReport)
        for _ in range(5000):
            reporter.note(incident)
        report = await expect(
            server, WorkerReport, lambda report: report.telemetry.get("incidents_total") == 5000
        )

    assert len(report.telemetry["incidents"]) == 16
    assert report.seq - first.seq < 20


async def test_a_figure_that_cannot_be_sent_does_not_silence_the_node(
    vitals: Vitals, server: LinkServer
) -> None:
    async with reporting(vitals, server, Oversized):
        report = await expect(server, WorkerReport, lambda report: "unsendable" in report.telemetry)

    assert report.conditions or report.seq == 1


async def test_ready_is_sampled_and_registered_and_started_is_the_services_word(
    vitals: Vitals, server: LinkServer
) -> None:
    async with reporting(vitals, server) as reporter:
        await expect(server, WorkerReport, lambda report: "host" in report.telemetry)
        before = vitals.snapshot
        reporter.started()
        after = vitals.snapshot

    assert {check.name: check.passed for check in after.readiness} == {"sampled": True, "registered": False}
    assert (before.started, after.started) == (False, True)
    assert after.status_text == "not connected to the server"
    assert "more 1\n" in after.metrics_text
