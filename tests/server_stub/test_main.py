"""The server as a process: how it starts, what it refuses, what survives SIGKILL, how it goes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    Outcome,
    OutcomeAcknowledged,
    Role,
)
from nanny.protocol.session_events import Established, PeerClosed
from server_stub.metrics import PREFIX
from tests.support.processes import StartedProcess, wait_until
from tests.support.server_peers import Client, Peer, healthz_server, nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_behind")]


class ServerProcess:
    """`server-stub` as an operator starts it, on this test's directory."""

    def __init__(self, started: StartedProcess, port_file: Path, log: Path) -> None:
        self.started = started
        self._port_file = port_file
        self._log = log

    def url(self) -> str:
        wait_until(self._port_file.exists, 30.0, "the port file")
        return f"http://127.0.0.1:{int(self._port_file.read_text())}"

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.started.send_signal(signum)
        return self.started.wait_for_exit(30.0)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@contextmanager
def server_process(directory: Path, *flags: str) -> Iterator[ServerProcess]:
    port_file, log = directory / "port", directory / "log"
    port_file.unlink(missing_ok=True)
    argv = ["--port", "0", "--port-file", str(port_file), "--data-dir", str(directory / "data"), *flags]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SERVER_")}
    with log.open("ab") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-m", "server_stub.cli", *argv],
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environ,
        )
    started = StartedProcess(popen, os.pidfd_open(popen.pid))
    try:
        yield ServerProcess(started, port_file, log)
    finally:
        started.send_signal(signal.SIGKILL)
        popen.wait(10)
        os.close(started.pidfd)


QUICK = (
    "--probe-interval-s=1", "--probe-budget-s=0.5", "--probe-try-timeout-s=0.25", "--offline-timeout-s=20",
    "--silence-timeout-s=15", "--report-interval-s=5",
)  # fmt: skip


