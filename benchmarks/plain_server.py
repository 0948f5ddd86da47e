"""The plain design to compare with: what one writes first, and what fleets were run with.

Each round reads all nodes into one shared session, asks all of them at once (`gather`) with a fresh HTTP session for
each, and commits each node that changed by itself. No spreading, no kept connections, no version. It has just enough
around that for the same simulation to drive it: /livez, /metrics, a port file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

import aiohttp
import uvloop
from aiohttp import web
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.server_watch import VARIABLE, Watch
from server_stub.store.tables import NodeRow

INTERVAL_S: Final = 15.0
TIMEOUT_S: Final = 10.0


class PlainServer:
    """One loop over all nodes."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(url)
        self._nodes: list[NodeRow] = []
        self._results: dict[str, int] = {}
        self._round_s = 0.0
        self._rounds = 0

    async def run(self) -> None:
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            while True:
                began_at = time.monotonic()
                await self._round(session)
                took_s = time.monotonic() - began_at
                self._round_s += took_s
                self._rounds += 1
                await asyncio.sleep(max(0.1, INTERVAL_S - took_s))

    async def _round(self, session: AsyncSession) -> None:
        self._nodes = list((await session.scalars(select(NodeRow))).all())
        found = await asyncio.gather(*(self._check(node) for node in self._nodes))
        for node, result in zip(self._nodes, found, strict=True):
            self._results[result] = self._results.get(result, 0) + 1
            state = "READY" if result == "ok" else "UNREACHABLE"
            if node.state != state:
                node.state, node.state_message = state, result
                await session.commit()

    async def _check(self, node: NodeRow) -> str:
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            url = f"http://{node.address}:{node.healthz_port}/healthz"
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as answer:
                content = await answer.json()
                return "ok" if content["status"] == "ok" else "stalled"
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError) as error:
            return type(error).__name__

    async def livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def metrics(self, _: web.Request) -> web.Response:
        states: dict[str, int] = {}
        for node in self._nodes:
            states[node.state] = states.get(node.state, 0) + 1
        lines = [f'nodenanny_server_nodes{{state="{name}"}} {number}' for name, number in states.items()]
        lines += [
            f'nodenanny_server_probes_total{{result="{name}"}} {number}'
            for name, number in self._results.items()
        ]
        lines += [f"nodenanny_server_sync_round_seconds_sum {self._round_s}"]
        lines += [f"nodenanny_server_sync_round_seconds_count {self._rounds}"]
        return web.Response(text="\n".join(lines) + "\n")


async def _main(port_file: str, data_dir: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = PlainServer(f"sqlite+aiosqlite:///{data_dir}/server.sqlite3")
    application = web.Application()
    application.router.add_get("/livez", server.livez)
    application.router.add_get("/metrics", server.metrics)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    tasks = [asyncio.create_task(server.run()), asyncio.create_task(Watch(os.environ[VARIABLE]).run())]
    _write_port(Path(port_file), runner.addresses[0][1])
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await runner.cleanup()


def _write_port(path: Path, port: int) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f"{port}\n")
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port")
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--data-dir", required=True)
    options = parser.parse_args()
    uvloop.run(_main(options.port_file, options.data_dir))


if __name__ == "__main__":
    main()
