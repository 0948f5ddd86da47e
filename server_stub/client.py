"""Questions to a running server from the command line: one request each, over plain HTTP.

Knows how errors come (RFC 9457), not what answers mean.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

DEFAULT_URL: Final = "http://127.0.0.1:8470"
TIMEOUT_S: Final = 10.0


class RequestFailed(Exception):  # noqa: N818 (what it is, not what it does)
    """The server cannot be reached, or refused: the message says what, and what to do."""


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

    def get(self, *path: str, wait_s: float = 0.0, **query: str) -> Any:
        """Give the JSON that the server answers.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        if wait_s:
            query["wait_s"] = f"{wait_s:g}"
        return self._ask("GET", path, query=query, timeout_s=TIMEOUT_S + wait_s)

    def post(self, *path: str, body: Any, key: str | None = None) -> Any:
        """Send JSON and give the answer's.

        Raises:
            RequestFailed: it can't be reached, or refused.
        """
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Idempotency-Key": key})
        return self._ask("POST", path, body=json.dumps(body), headers=headers)

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: dict[str, str] | None = None,
        body: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
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
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {}
        if response.status >= 400:
            said = answer.get("detail") or answer.get("title") or response.reason
            raise RequestFailed(f"{said} ({response.status})")
        return answer
