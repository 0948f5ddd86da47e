"""Whatever bytes come, decoding gives a valid frame or a ProtocolViolation, and stays small doing so."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.protocol.codec import (
    DEFAULT_FRAME_BYTES,
    HARD_FRAME_BYTES,
    MAX_LIST,
    Frame,
    decode_frame,
    decode_hello,
    encode_frame,
)
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.messages import Ping, SpecOffer, to_wire
from tests.support.wire_examples import EXAMPLES, HELLO

REPORT = encode_frame(EXAMPLES["nanny-report.full"], version=1)


def packed(**changes: object) -> bytes:
    """Give the frame of a ping with some keys changed; None takes one away."""
    envelope = {"v": 1, **to_wire(Ping(7)), **changes}
    frame: bytes = msgpack.packb({key: value for key, value in envelope.items() if value is not None})
    return frame


def refusal(frame: bytes, max_bytes: int = DEFAULT_FRAME_BYTES) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        decode_frame(frame, max_bytes)
    return str(caught.value)


def test_a_frame_says_version_sequence_and_message() -> None:
    assert decode_frame(packed(v=3, s=9)) == Frame(3, 9, Ping(7))
    assert decode_frame(packed()) == Frame(1, None, Ping(7))


def test_keys_of_a_newer_frame_are_ignored() -> None:
    assert decode_frame(packed(z=[1, 2])) == Frame(1, None, Ping(7))


@pytest.mark.parametrize("length", range(len(REPORT)))
def test_a_frame_cut_short_at_any_byte_is_refused(length: int) -> None:
    refusal(REPORT[:length])


def test_bytes_after_the_frame_are_refused() -> None:
    assert "extra data" in refusal(REPORT + b"\xc0")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(REPORT) - 1), st.integers(1, 255))
def test_a_frame_with_a_wrong_byte_is_refused_or_another_valid_message(position: int, flip: int) -> None:
    frame = bytearray(REPORT)
    frame[position] ^= flip
    try:
        decoded = decode_frame(bytes(frame))
    except ProtocolViolation:
        return
    assert decode_frame(encode_frame(decoded.message, version=1)).message == decoded.message


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_a_valid_message(frame: bytes) -> None:
    try:
        decoded = decode_frame(frame)
    except ProtocolViolation:
        return
    assert decode_frame(encode_frame(decoded.message, version=1)).message == decoded.message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc0",
        msgpack.packb([1, 2]),
        msgpack.packb("ping"),
        b"\xc1",
        packed(v=None),
        packed(v=0),
        packed(v=True),
        packed(v="1"),
        packed(v=65536),
        packed(s=0),
        packed(s=-1),
        packed(s=1.0),
        packed(s=2**53 + 1),
        packed(t=None),
        packed(t="pang"),
        packed(b=None),
        packed(b=[7]),
        packed(z=b"binary"),
        packed(z=msgpack.ExtType(5, b"x")),
        packed(z=msgpack.ExtType(5, b"")),
        packed(z=msgpack.Timestamp(1)),
        packed(z={1: "number as key"}),
        packed(z={b"k": "bytes as key"}),
        packed(z=[0] * (MAX_LIST + 1)),
        packed(z="x" * 70000),
        b"\x81\xa1z\xa2\xff\xfe",
        b"\x81\xa1z\xa3\xed\xa0\x80",
    ],
)
def test_a_malformed_frame_is_refused(frame: bytes) -> None:
    refusal(frame)


def test_numbers_that_are_none_are_refused() -> None:
    plain = to_wire(EXAMPLES["worker-report.full"])
    plain["b"]["loop_lag_s"] = float("nan")

    assert refusal(msgpack.packb({"v": 1, **plain})).startswith("worker-report.loop_lag_s: expected")


def test_nesting_is_limited_even_where_nobody_looks() -> None:
    def nested(levels: int) -> list[Any]:
        return [nested(levels - 1)] if levels else []

    assert decode_frame(packed(z=nested(14))).message == Ping(7)
    assert refusal(packed(z=nested(15))) == "frame nested deeper than 16"
    assert refusal(b"\x82\xa1v\x01\xa1z" + b"\x91" * 100_000 + b"\xc0").startswith(
        "frame is not valid msgpack"
    )


def test_the_size_of_a_frame_is_limited_by_setting_and_for_good() -> None:
    assert refusal(bytes(DEFAULT_FRAME_BYTES + 1)).startswith("frame of 262145 bytes, the limit is 262144")
    assert refusal(REPORT, max_bytes=100).startswith(f"frame of {len(REPORT)} bytes, the limit is 100")
    assert refusal(bytes(HARD_FRAME_BYTES + 1), max_bytes=1 << 40).startswith("frame of 4194305 bytes")


def test_a_frame_too_large_to_be_received_is_not_sent() -> None:
    offer = SpecOffer(1, {str(key): "x" * 4000 for key in range(100)})

    with pytest.raises(ValueError, match=r"spec-offer: \d+ bytes, the limit is 262144"):
        encode_frame(offer, version=1)


def test_the_largest_frame_that_is_sent_can_be_received() -> None:
    spec: dict[str, Any] = {"leaf": 1}
    for _ in range(10):
        spec = {"in": spec}
    offer = SpecOffer(1, spec | {str(key): "x" * 4000 for key in range(60)})

    assert decode_frame(encode_frame(offer, version=1)).message == offer


def array_bomb(headers: int) -> bytes:
    return b"\x81\xa1z" + b"\xdd\xff\xff\xff\xff" * headers


@pytest.mark.parametrize(
    "bomb",
    [
        array_bomb(1000),
        b"\x81\xa1z" + (b"\xdc" + MAX_LIST.to_bytes(2, "big")) * 80_000,
        b"\x81\xa1z" + b"\xdf\xff\xff\xff\xff" * 1000,
        b"\x81\xa1z" + b"\xdb\xff\xff\xff\xff",
        b"\x81\xa1z\xdc\x00\x80" + (b"\xdc" + MAX_LIST.to_bytes(2, "big") + b"\x80" * MAX_LIST) * 127,
    ],
    ids=["huge lists", "nested lists", "huge maps", "huge text", "many small maps"],
)
def test_a_bomb_costs_little_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        refusal(bomb, max_bytes=HARD_FRAME_BYTES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 80 * DEFAULT_FRAME_BYTES


def test_a_hello_is_recognised_before_its_session_is_known() -> None:
    assert decode_hello(encode_frame(HELLO, version=1)) == HELLO
    with pytest.raises(ProtocolViolation, match="a connection begins with Hello, got Ping"):
        decode_hello(packed())
