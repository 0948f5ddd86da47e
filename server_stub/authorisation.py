"""The one point through which every route goes: may this request do that?

Until nodes and clients have credentials, whoever reaches the socket is allowed everything; what can be
refused even so is a browser, which a web page could steer to our port: requests with an `Origin`, and, on
loopback, requests for a host name that is not this machine's (DNS rebinding). Credentials come in here and
nowhere else.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import TYPE_CHECKING

from server_stub.config import is_loopback
from server_stub.problems import Problem

if TYPE_CHECKING:
    from aiohttp import web


@unique
class Permission(StrEnum):
    """What a route lets one do."""

    OBSERVE = "observe"
    """Look at nodes, commands, events, metrics."""
    COMMAND = "command"
    """Change what a node does."""
    BE_NODE = "be-node"
    """Speak as a node's link or worker."""
    DEBUG = "debug"
    """Break things on purpose; only on loopback."""


class Authorisation:
    """Decides for a server that listens on loopback, or, by --insecure-bind, beyond."""

    def __init__(self, *, host: str) -> None:
        self.is_local = is_loopback(host)

    def allow(self, request: web.Request, permission: Permission) -> None:
        """Return if the request may.

        Raises:
            Problem: it may not; the detail says why.
        """
        if "Origin" in request.headers:
            raise Problem("forbidden", "requests from web pages are not served")
        if self.is_local and not is_loopback(_host_name(request.host)):
            raise Problem("forbidden", f"this server is not {request.host[:100]!r}; use its loopback address")
        if permission is Permission.DEBUG and not self.is_local:
            raise Problem("forbidden", "only a server that listens on loopback does this")


def _host_name(host: str) -> str:
    """Give the name or address of a Host header, without port and brackets. RFC 9110, 7.2."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
