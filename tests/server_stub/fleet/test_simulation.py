"""Small simulations against a real server over real sockets: what nodes do is what the server says of them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from server_stub.client import ServerClient
from server_stub.fleet.conductor import Moment, Results, conduct
from server_stub.fleet.plan import Behaviour, FleetPlan, MassFailure, Some, share_of
from server_stub.fleet.server_process import ServerProcess, settings_for
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

QUICK = {
    "SERVER_PROBE_INTERVAL_S": "1",
    "SERVER_PROBE_BUDGET_S": "1",
    "SERVER_PROBE_TRY_TIMEOUT_S": "0.4",
}
LIMIT_S = 120.0
MARK = "FLEET_TEST_MARK"


def planned(**changed: Any) -> FleetPlan:
    fields: dict[str, Any] = {"nodes": 60, "connected": 20, "processes": 2, "seconds": LIMIT_S}
    plan = FleetPlan(**(fields | changed))
    # What a connected node's nanny says of it is another story than its probe's.
    seeds = (
        seed
        for seed in range(1000)
        if not _misbehaving_are_connected(FleetPlan(**(fields | changed), seed=seed))
    )
    return FleetPlan(**(fields | changed), seed=next(seeds)) if plan.misbehaving else plan


def _misbehaving_are_connected(plan: FleetPlan) -> bool:
    nodes = [node for number in range(plan.processes) for node in share_of(plan, number)]
    return any(node.is_connected for node in nodes if node.behaviour is not Behaviour.HEALTHY)


def simulate(plan: FleetPlan, cue: Any) -> Results:
    with ServerProcess({**settings_for(plan), **QUICK}) as server:
        return asyncio.run(conduct(plan, server, cue=cue))


def test_a_mass_failure_and_a_mass_return_show_in_the_servers_words(leaves_nothing_behind: None) -> None:
    plan = planned(
        misbehaving={
            Behaviour.STALLED: Some(2),
            Behaviour.REFUSING: Some(3),
            Behaviour.SILENT: Some(1),
            Behaviour.SLOW: Some(2, 0.1),
        },
        failure=MassFailure(0.0, 15),
    )
    seen: list[str] = []

    def cue(moment: Moment) -> str | None:
        """The plan fails them at once; they come back when the server has said so."""
        words = {word: number for word, number in moment.words.items() if number}
        if not seen and words == {"UNREACHABLE": 4 + 15, "STALLED": 2, "READY": 39}:
            seen.append("failed")
            return "return"
        if (
            seen == ["failed"]
            and words == {"UNREACHABLE": 4, "STALLED": 2, "READY": 54}
            and moment.connections == 40
        ):
            seen.append("returned")
            return "end"
        return None

    results = simulate(plan, cue)
    last = results.moments[-1]
    assert seen == ["failed", "returned"], (last, results.failures)
    assert results.probes > 60
    assert results.reports > 0
    assert results.checks["ok"] > 0
    assert results.checks["refused"] >= 3 + 15
    assert results.checks["503-stalled"] >= 2
    assert results.checks["timeout"] >= 1
    assert results.server_cpu_s is not None
    assert results.server_cpu_s > 0


def test_nodes_that_are_known_from_before_are_probed_and_nothing_is_written(
    leaves_nothing_behind: None,
) -> None:
    quiet: list[float] = []

    def cue(moment: Moment) -> str | None:
        quiet.append(moment.probes_per_s)
        return "end" if len(quiet) >= 3 and sum(quiet) > 120 else None

    results = simulate(planned(connected=0, are_known=True), cue)
    assert {word: number for word, number in results.words.items() if number} == {"READY": 60}
    assert results.rows_written == 0


def test_nodes_that_restart_or_come_and_go_register_as_new_lives(leaves_nothing_behind: None) -> None:
    plan = planned(
        nodes=20,
        connected=0,
        misbehaving={Behaviour.RESTARTING: Some(2, 2.0), Behaviour.CHURNING: Some(1, 8.0)},
    )
    seen: dict[str, bool] = {"gone": False, "back": False}
    with ServerProcess({**settings_for(plan), **QUICK}) as server:
        lives: dict[str, set[str]] = {}

        def cue(moment: Moment) -> str | None:
            for node in ServerClient(server.url).get("v1", "nodes")["nodes"]:
                lives.setdefault(node["id"], set()).add(node["incarnation"])
            unreachable = moment.words.get("UNREACHABLE", 0)
            seen["gone"] |= unreachable > 0
            seen["back"] |= seen["gone"] and unreachable == 0 and not moment.words.get("PENDING")
            return "end" if all(seen.values()) and _several(lives) == 3 else None

        asyncio.run(conduct(plan, server, cue=cue))
    assert seen == {"gone": True, "back": True}
    assert _several(lives) == 3


def _several(lives: dict[str, set[str]]) -> int:
    return sum(len(found) > 1 for found in lives.values())


def test_an_order_to_restart_is_carried_out_by_a_connected_node(leaves_nothing_behind: None) -> None:
    plan = planned(nodes=4, connected=4, processes=1)
    commands: list[dict[str, Any]] = []
    with ServerProcess({**settings_for(plan), **QUICK}) as server:

        def cue(_: Moment) -> str | None:
            client = ServerClient(server.url)
            if not commands:
                order = {
                    "kind": "restart",
                    "reason": "a test",
                    "actor": "tester",
                    "time_to_live_s": 60.0,
                    "target_incarnation": "current",
                }
                commands.append(client.post("v1", "nodes", "sim-000002", "commands", body=order))
                return None
            commands.append(client.get("v1", "commands", commands[0]["id"]))
            return "end" if commands[-1]["is_finished"] else None

        asyncio.run(conduct(plan, server, cue=cue))
    assert commands[-1]["state"] == "done"
    assert commands[-1]["incarnation_after"].endswith("/2")


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment by which everything that a program starts is known; what is left at the end is ended."""
    environ = {**os.environ, **QUICK, "TMPDIR": str(tmp_path), MARK: f"{os.getpid()}-{time.monotonic_ns()}"}
    yield environ
    for pid in _living(environ):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _living(environ: dict[str, str]) -> list[int]:
    wanted = f"{MARK}={environ[MARK]}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_or_killed_it_leaves_no_process(
    signum: signal.Signals, status: int, marked: dict[str, str], leaves_nothing_behind: None
) -> None:
    words = ["--nodes", "10", "--connected", "5", "--processes", "2", "--seconds", "1000", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "server_stub.cli", "simulate", *words],
        env=marked,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as program:
        assert program.stderr is not None
        assert program.stdout is not None
        for line in program.stderr:
            if line.startswith(b"[running"):
                break
        assert len(_living(marked)) == 4, "itself, its server and two processes of the fleet"
        program.send_signal(signum)
        said = program.stdout.read()
        program.stderr.read()
        assert program.wait(60) == status
    wait_until(lambda: not _living(marked), 60.0, "the processes to end")
    if signum is signal.SIGINT:
        found = json.loads(said)
        assert found["plan"]["nodes"] == 10
        assert found["results"]["words"]["READY"] == 10
