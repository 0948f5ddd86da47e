"""The worker's output through a real FIFO, held against what was written."""

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.linux.fifo import Fifo, open_output_fifo
from nanny.worker_output import ByteRing, WorkerOutput, present
from tests.support.processes import spawn_python

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


class Lines:
    """A sink that takes everything, or as much as it is told."""

    def __init__(self, room: int = 10**9) -> None:
        self.taken: list[bytes] = []
        self.room = room

    def __call__(self, lines: list[bytes]) -> int:
        took = lines[: self.room]
        self.room -= len(took)
        self.taken += took
        return len(took)


@pytest.fixture
def fifo(leaves_nothing_behind: None, tmp_path: Path) -> Iterator[Fifo]:
    opened = open_output_fifo(str(tmp_path / "output"), 1024 * 1024)
    yield opened
    opened.close()


def read_all(output: WorkerOutput) -> None:
    while output.on_readable():
        pass


def test_lines_come_whole_however_they_were_written(fifo: Fifo) -> None:
    sink = Lines()
    output = WorkerOutput(fifo.read_fd, sink)
    for piece in (b"one\ntw", b"o", b"\n\nthr", b"ee"):
        os.write(fifo.write_fd, piece)
        read_all(output)
    assert sink.taken == [b"one", b"two", b""]
    output.finish_line()
    output.finish_line()
    assert sink.taken == [b"one", b"two", b"", b"three"]
    assert (output.lines_total, output.bytes_total, output.dropped_total) == (4, 14, 0)


def test_reading_an_empty_fifo_gives_nothing_and_waits_for_nothing(fifo: Fifo) -> None:
    sink = Lines()
    output = WorkerOutput(fifo.read_fd, sink)
    assert (output.on_readable(), sink.taken, output.is_at_end) == (False, [], False)


def test_a_turn_reads_a_bounded_amount_and_says_that_there_is_more(fifo: Fifo) -> None:
    sink = Lines()
    output = WorkerOutput(fifo.read_fd, sink, turn_bytes=1000)
    os.write(fifo.write_fd, b"x" * 99 + b"\n" + b"y" * 2400)
    assert [output.on_readable() for _ in range(3)] == [True, True, False]
    assert (output.bytes_total, sink.taken) == (2500, [b"x" * 99])


def test_long_lines_are_cut_wherever_the_reads_fall(fifo: Fifo) -> None:
    sink = Lines()
    output = WorkerOutput(fifo.read_fd, sink, line_limit_bytes=100, turn_bytes=70)
    os.write(fifo.write_fd, b"a" * 250 + b"\nshort\n" + b"b" * 100 + b"\n" + b"c" * 130)
    read_all(output)
    output.finish_line()
    assert [len(line) for line in sink.taken] == [100, 100, 50, 5, 100, 100, 30]
    assert b"".join(sink.taken) == b"a" * 250 + b"short" + b"b" * 100 + b"c" * 130
    assert output.cut_total == 3


@settings(deadline=None)
@given(
    chunks=st.lists(st.text("ab\n", max_size=40).map(str.encode), max_size=30),
    limit=st.integers(1, 12),
    turn=st.integers(1, 50),
)
def test_lines_are_those_of_the_whole_stream_cut_at_the_limit(
    chunks: list[bytes], limit: int, turn: int
) -> None:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    try:
        sink = Lines()
        output = WorkerOutput(read_fd, sink, line_limit_bytes=limit, turn_bytes=turn)
        for chunk in chunks:
            os.write(write_fd, chunk)
            read_all(output)
        output.finish_line()
        whole = b"".join(chunks)
        expected = [
            line[start : start + limit]
            for line in whole.removesuffix(b"\n").split(b"\n")
            for start in range(0, max(1, len(line)), limit)
        ]
        assert sink.taken == (expected if whole else [])
    finally:
        os.close(read_fd)
        os.close(write_fd)


@settings(deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=40), max_size=30),
    capacity=st.integers(1, 30),
    limit=st.integers(0, 40),
)
def test_the_ring_keeps_exactly_the_last_bytes(chunks: list[bytes], capacity: int, limit: int) -> None:
    ring = ByteRing(capacity)
    for chunk in chunks:
        ring.append(chunk)
    expected = b"".join(chunks)[-capacity:]
    assert ring.last() == expected
    assert ring.last(limit) == (expected[-limit:] if limit else b"")


def test_what_the_sink_refuses_is_counted_and_still_in_the_ring(fifo: Fifo) -> None:
    sink = Lines(room=2)
    output = WorkerOutput(fifo.read_fd, sink)
    os.write(fifo.write_fd, b"1\n2\n3\n4\n5\n")
    read_all(output)
    assert (sink.taken, output.lines_total, output.dropped_total) == ([b"1", b"2"], 5, 3)
    assert output.tail() == b"1\n2\n3\n4\n5\n"
    assert output.tail(4) == b"4\n5\n"


def test_undecodable_bytes_are_kept_and_replaced_only_for_people(fifo: Fifo) -> None:
    sink = Lines()
    output = WorkerOutput(fifo.read_fd, sink)
    os.write(fifo.write_fd, b"caf\xe9 \xff\n")
    read_all(output)
    assert (output.tail(), sink.taken) == (b"caf\xe9 \xff\n", [b"caf\xe9 \xff"])
    assert present(sink.taken[0]) == "caf\ufffd \ufffd"


def test_the_end_of_an_ordinary_pipe_is_told_once_and_finishes_the_last_line() -> None:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    sink = Lines()
    output = WorkerOutput(read_fd, sink)
    os.write(write_fd, b"last words")
    os.close(write_fd)
    read_all(output)
    assert (output.on_readable(), output.is_at_end, sink.taken) == (False, True, [b"last words"])
    os.close(read_fd)


def test_a_blocking_descriptor_is_refused() -> None:
    read_fd, write_fd = os.pipe()
    with pytest.raises(AssertionError):
        WorkerOutput(read_fd, Lines())
    os.close(read_fd)
    os.close(write_fd)


def test_a_log_storm_of_a_real_child_is_read_in_short_turns_and_loses_no_byte(fifo: Fifo) -> None:
    count = 100_000
    code = """
import sys
for number in range(int(sys.argv[1])):
    sys.stdout.write("%07d a line of a log storm that goes on and on\\n" % number)
"""
    sink = Lines()
    output = WorkerOutput(fifo.read_fd, sink)
    turns = []
    with spawn_python(code, argv=(str(count),), stdout=fifo.write_fd) as child:
        deadline = time.monotonic() + 30
        while output.lines_total < count and time.monotonic() < deadline:
            select.select([output], [], [], 1.0)
            started = time.thread_time()
            output.on_readable()
            turns.append(time.thread_time() - started)
        assert child.wait_for_exit() == 0
    assert [int(line[:7]) for line in sink.taken] == list(range(count))
    assert len(output.tail()) == 256 * 1024
    assert sink.taken[-1] in output.tail()
    # CPU time of one turn, seen: 0.2 ms. The bound tells a turn of 64 KiB from one that reads all there is.
    assert sorted(turns)[len(turns) // 2] < 0.01
    assert len(turns) >= output.bytes_total // (64 * 1024)
