"""One frame of the wire: a msgpack map `{"v": version, "t": type, "s": number or absent, "b": body}`.

Whatever bytes come, `decode_frame` gives a valid message or raises ProtocolViolation, and never holds more
than about eighty times the frame's size: containers and nesting are limited, extension types (timestamps
among them) and binary values refused, text is strict UTF-8. Unknown keys of the frame are ignored, as
unknown fields are.

Knows nothing of order, sessions or connections. Format:
https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgpack

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.messages import Hello, Message, from_wire, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_FRAME_BYTES: Final = 256 * 1024
HARD_FRAME_BYTES: Final = 4 * 1024 * 1024
"""No configuration goes beyond this."""
MAX_DEPTH: Final = 16
MAX_LIST: Final = 2048
MAX_MAP: Final = 8192
MAX_TEXT_BYTES: Final = 64 * 1024
MAX_SEQUENCE: Final = 2**53
MAX_VERSION: Final = 65535


@dataclass(frozen=True, slots=True)
class Frame:
    """What one frame says."""

    version: int
    """Protocol version that its sender speaks."""
    sequence: int | None
    """Number within the session, from 1; None for messages that are not repeated."""
    message: Message


def encode_frame(
    message: Message, *, version: int, sequence: int | None = None, max_bytes: int = DEFAULT_FRAME_BYTES
) -> bytes:
    """Give the bytes of one frame.

    Raises:
        ValueError: a field breaks its rule, or the frame is larger than `max_bytes`.
    """
    return pack_frame(to_wire(message), version=version, sequence=sequence, max_bytes=max_bytes)


def pack_frame(plain: dict[str, Any], *, version: int, sequence: int | None, max_bytes: int) -> bytes:
    """Give the bytes of one frame whose message is already plain data, as `to_wire` gives it.

    Raises:
        ValueError: the frame is larger than `max_bytes`, or holds what msgpack cannot.
    """
    envelope: dict[str, Any] = {"v": version, "t": plain["t"]}
    if sequence is not None:
        envelope["s"] = sequence
    envelope["b"] = plain["b"]
    packed: bytes = msgpack.packb(envelope, use_bin_type=True, strict_types=True)
    if len(packed) > min(max_bytes, HARD_FRAME_BYTES):
        raise ValueError(
            f"{plain['t']}: {len(packed)} bytes, the limit is {min(max_bytes, HARD_FRAME_BYTES)}"
        )
    return packed


def decode_frame(frame: bytes, max_bytes: int = DEFAULT_FRAME_BYTES) -> Frame:
    """Give what `frame` says, all of it checked.

    Raises:
        ProtocolViolation: it is no frame, or one outside the limits, or holds no valid message.
    """
    if len(frame) > min(max_bytes, HARD_FRAME_BYTES):
        raise ProtocolViolation(
            f"frame of {len(frame)} bytes, the limit is {min(max_bytes, HARD_FRAME_BYTES)}"
        )
    try:
        envelope = msgpack.unpackb(
            frame,
            raw=False,
            unicode_errors="strict",
            strict_map_key=True,
            max_str_len=MAX_TEXT_BYTES,
            max_array_len=MAX_LIST,
            max_map_len=MAX_MAP,
            max_bin_len=0,
            max_ext_len=0,
            ext_hook=_refuse_extension,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolViolation(f"frame is not valid msgpack within the limits: {str(error)[:200]}") from None
    if type(envelope) is not dict:
        raise ProtocolViolation(f"a frame is a map, got {type(envelope).__name__}")
    _check_depth(envelope)
    version = envelope.get("v")
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ProtocolViolation(f"frame without a version from 1 to {MAX_VERSION} in v")
    sequence = envelope.get("s")
    if sequence is not None and (type(sequence) is not int or not 1 <= sequence <= MAX_SEQUENCE):
        raise ProtocolViolation(f"frame whose s is no sequence number from 1 to {MAX_SEQUENCE}")
    return Frame(version, sequence, from_wire(envelope))


def decode_hello(frame: bytes, max_bytes: int = DEFAULT_FRAME_BYTES) -> Hello:
    """Give the Hello that a new connection must begin with, so that a server can choose the session for it.

    Raises:
        ProtocolViolation: the frame is not a valid Hello.
    """
    message = decode_frame(frame, max_bytes).message
    if not isinstance(message, Hello):
        raise ProtocolViolation(f"a connection begins with Hello, got {type(message).__name__}")
    return message


def _refuse_extension(code: int, _content: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _check_depth(envelope: dict[str, Any]) -> None:
    """Refuse nesting deeper than MAX_DEPTH: one round a level, over containers alone."""
    level: list[Any] = [envelope]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _values(outer) if type(inner) in {dict, list}]
        if not level:
            return
    raise ProtocolViolation(f"frame nested deeper than {MAX_DEPTH}")


def _values(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container
