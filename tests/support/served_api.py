"""A server with a fleet of three in a thread of its own, for clients that block.

`node-1` has its link and its worker, a command that is done and one that is open; `node-2` only its link; `spare` is
there to be deleted.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from nanny.protocol.messages import CommandOrder, CommandOutcome, Outcome, OutcomeAcknowledged, Role
from server_stub.config import ServerConfig
from server_stub.main import running
from tests.support.server_peers import (
    Client,
    Peer,
    healthz_server,
    nanny_report,
    registration,
    worker_report,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServedApi:
    url: str
    command: str
    """The id of a command that is there."""


@contextmanager
def served_api(directory: Path, **changed: Any) -> Iterator[ServedApi]:
    """Run the server with its nodes for the length of the block."""
    ready, stop = threading.Event(), asyncio.Event()
    found: list[ServedApi] = []
    failed: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        settings: dict[str, Any] = {
            "port": 0,
            "database": str(directory / "server.sqlite3"),
            "data_dir": str(directory),
            "probe_interval_s": 2.0,
            "probe_budget_s": 1.0,
            "probe_try_timeout_s": 0.5,
            "log_level": "critical",
        }
        async with (
            running(ServerConfig(**(settings | changed))) as server,
            healthz_server() as healthz,
            aiohttp.ClientSession() as http,
        ):
            client = Client(server.url, http)
            peers = [Peer(server.url, Role.LINK, node) for node in ("node-1", "node-2", "spare")]
            worker = Peer(server.url, Role.WORKER, "node-1")
            for peer in [*peers, worker]:
                await peer.connect()
            await peers[0].send(nanny_report())
            await worker.send(registration(healthz.port))
            await worker.send(worker_report())
            await client.node_in("READY", "node-1")
            done = await client.order("collect-evidence", "node-1")
            await peers[0].expect(CommandOrder)
            await peers[0].send(CommandOutcome(done["id"], Outcome.DONE, ""))
            await peers[0].expect(OutcomeAcknowledged)
            await client.order("reload", "node-2")
            await peers[2].disconnect()
            found.append(ServedApi(server.url, done["id"]))
            ready.set()
            await stop.wait()
            for peer in [*peers[:2], worker]:
                await peer.disconnect()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="served api")
    thread.start()
    try:
        assert ready.wait(START_TIMEOUT_S), "the server has not started"
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if loops and not failed:
            loops[0].call_soon_threadsafe(stop.set)
        thread.join(START_TIMEOUT_S)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
