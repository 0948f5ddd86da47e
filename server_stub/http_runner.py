"""The server's own runner of HTTP: what is no HTTP, or too large to be read as a request, is a problem document, too.

aiohttp answers these before any route or middleware sees them, as plain text and with a traceback in the log;
its seams for that are private, so a test holds us to them. RFC 9457.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from server_stub.problems import Problem, render

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

LINE_LIMIT_BYTES: Final = 32 * 1024
"""Of a request's first line: a reason of the longest in the query, percent-encoded, has to fit."""


class ProblemRunner(web.AppRunner):
    """Runs an application."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _ProblemServer
        return server


class _ProblemServer(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status == HTTPStatus.BAD_REQUEST and request.writer.output_size == 0:
            said = (message or "").split("\n\n")[0].strip(" :\n")[:200]
            response = render(Problem("malformed", said or "this is no HTTP request"))
            response.force_close()
            return response
        return super().handle_error(request, status, exc, message)
