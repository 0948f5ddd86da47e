"""What the nanny and its journal writer say to each other: one SOCK_SEQPACKET packet each.

The nanny asks: append these lines; replace the file by this snapshot. The writer tells: a piece of the
replay; opened; durable up to a number; compacted; failed. Lines travel as they stand in the file, so that
neither side renders twice. Pure: knows neither sockets nor files.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PACKET_BYTES = 98_304
"""No packet is larger: below the default net.core.wmem_max (212,992), with room for one longest line."""

_NUMBERS = struct.Struct("!cQQ")


@dataclass(frozen=True, slots=True)
class Append:
    """Lines with the numbers first_n to last_n."""

    first_n: int
    last_n: int
    lines: bytes


@dataclass(frozen=True, slots=True)
class CompactPiece:
    """A part of a snapshot's lines; the snapshot stands for all up to `base`."""

    base: int
    is_last: bool
    lines: bytes


@dataclass(frozen=True, slots=True)
class ReplayPiece:
    """Lines that were in the journal when it was opened."""

    lines: bytes


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """The replay is complete."""

    generation: int
    """The file that was read; 0 if there was none."""
    epoch: str
    last_n: int
    created: bool
    torn_bytes: int
    damaged: str | None


@dataclass(frozen=True, slots=True)
class DurableUpTo:
    """All records up to `n` are on disk, in a file of `file_bytes`."""

    n: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class PieceReceived:
    """There is room for more of the snapshot: without it, one larger than the socket's buffer would stick."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """The snapshot for `base` is the journal now."""

    base: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Something did not work; `operation` is one of open, append, compact, gap, reserve, fenced."""

    operation: str
    errno: int
    message: str


Packet = Append | CompactPiece | ReplayPiece | OpenedFile | DurableUpTo | PieceReceived | Compacted | Failure


def encode(packet: Packet) -> bytes:
    """The packet's bytes."""
    match packet:
        case Append(first_n, last_n, lines):
            return _NUMBERS.pack(b"A", first_n, last_n) + lines
        case CompactPiece(base, is_last, lines):
            return _NUMBERS.pack(b"C", base, is_last) + lines
        case ReplayPiece(lines):
            return b"R" + lines
        case OpenedFile():
            return b"O" + _json(
                {
                    "generation": packet.generation,
                    "epoch": packet.epoch,
                    "last_n": packet.last_n,
                    "created": packet.created,
                    "torn_bytes": packet.torn_bytes,
                    "damaged": packet.damaged,
                }
            )
        case DurableUpTo(n, file_bytes):
            return _NUMBERS.pack(b"D", n, file_bytes)
        case PieceReceived():
            return b"P"
        case Compacted(base, file_bytes):
            return _NUMBERS.pack(b"K", base, file_bytes)
        case Failure(operation, errno, message):
            return b"F" + _json({"operation": operation, "errno": errno, "message": message})


def decode(content: bytes) -> Packet:
    """The packet in `content`.

    Raises:
        ValueError: it is none; both ends are ours, so that is a bug.
    """
    kind, rest = content[:1], content[1:]
    if kind == b"R":
        return ReplayPiece(rest)
    if kind == b"O":
        return _of_json(OpenedFile, rest)
    if kind == b"F":
        return _of_json(Failure, rest)
    if kind == b"P":
        return PieceReceived()
    if kind not in b"ACDK" or len(content) < _NUMBERS.size:
        raise ValueError(f"no packet of the journal: {content[:40]!r}")
    _, first, second = _NUMBERS.unpack_from(content)
    lines = content[_NUMBERS.size :]
    if kind == b"A":
        return Append(first, second, lines)
    if kind == b"C":
        return CompactPiece(first, bool(second), lines)
    if kind == b"D":
        return DurableUpTo(first, second)
    return Compacted(first, second)


def pieces(lines: list[bytes]) -> Iterator[list[bytes]]:
    """The lines in runs that fit into one packet each."""
    run: list[bytes] = []
    size = _NUMBERS.size
    for line in lines:
        if run and size + len(line) > PACKET_BYTES:
            yield run
            run, size = [], _NUMBERS.size
        run.append(line)
        size += len(line)
    if run:
        yield run


def _of_json(kind: type[OpenedFile | Failure], content: bytes) -> OpenedFile | Failure:
    try:
        return kind(**json.loads(content))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no packet of the journal: {error}") from None


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")