async def test_sigkill_loses_no_node_and_no_command(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http, healthz_server() as healthz:
        with server_process(tmp_path, *QUICK) as server:
            client = Client(server.url(), http)
            link, worker = Peer(client.url, Role.LINK), Peer(client.url, Role.WORKER)
            await link.connect()
            await link.send(nanny_report())
            await worker.connect()
            await worker.send(registration(healthz.port))
            await client.node_in("READY")
            done = await client.order("collect-evidence")
            await link.expect(CommandOrder)
            await link.send(CommandOutcome(done["id"], Outcome.DONE, "bundle 1"))
            await link.expect(OutcomeAcknowledged)
            sent = await client.order()
            await link.expect(CommandOrder)
            events_before = (await client.get("/v1/events"))["events"]
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
            await link.disconnect()
            await worker.disconnect()

        with server_process(tmp_path, *QUICK) as server:
            client = Client(server.url(), http)
            page = await client.get("/v1/nodes/node-1")
            commands = {one["id"]: one["state"] for one in (await client.get("/v1/commands"))["commands"]}
            link = Peer(client.url, Role.LINK)
            fresh = await link.connect()
            order = await link.expect(CommandOrder)
            await link.send(CommandAccepted(order.command_id))
            await link.send(CommandOutcome(order.command_id, Outcome.DONE, "restarted"))
            finished = await client.finished(sent["id"])
            events_after = (await client.get("/v1/events"))["events"]
            await link.disconnect()
            assert server.stop() == 0

    assert (page["state"], page["healthz_port"]) == ("READY", healthz.port)
    assert commands == {done["id"]: "done", sent["id"]: "sent"}
    assert isinstance(fresh, Established)
    assert not fresh.resumed
    assert (order.command_id, finished["state"]) == (sent["id"], "done")
    assert events_after[: len(events_before)] == events_before


async def test_sigterm_tells_peers_to_come_back_and_ends_well(tmp_path: Path) -> None:
    async with aiohttp.ClientSession():
        with server_process(tmp_path) as server:
            link = Peer(server.url(), Role.LINK)
            await link.connect()
            server.started.send_signal(signal.SIGTERM)
            closed = await link.expect(PeerClosed)
            assert server.started.wait_for_exit(30.0) == 0
            await link.disconnect()

    assert (closed.code, closed.retry_after_s) == ("shutting-down", 1.0)
    assert not (tmp_path / "port").exists()
    assert server.log()[-1]["event"] == "server has stopped"


async def test_a_waiting_client_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        with server_process(tmp_path) as server:
            client = Client(server.url(), http)
            import asyncio

            waiting = asyncio.create_task(client.get("/v1/events", wait_s=60))
            text = ""
            while f"{PREFIX}waiting_clients 1" not in text:
                async with http.get(f"{client.url}/metrics") as response:
                    text = await response.text()
            server.started.send_signal(signal.SIGTERM)
            assert server.started.wait_for_exit(20.0) == 0
            assert (await waiting)["events"] == []


async def test_a_failed_round_is_one_line_and_the_next_one_runs(tmp_path: Path) -> None:
    with server_process(tmp_path, *QUICK) as server:
        url = server.url()
        with sqlite3.connect(tmp_path / "data" / "server.sqlite3") as database:
            database.execute("ALTER TABLE nodes RENAME TO away")
        wait_until(
            lambda: [line for line in server.log() if line["event"] == "sync round failed"], 30.0, "the line"
        )
        with sqlite3.connect(tmp_path / "data" / "server.sqlite3") as database:
            database.execute("ALTER TABLE away RENAME TO nodes")
        database.close()
        async with aiohttp.ClientSession() as http:
            client = Client(url, http)
            link = Peer(url, Role.LINK)
            await link.connect()
            await link.send(nanny_report("failed"))
            page = await client.node_in("NOT_READY")
            async with http.get(f"{url}/metrics") as response:
                text = await response.text()
            await link.disconnect()
        assert server.stop() == 0

    assert page["state_reason"] == "NannyFailed"
    assert f"{PREFIX}sync_round_failures_total " in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "nodes and clients have no credentials yet"),
        (["--offline-timeout-s", "20"], "at least 40, that is probe_budget_s + 2 x probe_interval_s"),
        (["--probe-intervall-s", "3"], "did you mean --probe-interval-s?"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--config", "/nonexistent.toml"], "a readable file"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(tmp_path: Path, flags: list[str], said: str) -> None:
    with server_process(tmp_path, *flags) as server:
        assert server.started.wait_for_exit(30.0) == 2

    assert said in (tmp_path / "log").read_text()


def test_a_port_that_is_taken_and_a_database_that_cannot_be_are_one_line_each(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        taken = server.url().rpartition(":")[2]
        second = tmp_path / "second"
        second.mkdir()
        with server_process(second, "--port", taken) as other:
            assert other.started.wait_for_exit(30.0) == 1
        third = tmp_path / "third"
        third.mkdir()
        with server_process(third, "--database", "/nonexistent/directory/x.sqlite3") as other:
            assert other.started.wait_for_exit(30.0) == 1
        assert server.stop() == 0

    said = [(second / "log").read_text(), (third / "log").read_text()]
    assert ["Traceback" in text for text in said] == [False, False]
    assert f"cannot listen on 127.0.0.1 port {taken}" in said[0]
    assert "cannot open the database" in said[1]


def test_an_insecure_bind_says_so_in_every_line(tmp_path: Path) -> None:
    with server_process(tmp_path, "--host", "0.0.0.0", "--insecure-bind") as server:
        server.url()
        assert server.stop() == 0

    lines = server.log()
    assert len(lines) >= 2
    assert all("anyone who reaches 0.0.0.0" in line["insecure_bind"] for line in lines)


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server_stub.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_terminal_shows_nodes_and_restarts_one(tmp_path: Path) -> None:
    import asyncio

    with server_process(tmp_path) as server:
        url = server.url()
        link = Peer(url, Role.LINK)
        await link.connect()
        await link.send(nanny_report("failed", restarts={"crash": 3}))
        async with aiohttp.ClientSession() as http:
            await Client(url, http).node_in("NOT_READY")

        nodes = await asyncio.to_thread(run_cli, "nodes", "--url", url)
        node = await asyncio.to_thread(run_cli, "node", "node-1", "--url", url)
        as_json = await asyncio.to_thread(run_cli, "node", "node-1", "--url", url, "--json")
        restarting = asyncio.create_task(
            asyncio.to_thread(run_cli, "restart", "node-1", "--reason", "a test", "--url", url, "--json")
        )
        order = await link.expect(CommandOrder)
        await link.send(CommandOutcome(order.command_id, Outcome.REJECTED, "held"))
        restarted = await restarting
        commands = await asyncio.to_thread(run_cli, "commands", "--url", url)
        nobody = await asyncio.to_thread(run_cli, "node", "nobody", "--url", url)
        await link.disconnect()
        assert server.stop() == 0
    nowhere = await asyncio.to_thread(run_cli, "nodes", "--url", url)

    assert nodes.returncode == 0
    assert "NOT_READY" in nodes.stdout
    assert "crash 3" in node.stdout
    assert json.loads(as_json.stdout)["state"] == "NOT_READY"
    assert restarted.returncode == 1
    assert json.loads(restarted.stdout)["state"] == "rejected"
    assert "rejected" in commands.stdout
    assert (nobody.returncode, "nobody" in nobody.stderr) == (1, True)
    assert (nowhere.returncode, "is server-stub running?" in nowhere.stderr) == (1, True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "ftp://127.0.0.1"])
def test_a_url_that_is_none_is_one_line(url: str) -> None:
    answer = run_cli("nodes", "--url", url)

    assert answer.returncode == 1
    assert answer.stderr.startswith(f"server-stub: {url!r} is no URL of a server")
    assert "Traceback" not in answer.stderr
