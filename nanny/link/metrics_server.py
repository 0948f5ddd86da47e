"""/metrics and /livez over HTTP, for as long as link lives: a port that is taken is tried again, never fatal.

Each scrape asks the nanny for its status of now, with a short deadline. Knows no metric by name.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from nanny.link.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nanny.common.log_lines import LogLines

RETRY_S: Final = 5.0
_KEEPALIVE_S: Final = 75.0
"""A connection that says nothing, or never ends its headers, is closed after this."""


class MetricsServer:
    """Serves the text that `render` gives.

    Attributes:
        port: the bound one; 0 before.
    """

    def __init__(
        self,
        host: str,
        port: int,
        port_file: str | None,
        render: Callable[[], Awaitable[str]],
        log: LogLines,
    ) -> None:
        """Open nothing yet.

        Args:
            host: address to listen on.
            port: 0 takes a free one.
            port_file: gets the bound port; removed at the end.
            render: gives the text of /metrics.
            log: where it is told.
        """
        self.port = 0
        self._host = host
        self._wanted_port = port
        self._port_file = port_file
        self._render = render
        self._log = log

    async def run(self) -> None:
        """Serve until cancelled."""
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/livez", self._livez)
        runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=_KEEPALIVE_S, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            await self._listen(runner)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            if self._port_file is not None and self.port:
                with suppress(OSError):
                    os.unlink(self._port_file)

    async def _listen(self, runner: web.AppRunner) -> None:
        while True:
            site = web.TCPSite(runner, self._host, self._wanted_port)
            try:
                await site.start()
                self.port = int(runner.addresses[0][1])
                if self._port_file is not None:
                    _write_port_file(self._port_file, self.port)
            except OSError as error:
                self._log.error(
                    "cannot serve /metrics", host=self._host, port=self._wanted_port, why=str(error)
                )
                with suppress(RuntimeError):
                    await site.stop()
                await asyncio.sleep(RETRY_S)
                continue
            self._log.info("serving /metrics", host=self._host, port=self.port)
            return

    async def _metrics(self, _request: web.Request) -> web.Response:
        text = await self._render()
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")


def _write_port_file(path: str, port: int) -> None:
    """Write the port so that a reader sees all of it or no file."""
    unfinished = f"{path}.{os.getpid()}"
    with open(unfinished, "w", encoding="ascii") as file:
        file.write(f"{port}\n")
    os.replace(unfinished, path)
