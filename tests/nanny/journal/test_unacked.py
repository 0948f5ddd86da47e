"""What is not yet acknowledged is handed out in order, once for each writer, and within bounds."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nanny.journal.packets import (
    PACKET_BYTES,
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
    pieces,
)
from nanny.journal.records_file import parse_lines, render_body
from nanny.journal.unacked import MAX_UNACKED_BYTES, MAX_UNACKED_RECORDS, Unacked

FIRST_N = 100


def bodies(count: int, size: int = 1) -> Sequence[bytes]:
    return [render_body({"type": "t", "x": "y" * size})] * count


class QueueAgainstModel(RuleBasedStateMachine):
    """A model writer takes packets, acknowledges or dies; its journal must always be 1, 2, 3 ... without holes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Unacked()
        self.on_disk = FIRST_N
        self.inbox: list[bytes] = []

    @rule(count=st.integers(1, 5), size=st.sampled_from([1, 1000, 40_000]))
    def add(self, count: int, size: int) -> None:
        if self.queue.has_room(bodies(count, size)):
            self.queue.add(bodies(count, size), 1.0)

    @rule(count=st.integers(0, 4))
    def compact(self, count: int) -> None:
        self.queue.add_snapshot(tuple(bodies(count, 40_000)), 0, 1.0)

    @rule()
    def send(self) -> None:
        packet = self.queue.next_packet(FIRST_N)
        if packet is not None:
            assert len(packet) <= PACKET_BYTES
            self.inbox.append(packet)
            self.queue.packet_sent()

    @rule()
    def write_and_acknowledge(self) -> None:
        for content in self.inbox:
            packet = decode(content)
            if isinstance(packet, Append):
                numbers = [record["n"] for record in parse_lines(packet.lines)]
                assert numbers == list(range(packet.first_n, packet.last_n + 1))
                assert packet.first_n <= self.on_disk + 1, "a hole"
                self.on_disk = max(self.on_disk, packet.last_n)
                self.queue.acknowledge(self.on_disk - FIRST_N)
            elif isinstance(packet, CompactPiece) and packet.is_last:
                assert packet.base <= self.on_disk
                self.queue.take_snapshot(packet.base - FIRST_N)
        self.inbox = []

    @rule(written=st.booleans())
    def die(self, written: bool) -> None:
        if written:
            for content in self.inbox:
                packet = decode(content)
                if isinstance(packet, Append):
                    self.on_disk = max(self.on_disk, packet.last_n)
        self.inbox = []
        self.queue.hand_out_again()

    @invariant()
    def oldest_is_known_while_something_waits(self) -> None:
        if self.on_disk - FIRST_N < self.queue.last_ticket:
            assert self.queue.oldest_at == 1.0


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(deadline=None, max_examples=60)


def test_the_bounds_are_met_exactly() -> None:
    by_count, by_size = Unacked(), Unacked()
    by_count.add(bodies(MAX_UNACKED_RECORDS - 1), 0.0)
    size = len(bodies(1, 60_000)[0])
    by_size.add(bodies(MAX_UNACKED_BYTES // size, 60_000), 0.0)

    assert by_count.has_room(bodies(1))
    assert not by_count.has_room(bodies(2))
    assert not by_size.has_room(bodies(1, 60_000))


def test_room_comes_back_with_acknowledgements() -> None:
    queue = Unacked()
    queue.add(bodies(MAX_UNACKED_RECORDS), 0.0)
    while queue.next_packet(0) is not None:
        queue.packet_sent()

    queue.acknowledge(10)

    assert queue.has_room(bodies(10))
    assert not queue.has_room(bodies(11))


def test_pieces_keep_the_order_and_fit() -> None:
    lines = [b"x" * 40_000, b"y" * 60_000, b"z"]

    assert list(pieces(lines)) == [lines[:1], lines[1:]]


@pytest.mark.parametrize(
    "packet",
    [
        Append(2**40, 2**40 + 1, b"a\nb\n"),
        CompactPiece(3, is_last=True, lines=b""),
        CompactPiece(3, is_last=False, lines=b"a\n"),
        ReplayPiece(b"a\n"),
        OpenedFile(3, "e\udc80", 2**40, created=False, torn_bytes=5, damaged=None),
        DurableUpTo(2**40, 5),
        PieceReceived(),
        Compacted(2**40, 5),
        Failure("append", 28, "No space left"),
    ],
)
def test_every_packet_is_decoded_to_itself(packet: Packet) -> None:
    assert decode(encode(packet)) == packet


@pytest.mark.parametrize("content", [b"", b"X", b"A", b"D1234567"])
def test_what_is_no_packet_is_a_bug(content: bytes) -> None:
    with pytest.raises(ValueError):
        decode(content)
