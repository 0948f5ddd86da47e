"""One HTTP/1.1 response, read from bytes as they come: strict, bounded, the same for any split of the bytes.

Reads a status line, fields up to a limit, and a body that is counted, chunked or ended by the connection's
end; passes over interim (1xx) responses. What it refuses is a `BadResponse`, never another exception. What
follows a whole response is not read; `has_excess` tells that something did. Knows no sockets, no JSON and
none of the fields but those of framing. RFC 9112 sections 4 to 7 and 9.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final

HEAD_LIMIT_BYTES: Final = 8 * 1024
BODY_LIMIT_BYTES: Final = 64 * 1024
RESPONSE_LIMIT_BYTES: Final = 256 * 1024
"""With interim responses, chunk extensions and trailers."""
CHUNK_LINE_LIMIT_BYTES: Final = 256

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONTROLS: Final = bytes({*range(0x20), 0x7F} - {0x09})
_HEX: Final = b"0123456789abcdefABCDEF"
_DIGITS: Final = b"0123456789"
_START: Final = b"HTTP/1."
_LONGEST_NUMBER: Final = 16


class BadResponse(Exception):  # noqa: N818 (what it is, not what it does)
    """The bytes are no HTTP/1.1 response that we accept; the connection is of no further use."""


@dataclass(frozen=True, slots=True)
class Head:
    """What status line and fields say of the rest."""

    status: int
    length: int | None
    """Of the body; None: chunked, or up to the connection's end."""
    is_chunked: bool
    keeps_alive: bool
    """Whether the connection may carry another request."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    body: bytes
    keeps_alive: bool


class _Stage(Enum):
    HEAD = auto()
    COUNTED = auto()
    TO_THE_END = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILERS = auto()
    DONE = auto()


class ResponseReader:
    """Reads one response; made anew, or reset, for each request."""

    __slots__ = ("_body", "_buffer", "_head", "_left", "_stage", "_taken", "has_excess")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all: the next bytes begin a response."""
        self._stage = _Stage.HEAD
        self._buffer = b""
        self._taken = 0
        self._body = bytearray()
        self._head: Head | None = None
        self._left = 0
        self.has_excess = False
        """Whether bytes came after the response."""

    @property
    def has_begun(self) -> bool:
        """Tell whether any byte came."""
        return bool(self._taken or self._buffer)

    def feed(self, received: bytes) -> Response | None:
        """Take bytes in; gives the response once it is whole.

        Raises:
            BadResponse: it is none, or goes beyond a limit.
        """
        self._buffer = self._buffer + received if self._buffer else received
        response = None
        while response is None and self._advance():
            if self._stage is _Stage.DONE:
                response = self._finish()
        if self._taken + (0 if response else len(self._buffer)) > RESPONSE_LIMIT_BYTES:
            raise BadResponse(f"more than {RESPONSE_LIMIT_BYTES} bytes")
        return response

    def end(self) -> Response | None:
        """The connection has ended: gives the response that this completes, None if it broke off."""
        if self._stage is not _Stage.TO_THE_END:
            return None
        return self._finish()

    def _advance(self) -> bool:
        """Take one step; False when more bytes are needed."""
        match self._stage:
            case _Stage.HEAD:
                return self._take_head()
            case _Stage.COUNTED | _Stage.CHUNK:
                return self._take_counted()
            case _Stage.TO_THE_END:
                self._add_to_body(self._take(len(self._buffer)))
                return False
            case _Stage.CHUNK_SIZE:
                return self._take_chunk_size()
            case _Stage.TRAILERS:
                return self._take_trailer()
            case _Stage.DONE:
                return False

    def _take_head(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT_BYTES)
        if end < 0:
            if not buffer.startswith(_START) and not _START.startswith(buffer):
                raise BadResponse("no HTTP/1 status line")
            if len(buffer) >= HEAD_LIMIT_BYTES:
                raise BadResponse(f"fields of more than {HEAD_LIMIT_BYTES} bytes")
            return False
        head = parse_head(self._take(end + 4)[:end])
        if head.status < 200:
            return bool(self._buffer)  # interim: another head follows
        self._head = head
        if head.is_chunked:
            self._stage = _Stage.CHUNK_SIZE
        elif head.length is None:
            self._stage = _Stage.TO_THE_END
        else:
            if head.length > BODY_LIMIT_BYTES:
                raise BadResponse(f"a body of more than {BODY_LIMIT_BYTES} bytes")
            self._left = head.length
            self._stage = _Stage.COUNTED if head.length else _Stage.DONE
        return True

    def _take_counted(self) -> bool:
        piece = self._take(min(self._left, len(self._buffer)))
        self._left -= len(piece)
        self._body += piece
        if self._left:
            return False
        if self._stage is _Stage.COUNTED:
            self._stage = _Stage.DONE
            return True
        # A chunk's data and the line end behind it were counted as one.
        if not self._body.endswith(b"\r\n"):
            raise BadResponse("a chunk that is longer than it says")
        del self._body[-2:]
        self._stage = _Stage.CHUNK_SIZE
        return True

    def _take_chunk_size(self) -> bool:
        line = self._take_line(CHUNK_LINE_LIMIT_BYTES)
        if line is None:
            return False
        size, _, extension = line.partition(b";")
        size = size.rstrip(b" \t")
        if not size or len(size) > _LONGEST_NUMBER or size.translate(None, _HEX):
            raise BadResponse("a chunk without a size")
        if len(extension) != len(extension.translate(None, _CONTROLS)):
            raise BadResponse("control characters in a chunk's extension")
        length = int(size, 16)
        if length == 0:
            self._stage = _Stage.TRAILERS
            self._left = HEAD_LIMIT_BYTES
            return True
        if len(self._body) + length > BODY_LIMIT_BYTES:
            raise BadResponse(f"a body of more than {BODY_LIMIT_BYTES} bytes")
        self._left = length + 2
        self._stage = _Stage.CHUNK
        return True

    def _take_trailer(self) -> bool:
        line = self._take_line(self._left)
        if line is None:
            return False
        self._left -= len(line) + 2
        if not line:
            self._stage = _Stage.DONE
        else:
            _field(line)
        return True

    def _take_line(self, limit: int) -> bytes | None:
        limit = max(limit, 2)
        end = self._buffer.find(b"\r\n", 0, limit)
        if end < 0:
            if len(self._buffer) >= limit:
                raise BadResponse(f"a line of more than {limit} bytes")
            return None
        return self._take(end + 2)[:end]

    def _add_to_body(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > BODY_LIMIT_BYTES:
            raise BadResponse(f"a body of more than {BODY_LIMIT_BYTES} bytes")

    def _take(self, length: int) -> bytes:
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        self._taken += length
        return taken

    def _finish(self) -> Response:
        assert self._head is not None, "no body before its head"
        self._stage = _Stage.DONE
        self.has_excess = bool(self._buffer)
        return Response(self._head.status, bytes(self._body), self._head.keeps_alive)


@lru_cache(maxsize=128)
def parse_head(head: bytes) -> Head:
    """Read a status line and fields, without the empty line that ends them. A fleet sends few different ones.

    Raises:
        BadResponse: a line is malformed, or they contradict each other.
    """
    status_line, *field_lines = head.split(b"\r\n")
    if len(head) != len(head.translate(None, _CONTROLS)) + 2 * len(field_lines):
        raise BadResponse("control characters among the fields")
    status, is_http_1_1 = _status_line(status_line)
    lengths: set[bytes] = set()
    encodings: list[bytes] = []
    options: set[bytes] = set()
    for line in field_lines:
        name, value = _field(line)
        if name == b"content-length":
            lengths.update(part.strip(b" \t") for part in value.split(b","))
        elif name == b"transfer-encoding":
            encodings.append(value.lower())
        elif name == b"connection":
            options.update(option.strip(b" \t").lower() for option in value.split(b","))
    if encodings and (lengths or encodings != [b"chunked"] or not is_http_1_1):
        raise BadResponse("a body whose end cannot be told")
    length = _length(lengths)
    if status < 200 or status in {204, 304}:
        length, encodings = 0, []
    is_framed = bool(encodings) or length is not None
    return Head(
        status=status,
        length=length,
        is_chunked=bool(encodings),
        keeps_alive=is_http_1_1 and is_framed and b"close" not in options,
    )


def _status_line(line: bytes) -> tuple[int, bool]:
    version, code, after = line[:9], line[9:12], line[12:13]
    if version not in {b"HTTP/1.1 ", b"HTTP/1.0 "} or after not in {b"", b" "}:
        raise BadResponse("no HTTP/1 status line")
    if len(code) != 3 or code.translate(None, _DIGITS) or not b"100" <= code <= b"599" or code == b"101":
        raise BadResponse("a status that none of ours has")
    return int(code), version == b"HTTP/1.1 "


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, _TOKEN):
        raise BadResponse("a line that is no field")
    value = value.strip(b" \t")
    if len(value) != len(value.translate(None, _CONTROLS)):
        raise BadResponse("control characters in a field")
    return name.lower(), value


def _length(told: set[bytes]) -> int | None:
    if not told:
        return None
    if len(told) > 1:
        raise BadResponse("more than one Content-Length")
    (digits,) = told
    if not digits or len(digits) > _LONGEST_NUMBER or digits.translate(None, _DIGITS):
        raise BadResponse("a Content-Length that is no number")
    return int(digits)
