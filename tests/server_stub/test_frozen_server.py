"""A server that stood still itself (a paused machine, SIGSTOP) takes its own absence for nobody's fault."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from nanny.protocol.messages import Role
from tests.support.server_peers import life, nanny_report
from tests.support.small_fleet import Rack, SmallFleet, commands_in, events_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from server_stub.main import RunningServer

    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "repair": "on",
    "probe_interval_s": 1.0,
    "probe_budget_s": 1.0,
    "probe_try_timeout_s": 0.5,
    "offline_timeout_s": 4.0,
    "silence_timeout_s": 3.0,
    "report_interval_s": 1.0,
    "keepalive_interval_s": 30.0,
    "repair_after_s": 3.0,
    "log_level": "critical",
}
STALLED = {"status": "stalled", "incarnation": str(life(1)), "stalled_at": "pool:acquire:88"}
FROZEN_S = 6.0


def states(told: list[Any]) -> list[tuple[str, str]]:
    return [(data["before"], data["after"]) for _, _, data in told]


async def test_nobody_is_demoted_for_the_servers_own_absence(serve: Serve) -> None:
    fleet = SmallFleet(Rack([f"n{number}" for number in range(5)]))
    await fleet.open()
    try:
        async with serve(**QUICK) as server:
            await fleet.dial(server)
            async with asyncio.timeout(30):
                while server.metrics.value("nodes", state="READY") < 5:  # noqa: ASYNC110  (once a round)
                    await asyncio.sleep(0.05)
            await asyncio.sleep(
                QUICK["offline_timeout_s"] + 1.0
            )  # before that, no silence counts in any case
            before = len(await events_of(server, "node.state"))

            fleet.racks[0].answers_in_s = 0.2  # so that what is due is done before anybody answers
            time.sleep(FROZEN_S)  # noqa: ASYNC251  (the loop is to stand still)
            rounds = server.metrics.value("sync_rounds_total")
            async with asyncio.timeout(30):
                while server.metrics.value("sync_rounds_total") < rounds + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

            assert states((await events_of(server, "node.state"))[before:]) == []
    finally:
        await fleet.close()


async def test_one_stalled_answer_before_a_standstill_restarts_nobody_after_it(serve: Serve) -> None:
    fleet = SmallFleet(Rack(["n0"]))
    await fleet.open()
    well = fleet.racks[0].says
    try:
        async with serve(**QUICK) as server:
            await fleet.dial(server)
            link = fleet.peers[Role.LINK, "n0"]

            async def report() -> None:
                while True:
                    await link.send(nanny_report())
                    await asyncio.sleep(0.5)

            reporting = asyncio.create_task(report())
            await asyncio.sleep(
                QUICK["offline_timeout_s"] + 1.5
            )  # before that, nobody is repaired in any case
            fleet.racks[0].says = STALLED
            async with asyncio.timeout(30):
                while server.repairs.next_step("n0") is None:  # noqa: ASYNC110  (with the next check)
                    await asyncio.sleep(0.01)
            fleet.racks[0].says = well

            fleet.racks[0].answers_in_s = 0.2  # so that what is due is done before anybody answers
            time.sleep(FROZEN_S)  # noqa: ASYNC251
            await asyncio.sleep(2.0)

            reporting.cancel()
            assert await commands_in(server) == []
    finally:
        await fleet.close()
