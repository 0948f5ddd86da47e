"""Every error of the API as a problem document, and the one table of which error is which status.

RFC 9457. Knows no route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from server_stub.changes import TooManyWaiters
from server_stub.store.commands import KeyReused
from server_stub.store.faults import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler, Middleware
    from structlog.typing import FilteringBoundLogger

    from server_stub.metrics import Metrics

STATUS: Final[Mapping[str, tuple[int, str]]] = {
    "malformed": (400, "The request cannot be read"),
    "forbidden": (403, "Not allowed"),
    "no-such-path": (404, "No such path"),
    "no-such-method": (405, "The path has no such method"),
    "body-too-large": (413, "The body is too large"),
    "too-many-connections": (503, "Too many connections"),
    "no-such-node": (404, "No such node"),
    "no-such-command": (404, "No such command"),
    "no-such-brake": (404, "No such brake"),
    "no-such-bundle": (404, "No such evidence"),
    "not-here": (404, "The bundle has not been fetched"),
    "not-requested": (409, "Nobody asked for this bundle"),
    "too-large": (413, "The bundle is too large"),
    "too-many-uploads": (503, "Too many bundles are coming"),
    "not-connected": (409, "The node is not connected"),
    "incarnation-unknown": (409, "The node's incarnation is not known"),
    "events-gone": (410, "The log does not hold these events"),
    "nothing-selected": (422, "No node is selected"),
    "no-such-rollout": (404, "No such rollout"),
    "rollout-under-way": (409, "A node is part of another rollout"),
    "cannot-be-withdrawn": (409, "The command can no longer be taken back"),
    "node-connected": (409, "The node is connected"),
    "idempotency-key-reused": (422, "The idempotency key belongs to another request"),
    "invalid": (422, "The request says what cannot be"),
    "too-many-open-commands": (429, "The node has too many unfinished commands"),
    "too-many-waiters": (503, "Too many clients are waiting"),
    "database-unavailable": (503, "The server's database does not answer"),
    "internal": (500, "The server failed"),
}
RETRY_AFTER_S: Final = 5
_CODE_OF_STATUS: Final[Mapping[int, str]] = {
    400: "malformed",
    404: "no-such-path",
    405: "no-such-method",
    413: "body-too-large",
    503: "too-many-connections",
}
"""Of what aiohttp raises by itself."""


class Problem(Exception):  # noqa: N818 (RFC 9457 calls it so)
    """An error for the client: its code in STATUS, and what of this occurrence helps."""

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.more = more


def render(problem: Problem) -> web.Response:
    """Give the problem document."""
    status, title = STATUS[problem.code]
    body = {
        "type": f"urn:nodenanny:problem:{problem.code}",
        "title": title,
        "status": status,
        "detail": problem.detail,
        **problem.more,
    }
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in {429, 503} else None
    return web.json_response(body, status=status, content_type="application/problem+json", headers=headers)


def problems_middleware(log: FilteringBoundLogger, metrics: Metrics) -> Middleware:
    """Turn whatever a route raises into a problem document, and count answers by status."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except Problem as problem:
            response = render(problem)
        except KeyReused as error:
            response = render(Problem("idempotency-key-reused", str(error)))
        except TooManyWaiters:
            response = render(Problem("too-many-waiters", "ask again without wait_s, or later"))
        except DatabaseUnavailable as error:
            log.error("database does not answer", path=request.path, why=str(error))  # noqa: TRY400 (no bug of ours)
            response = render(Problem("database-unavailable", str(error)))
        except web.HTTPException as error:
            response = _of_http(error)
        except Exception:
            log.exception("request failed", method=request.method, path=request.path)
            response = render(Problem("internal", "the log of the server says more"))
        metrics.count("http_requests_total", status=str(response.status))
        return response

    return middleware


def _of_http(error: web.HTTPException) -> web.StreamResponse:
    """Dress what aiohttp raises by itself likewise."""
    if error.status < 400:
        return error
    code = _CODE_OF_STATUS.get(error.status)
    if code is None:
        body = {
            "type": "about:blank",
            "title": error.reason,
            "status": error.status,
            "detail": error.text or "",
        }
        response = web.json_response(body, status=error.status, content_type="application/problem+json")
    else:
        response = render(Problem(code, error.text or error.reason))
    for name in ("Allow", "Retry-After"):
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response
