"""The head of an HTTP/1 request, read from bytes: bounded, strict, without a body.

Knows GET and HEAD, the two versions, and the few fields that a health endpoint looks at. What it refuses it
names by the status to answer with. Knows nothing of sockets and routes. RFC 9112, RFC 9110.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_LIMIT_BYTES = 8 << 10
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VISIBLE = bytes(range(0x21, 0x7F))
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
_UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ONCE = frozenset((b"host", b"authorization", b"content-length"))


class RequestRefused(Exception):  # noqa: N818  # a decision, with its status
    """The request gets `status` and its connection ends: what follows it cannot be told apart.

    Attributes:
        status: 400, 405, 413, 431 or 505.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is well formed; whether anything lives at `path` is not its matter."""

    method: str
    """``GET`` or ``HEAD``."""
    path: str
    query: str
    keep_alive: bool
    authorization: str = ""
    accept: str = ""
    forwarded: bool = False
    """A proxy passed it on: the peer is not who asks."""

    def has_flag(self, name: str) -> bool:
        """`name` stands in the query, with or without a value."""
        return any(part.partition("=")[0] == name for part in self.query.split("&"))


def parse_head(buffer: bytes) -> tuple[Request, int] | None:
    """Read the request at the beginning of `buffer`.

    Returns:
        The request and the number of bytes that it took; None while its head is incomplete.

    Raises:
        RequestRefused: it is malformed, too large, has a body, or is of a method or version that we don't speak.
    """
    # One empty line before a request is tolerated (RFC 9112 2.2).
    start = 2 if buffer.startswith(b"\r\n") else 0
    end = buffer.find(b"\r\n\r\n", start, start + HEAD_LIMIT_BYTES)
    if end < 0:
        _check_beginning(buffer[start:])
        return None
    request_line, *field_lines = buffer[start:end].split(b"\r\n")
    method, path, query, is_http_1_1 = _request_line(request_line)
    fields = _fields(field_lines)
    if is_http_1_1 and b"host" not in fields:
        raise RequestRefused(400, "no Host")
    if b"transfer-encoding" in fields or fields.get(b"content-length", b"0").strip(b"0"):
        raise RequestRefused(413, "a body")
    options = {option.strip().lower() for option in fields.get(b"connection", b"").split(b",")}
    request = Request(
        method,
        path,
        query,
        keep_alive=b"close" not in options and (is_http_1_1 or b"keep-alive" in options),
        authorization=fields.get(b"authorization", b"").decode("latin-1"),
        accept=fields.get(b"accept", b"").decode("latin-1"),
        forwarded=b"forwarded" in fields or b"x-forwarded-for" in fields,
    )
    return request, end + 4


def _check_beginning(head: bytes) -> None:
    """Refuse early what can no longer become a request, so that garbage holds no connection."""
    if len(head) >= HEAD_LIMIT_BYTES:
        raise RequestRefused(431, f"head over {HEAD_LIMIT_BYTES} bytes")
    if head not in {b"", b"\r"} and head[0] not in _UPPER:
        raise RequestRefused(400, "no method")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise RequestRefused(400, "bare line feed")
    if b"\0" in head:
        raise RequestRefused(400, "NUL byte")


def _request_line(line: bytes) -> tuple[str, str, str, bool]:
    parts = line.split(b" ")
    if len(parts) != 3 or not _is_made_of(parts[0], _TOKEN):
        raise RequestRefused(400, "malformed request line")
    method, target, version = parts
    if len(version) != 8 or not version.startswith(b"HTTP/") or version[6:7] != b".":
        raise RequestRefused(400, "malformed version")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise RequestRefused(505, "version")
    if method not in {b"GET", b"HEAD"}:
        raise RequestRefused(405, "method")
    if not _is_made_of(target, _VISIBLE):
        raise RequestRefused(400, "malformed target")
    if target[:7].lower() == b"http://":
        target = b"/" + target[7:].partition(b"/")[2]
    if not target.startswith(b"/"):
        raise RequestRefused(400, "malformed target")
    path, _, query = target.decode("ascii").partition("?")
    return method.decode("ascii"), path, query, version == b"HTTP/1.1"


def _is_made_of(text: bytes, allowed: bytes) -> bool:
    """It is not empty and holds nothing else. One pass in C: this thread shares the interpreter with the worker."""
    return bool(text) and not text.translate(None, allowed)


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        # A name with white space before the colon, or a folded line, is how requests are smuggled.
        if not colon or not _is_made_of(name, _TOKEN):
            raise RequestRefused(400, "malformed field")
        if len(value.translate(None, _CONTROLS)) < len(value):
            raise RequestRefused(400, "control character in a field")
        name, value = name.lower(), value.strip(b" \t")
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            raise RequestRefused(400, f"{name.decode()} twice")
        else:
            fields[name] += b", " + value
    if not fields.get(b"content-length", b"0").isdigit():
        raise RequestRefused(400, "malformed Content-Length")
    return fields
