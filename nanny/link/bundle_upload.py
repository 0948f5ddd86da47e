"""Evidence bundles on request of the server: read by a disposable process, sent by HTTP beside the session.

The order (`upload-evidence`, parameter `bundle`) is link's own and never reaches the nanny: uploading twice has one
effect, so no ledger is needed. It is answered by its outcome alone; until then the server sends it again, and one
that is under way already is not begun twice. A reader that hangs with its disk is killed, and left alone if that
does not end it. Knows neither frames nor what is in a bundle. RFC 9110, 9.3.4 (PUT).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp

from nanny.evidence.bundle_name import parse_name
from nanny.link.config import ENDPOINT
from nanny.protocol.messages import CommandOutcome, Outcome

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

    from nanny.common.log_lines import LogLines
    from nanny.link.config import LinkConfig
    from nanny.protocol.messages import CommandOrder

UPLOAD_EVIDENCE: Final = "upload-evidence"
UPLOADS_LIMIT: Final = 4
SIZE_LIMIT_BYTES: Final = 64 << 20
TIMEOUT_S: Final = 120.0
_CHUNK_BYTES: Final = 64 << 10
_WHY_LIMIT: Final = 500


class UploadFailed(Exception):  # noqa: N818 (what it is, not what it does)
    """The bundle did not get there: the message says why."""


class BundleUploads:
    """The uploads under way."""

    def __init__(self, config: LinkConfig, tls: Callable[[], ssl.SSLContext | bool], log: LogLines) -> None:
        """Begin nothing yet.

        Args:
            config: the settings.
            tls: gives the certificates to use, read anew.
            log: where it is told.
        """
        assert config.server_url is not None
        self._url = _base_of(config.server_url)
        self._config = config
        self._tls = tls
        self._log = log
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def take(
        self,
        order: CommandOrder,
        status: Mapping[str, Any] | None,
        tell: Callable[[CommandOutcome], None],
    ) -> None:
        """Begin what the order asks for; `tell` gets its outcome, at once or later."""
        if order.command_id in self._under_way:
            return
        if order.time_to_live_s <= 0:
            tell(CommandOutcome(order.command_id, Outcome.EXPIRED, "its time was over before it arrived"))
            return
        name = order.parameters.get("bundle")
        if not isinstance(name, str) or parse_name(name) is None:
            why = f"bundle: expected the name of a bundle, got {str(name)[:100]!r}"
            tell(CommandOutcome(order.command_id, Outcome.REJECTED, why))
        elif status is None or not status.get("state_dir"):
            tell(CommandOutcome(order.command_id, Outcome.FAILED, "the nanny has not said where bundles are"))
        elif len(self._under_way) >= UPLOADS_LIMIT:
            pass  # the server sends it again
        else:
            upload = self._upload(
                order.command_id, name, str(status["state_dir"]), str(status["node_id"]), tell
            )
            task = asyncio.create_task(upload, name=f"upload {name}")
            self._under_way[order.command_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(order.command_id, None))

    def cancel(self) -> None:
        """Let go of what is under way; the server asks again."""
        for task in self._under_way.values():
            task.cancel()

    async def _upload(
        self,
        command_id: str,
        name: str,
        state_dir: str,
        node_id: str,
        tell: Callable[[CommandOutcome], None],
    ) -> None:
        url = f"{self._url}/v1/nodes/{quote(node_id, safe='')}/evidence/{quote(name, safe='')}/content"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                size_bytes = await self._send(url, name, state_dir)
        except TimeoutError:
            outcome = CommandOutcome(command_id, Outcome.FAILED, f"not done within {TIMEOUT_S:g} s")
        except (UploadFailed, aiohttp.ClientError, OSError, ValueError) as error:
            why = str(error) or type(error).__name__
            outcome = CommandOutcome(command_id, Outcome.FAILED, why[:_WHY_LIMIT])
        else:
            outcome = CommandOutcome(command_id, Outcome.DONE, f"{size_bytes} bytes sent")
        self._log.info("evidence upload", bundle=name, outcome=outcome.outcome, why=outcome.detail)
        tell(outcome)

    async def _send(self, url: str, name: str, state_dir: str) -> int:
        connector = aiohttp.TCPConnector(limit=1, force_close=True, ssl=self._tls())
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False) as http,
            self._reading(name, state_dir) as reader,
        ):
            body = _Body(reader)
            async with http.put(
                url,
                data=body.chunks(),
                headers={"Content-Type": "application/gzip"},
                allow_redirects=False,
            ) as answer:
                if answer.status not in {200, 201, 204}:
                    said = (await answer.content.read(_WHY_LIMIT)).decode("utf-8", "replace")
                    raise UploadFailed(f"the server answered {answer.status}: {said}")
            return body.sent_bytes

    @contextlib.asynccontextmanager
    async def _reading(self, name: str, state_dir: str) -> AsyncIterator[asyncio.subprocess.Process]:
        runtime_dir = os.path.dirname(self._config.control_socket)
        reader = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-m",
            "nanny.link.bundle_reader",
            state_dir,
            runtime_dir,
            name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield reader
        finally:
            with suppress(ProcessLookupError):
                reader.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # one in D state is left alone
                    await reader.wait()


class _Body:
    """What a reader writes, in chunks; an incomplete one breaks the request off."""

    def __init__(self, reader: asyncio.subprocess.Process) -> None:
        self._reader = reader
        self.sent_bytes = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the chunks.

        Raises:
            UploadFailed: the reader failed, or the bundle is too large.
        """
        out, errors = self._reader.stdout, self._reader.stderr
        assert out is not None
        assert errors is not None
        while chunk := await out.read(_CHUNK_BYTES):
            self.sent_bytes += len(chunk)
            if self.sent_bytes > SIZE_LIMIT_BYTES:
                raise UploadFailed(f"the bundle has more than {SIZE_LIMIT_BYTES >> 20} MiB")
            yield chunk
        if await self._reader.wait() != 0:
            said = (await errors.read(_WHY_LIMIT)).decode("utf-8", "replace").strip()
            raise UploadFailed(f"the bundle could not be read: {said}")


def _base_of(server_url: str) -> str:
    """Give the server's address for HTTP: what `server_url` says, less the endpoint of links."""
    parts = urlsplit(server_url.rstrip("/").removesuffix(ENDPOINT))
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
