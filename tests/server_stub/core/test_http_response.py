"""The reader of responses: what it accepts, what it refuses, and that neither depends on how the bytes were split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_stub.core.http_response import (
    BODY_LIMIT_BYTES,
    HEAD_LIMIT_BYTES,
    RESPONSE_LIMIT_BYTES,
    BadResponse,
    Response,
    ResponseReader,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

WHOLE = {
    "counted": (OK + b"Content-Length: 2\r\n\r\nhi", Response(200, b"hi", keeps_alive=True)),
    "empty": (OK + b"content-length:0\r\n\r\n", Response(200, b"", keeps_alive=True)),
    "no reason": (b"HTTP/1.1 503\r\nContent-Length: 1\r\n\r\nx", Response(503, b"x", keeps_alive=True)),
    "close": (
        OK + b"Content-Length: 2\r\nConnection: Keep-Alive, CLOSE\r\n\r\nhi",
        Response(200, b"hi", keeps_alive=False),
    ),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", Response(200, b"hi", keeps_alive=False)),
    "same length twice": (
        OK + b"Content-Length: 2\r\nContent-Length: 2, 2\r\n\r\nhi",
        Response(200, b"hi", keeps_alive=True),
    ),
    "chunks": (
        CHUNKED + b'2\r\nhi\r\n1;name="v"\r\n!\r\n000\r\nTrailer: x\r\n\r\n',
        Response(200, b"hi!", keeps_alive=True),
    ),
    "line ends within a chunk": (
        CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
        Response(200, b"\r\n\r\n", keeps_alive=True),
    ),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        Response(200, b"hi", keeps_alive=True),
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", Response(204, b"", keeps_alive=True)),
    "longest": (
        OK + b"Content-Length: %d\r\n\r\n" % BODY_LIMIT_BYTES + b"x" * BODY_LIMIT_BYTES,
        Response(200, b"x" * BODY_LIMIT_BYTES, keeps_alive=True),
    ),
}
BAD = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http/2": b"HTTP/2 200\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "status 999": b"HTTP/1.1 999 x\r\n\r\n",
    "bare line feed": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "bare return": OK + b"A: b\rc\r\n\r\n",
    "nul": OK + b"A: b\0c\r\n\r\n",
    "no colon": OK + b"nonsense\r\n\r\n",
    "space before colon": OK + b"Content-Length : 2\r\n\r\n",
    "folded": OK + b"A: b\r\n c\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "two lengths in one": OK + b"Content-Length: 2, 3\r\n\r\nhi!",
    "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "empty length": OK + b"Content-Length: \r\n\r\n",
    "giant number": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "too long": OK + b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT_BYTES + 1),
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    "gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunks of 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "long head": OK + b"A: " + b"x" * HEAD_LIMIT_BYTES,
    "no size": CHUNKED + b"\r\n",
    "no hex": CHUNKED + b"0x2\r\nhi\r\n",
    "negative size": CHUNKED + b"-2\r\nhi\r\n",
    "giant size": CHUNKED + b"f" * 17 + b"\r\n",
    "chunk too long": CHUNKED + b"2\r\nhi!\r\n",
    "long chunk line": CHUNKED + b"2;" + b"x" * 300,
    "chunks too long": CHUNKED + b"8000\r\n" + b"x" * 0x8000 + b"\r\n8001\r\n",
    "bad trailer": CHUNKED + b"0\r\nnonsense\r\n\r\n",
    "endless trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 2000,
    "endless interim": b"HTTP/1.1 102 Processing\r\n\r\n" * (RESPONSE_LIMIT_BYTES // 26 + 1),
    "endless extensions": CHUNKED + (b"1;" + b"e" * 200 + b"\r\nx\r\n") * (RESPONSE_LIMIT_BYTES // 207 + 1),
}


def outcome(pieces: list[bytes], *, ends: bool = True) -> Response | str | None:
    """What a reader makes of these pieces: the response, None if it broke off, or "bad"."""
    reader = ResponseReader()
    try:
        for piece in pieces:
            response = reader.feed(piece)
            if response is not None:
                return response
        return reader.end() if ends else None
    except BadResponse:
        return "bad"


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_response_is_read_from_one_piece_and_from_single_bytes(name: str) -> None:
    given_bytes, expected = WHOLE[name]

    assert outcome([given_bytes]) == expected
    assert outcome([given_bytes[n : n + 1] for n in range(len(given_bytes))]) == expected


@pytest.mark.parametrize("name", WHOLE)
def test_a_response_that_breaks_off_is_none(name: str) -> None:
    given_bytes, _ = WHOLE[name]

    for length in {0, 1, 8, len(given_bytes) // 2, len(given_bytes) - 1}:
        assert outcome([given_bytes[:length]]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_is_malformed_or_too_long_is_refused(name: str) -> None:
    assert outcome([BAD[name]]) == "bad"
    assert outcome([BAD[name][n : n + 7] for n in range(0, len(BAD[name]), 7)], ends=False) == "bad"


def test_a_body_without_a_length_lasts_until_the_connection_ends() -> None:
    reader = ResponseReader()

    assert reader.feed(OK + b"\r\nhe") is None
    assert reader.feed(b"llo") is None
    assert reader.end() == Response(200, b"hello", keeps_alive=False)


def test_a_body_without_an_end_is_refused_at_the_limit() -> None:
    pieces = [OK + b"\r\n", *[b"x" * 1000] * (BODY_LIMIT_BYTES // 1000 + 1)]

    assert outcome(pieces, ends=False) == "bad"


def test_what_follows_a_response_is_told_and_not_read() -> None:
    reader = ResponseReader()

    assert reader.feed(WHOLE["counted"][0] + b"HTTP") == WHOLE["counted"][1]
    assert reader.has_excess


def test_a_reader_reads_the_next_response_after_a_reset() -> None:
    reader = ResponseReader()
    for given_bytes, expected in WHOLE.values():
        reader.reset()
        assert not reader.has_begun
        assert reader.feed(given_bytes) == expected
        assert (reader.has_begun, reader.has_excess) == (True, False)


FRAGMENTS = st.sampled_from(
    [
        *(whole for whole, _ in WHOLE.values() if len(whole) < 1000),
        *(bad for bad in BAD.values() if len(bad) < 1000),
        OK,
        CHUNKED,
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"{}",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_split_of_any_bytes_gives_the_same(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=20)), min_size=1, max_size=6))
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=30)))
    pieces = [whole[begin:end] for begin, end in pairwise([0, *cuts, len(whole)])]

    assert outcome(pieces) == outcome([whole])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_raises_nothing_else(garbage: bytes) -> None:
    for beginning in (b"", OK, CHUNKED, OK + b"Content-Length: 3\r\n\r\n"):
        outcome([beginning + garbage])
