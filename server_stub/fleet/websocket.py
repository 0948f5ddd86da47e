"""The dialling end of a WebSocket, as lean as a simulation of thousands needs it: whole binary messages, no tasks.

One request for the upgrade, then frames. Text, fragments and extensions are not spoken here, since our server
never sends them: such a frame ends the connection. The masking key is zero: masks protect proxies from scripts
in browsers, and on loopback there are neither. RFC 6455.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_BINARY, _CLOSE, _PING, _PONG = 0x82, 0x88, 0x89, 0x8A
_NO_MASK: Final = b"\0\0\0\0"


class WebSocket(asyncio.Protocol):
    """One connection; told by callbacks, which must not raise."""

    def __init__(
        self,
        authority: str,
        path: str,
        *,
        on_open: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: bm9kZW5hbm55IGZsZWV0IQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._on_open = on_open
        self._on_message = on_message
        self._on_gone = on_gone
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._is_open = False
        self._why = "the server closed it"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take in the answer to the upgrade, then frames."""
        received = self._received + data
        if not self._is_open:
            head, end, received = received.partition(b"\r\n\r\n")
            if not end:
                self._received = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.abort(f"not upgraded: {head[:60].decode(errors='replace').splitlines()[0]}")
                return
            self._is_open = True
            self._on_open()
        self._received = self._frames(received)

    def send(self, message: bytes) -> None:
        """Send one binary message."""
        self._send(_BINARY, message)

    def close(self) -> None:
        """End the connection in order."""
        self._send(_CLOSE, struct.pack("!H", 1000))
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """Drop the connection, as a crash would."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is gone."""
        self._transport = None
        self._on_gone(self._why if exc is None else f"{type(exc).__name__}: {exc}")

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", opcode, 0x80 | 127, size)
        self._transport.write(head + _NO_MASK + payload)

    def _frames(self, received: bytes) -> bytes:
        """Act upon all whole frames; give what is left."""
        while len(received) >= 2:
            opcode, size, at = received[0], received[1], 2
            if size == 126:
                if len(received) < 4:
                    break
                size, at = struct.unpack_from("!H", received, 2)[0], 4
            elif size == 127:
                if len(received) < 10:
                    break
                size, at = struct.unpack_from("!Q", received, 2)[0], 10
            if len(received) < at + size:
                break
            payload, received = received[at : at + size], received[at + size :]
            match opcode:
                case 0x82:
                    self._on_message(payload)
                case 0x89:
                    self._send(_PONG, payload)
                case 0x8A:
                    pass
                case 0x88:
                    self.close()
                    return b""
                case _:
                    self.abort(f"a frame that begins with {opcode:#x}")
                    return b""
        return received
