"""Packets between the nanny and its journal writer: each survives the way, and what is none is a ValueError.

What the lines in them mean is the file format's matter.
"""

import pytest

from nanny.journal.packets import (
    Append,
    Compacted,
    CompactPiece,
    DurableUpTo,
    Failure,
    OpenedFile,
    Packet,
    PieceReceived,
    ReplayPiece,
    decode,
    encode,
)


@pytest.mark.parametrize(
    "packet",
    [
        Append(1, 2, b"a\nb\n"),
        CompactPiece(7, is_last=True, lines=b""),
        ReplayPiece(b"a\n"),
        OpenedFile(3, "e", 9, created=False, torn_bytes=4, damaged="offset 5: no JSON"),
        DurableUpTo(2**63, 0),
        PieceReceived(),
        Compacted(5, 6),
        Failure("append", 28, "No space left on device"),
    ],
)
def test_a_packet_survives_the_way(packet: Packet) -> None:
    assert decode(encode(packet)) == packet


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"A",
        b"A" + bytes(15),
        b"Z" + bytes(16),
        b"O",
        b"O[]",
        b"O{}",
        b'O{"epoch":1}',
        b'F{"x":1}',
        b"F1",
        b"F" + b"[" * 9**5,
    ],
)
def test_what_is_no_packet_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(content)
