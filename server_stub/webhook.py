"""The webhook: a sink that posts events to a URL as a batch of CloudEvents in JSON.

Any 2xx takes the batch. Answers that say "not this content" (`REFUSALS`) refuse it; all others, redirects
among them, mean "not now": a receiver that is misconfigured for a night loses nothing. TLS certificates are
verified. `$CREDENTIALS_DIRECTORY/webhook-authorization`, if there is one, is sent as the Authorization header
(systemd.exec(5), LoadCredential=).
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md section 3.3
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from server_stub.sink_errors import EventsRefused, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server_stub.cloud_events import CloudEvent
    from server_stub.sinks import SinkContext

REFUSALS: Final = frozenset({400, 413, 415, 422})
CREDENTIAL: Final = "webhook-authorization"
MEDIA_TYPE: Final = "application/cloudevents-batch+json; charset=utf-8"


class Webhook:
    """Posts to one URL, over a connection that is kept."""

    def __init__(self, url: URL, prefixes: tuple[str, ...] = (), authorization: str | None = None) -> None:
        self.name = "webhook"
        self._url = url
        self._prefixes = prefixes
        self._headers = {"Content-Type": MEDIA_TYPE, "User-Agent": "nodenanny-server"}
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self._http: aiohttp.ClientSession | None = None

    def wants(self, event_type: str) -> bool:
        """Tell whether the type begins as `webhook_types` says; without any, all do."""
        return not self._prefixes or event_type.startswith(self._prefixes)

    async def deliver(self, events: Sequence[CloudEvent]) -> None:
        """Post the events in one request; its deadline is the caller's.

        Raises:
            EventsRefused: the receiver says that it won't take this content.
            SinkUnavailable: it answers otherwise.
            aiohttp.ClientError: it cannot be reached.
        """
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        # A redirect is not followed: it could carry the credential to where nobody sent it.
        request = self._http.post(
            self._url, data=json.dumps(list(events)), headers=self._headers, allow_redirects=False
        )
        async with request as response:
            if 200 <= response.status < 300:
                return
            said = f"the webhook answered {response.status}"
            if response.status in REFUSALS:
                raise EventsRefused(said)
            raise SinkUnavailable(said, _retry_after_s(response.headers.get("Retry-After", "")))

    async def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            await self._http.close()


def webhook(context: SinkContext) -> Webhook | None:
    """Give the webhook of `webhook_url`, None without one.

    Raises:
        ValueError: this is no URL to post to.
        OSError: its credential cannot be read.
    """
    if context.settings.webhook_url is None:
        return None
    url = URL(context.settings.webhook_url)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("webhook_url: expected a URL with http:// or https:// and a host")
    prefixes = tuple(filter(None, (one.strip() for one in context.settings.webhook_types.split(","))))
    directory = context.environ.get("CREDENTIALS_DIRECTORY")
    credential = None if directory is None else Path(directory) / CREDENTIAL
    authorization = credential.read_text().strip() if credential is not None and credential.exists() else None
    return Webhook(url, prefixes, authorization)


def _retry_after_s(header: str) -> float | None:
    """Give the seconds that a Retry-After names; its dates are not worth trusting a clock for. RFC 9110, 10.2.3."""
    return float(header) if header.isascii() and header.isdecimal() and len(header) < 10 else None
