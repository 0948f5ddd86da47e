"""Routes and their answers, as bytes that are ready to be sent.

What never changes is rendered once; the rest is a few lines of text made from one observation, so each answer
carries ages of its own moment. Who may see reasons and stacks is decided here. RFC 9110, RFC 6750.
"""

from __future__ import annotations

import json
from _operator import _compare_digest  # what hmac.compare_digest is; hmac would load OpenSSL
from typing import TYPE_CHECKING

from agent.core.health import checks_text, health_json, healthz_json, readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.health import Health, Observation
    from agent.vitals.http_request import Request

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_HEALTH_JSON = "application/health+json"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def render_response(
    status: int, content_type: str, body: bytes, *, keep_alive: bool, head_only: bool
) -> bytes:
    """A whole response."""
    allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\n{allow}Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode() if head_only else head.encode() + body


def _refusal(status: int) -> bytes:
    text = f"{_REASONS[status]}\n".encode()
    return render_response(status, _TEXT, text, keep_alive=False, head_only=False)


REFUSALS = {status: _refusal(status) for status in (400, 405, 413, 431, 500, 505)}
"""Answers after which the connection ends, by status."""


class Answers:
    """What is answered to a well-formed request.

    Attributes:
        answered_total: by route and status.
        token: whose bearers may see reasons and stacks; None: nobody's.
    """

    def __init__(
        self,
        observe: Callable[[], tuple[Observation, Health]],
        metrics_text: Callable[[], str],
        token: str | None,
        *,
        trusts_loopback: bool,
    ) -> None:
        """Answer from what `observe` and `metrics_text` give at the moment of the question."""
        self._observe = observe
        self._metrics_text = metrics_text
        self.token = token
        self._trusts_loopback = trusts_loopback
        self._routes = {
            "/livez": self._livez,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }
        self._rendered = {
            (keep_alive, head_only): render_response(
                200, _TEXT, b"ok", keep_alive=keep_alive, head_only=head_only
            )
            for keep_alive in (True, False)
            for head_only in (True, False)
        }
        self.answered_total: dict[tuple[str, int], int] = {}

    def answer(self, request: Request, *, is_loopback: bool) -> bytes:
        """The response to `request`."""
        route = self._routes.get(request.path)
        if route is None:
            status, content_type, body = 404, _TEXT, "Not Found\n"
        else:
            bears_token = self._bears_token(request)
            is_near = self._trusts_loopback and is_loopback and not request.forwarded
            verbose = request.has_flag("verbose")
            status, content_type, body = route(request, verbose, bears_token or (verbose and is_near))
        key = ("other" if route is None else request.path[1:], status)
        self.answered_total[key] = self.answered_total.get(key, 0) + 1
        head_only = request.method == "HEAD"
        if body == "ok":
            return self._rendered[request.keep_alive, head_only]
        return render_response(
            status,
            content_type,
            body.encode(errors="replace"),
            keep_alive=request.keep_alive,
            head_only=head_only,
        )

    def _bears_token(self, request: Request) -> bool:
        if not self.token or not request.authorization:
            return False
        return bool(_compare_digest(request.authorization.encode(), f"Bearer {self.token}".encode()))

    def _livez(self, _: Request, verbose: bool, detailed: bool) -> tuple[int, str, str]:  # noqa: FBT001
        _seen, health = self._observe()
        text = checks_text("livez", health.liveness, verbose=verbose, detailed=detailed)
        return health.http_status, _TEXT, text

    def _readyz(self, _: Request, verbose: bool, detailed: bool) -> tuple[int, str, str]:  # noqa: FBT001
        seen, _health = self._observe()
        text = checks_text("readyz", readiness(seen.snapshot), verbose=verbose, detailed=detailed)
        return 200 if seen.snapshot.is_ready else 503, _TEXT, text

    def _healthz(self, request: Request, _: bool, detailed: bool) -> tuple[int, str, str]:  # noqa: FBT001
        seen, health = self._observe()
        if _HEALTH_JSON in request.accept:
            return health.http_status, _HEALTH_JSON, json.dumps(health_json(seen, health, detailed=detailed))
        return health.http_status, _JSON, json.dumps(healthz_json(seen, health, detailed=detailed))

    def _metrics(self, _: Request, _verbose: bool, _detailed: bool) -> tuple[int, str, str]:  # noqa: FBT001
        return 200, _PROMETHEUS, self._metrics_text()
