"""Questions to a running server from the command line: one request each, over plain HTTP.

Knows how errors come (RFC 9457), not what answers mean.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL: Final = "http://127.0.0.1:8470"
TIMEOUT_S: Final = 10.0


class RequestFailed(Exception):  # noqa: N818 (what it is, not what it does)
    """The server cannot be reached, or refused: the message says what, and what to do."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of the answer; None: there was none."""


class ServerClient:
    """Asks one server."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        wrong = f"{url!r} is no URL of a server, expected one such as {DEFAULT_URL}"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise RequestFailed(f"{wrong} ({error})") from None
        if parts.scheme != "http" or not parts.hostname:
            raise RequestFailed(wrong)
        self.url = url
        self._host = parts.hostname
        self._port = port or 80

    def get(
        self, *path: str, wait_s: float = 0.0, query: Mapping[str, str] | None = None, **more: str
    ) -> Any:
        """Give the JSON that the server answers.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        asked = {**(query or {}), **more} | ({"wait_s": f"{wait_s:g}"} if wait_s else {})
        return self._ask("GET", path, query=asked, timeout_s=TIMEOUT_S + wait_s)

    def get_bytes(self, *path: str) -> bytes:
        """Give what the server answers, as it is.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        return self._exchange("GET", path, timeout_s=TIMEOUT_S)

    def put(self, *path: str, body: Any) -> Any:
        """Send JSON and give the answer's.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        return self._send("PUT", path, body, "application/json")

    def patch(self, *path: str, body: Any, **query: str) -> Any:
        """Send a JSON merge patch (RFC 7396) and give the answer's JSON.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        return self._send("PATCH", path, body, "application/json", query=query)

    def delete(self, *path: str, **query: str) -> Any:
        """Delete, and give the JSON that the server answers.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        return self._ask("DELETE", path, query=query)

    def post(self, *path: str, body: Any, key: str | None = None) -> Any:
        """Send JSON and give the answer's.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        return self._send("POST", path, body, "application/json", key)

    def _send(
        self,
        method: str,
        path: tuple[str, ...],
        body: Any,
        content_type: str,
        key: str | None = None,
        query: dict[str, str] | None = None,
    ) -> Any:
        headers = {} if key is None else {"Idempotency-Key": key}
        if body is None:
            return self._ask(method, path, query=query, headers=headers)
        headers["Content-Type"] = content_type
        return self._ask(method, path, query=query, body=json.dumps(body), headers=headers)

    def _ask(self, method: str, path: tuple[str, ...], **more: Any) -> Any:
        content = self._exchange(method, path, **more)
        return json.loads(content) if content else None

    def _exchange(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: dict[str, str] | None = None,
        body: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        target = "/" + "/".join(quote(part, safe="") for part in path)
        if query:
            target += "?" + urlencode(query)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(f"no answer from {self.url}: {error}; is server-stub running?") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise RequestFailed(f"{_said(content) or response.reason} ({response.status})", response.status)
        return content


def _said(content: bytes) -> str:
    try:
        answer = json.loads(content)
    except ValueError:
        return ""
    return str(answer.get("detail") or answer.get("title") or "") if isinstance(answer, dict) else ""
