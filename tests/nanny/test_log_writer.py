"""Log lines reach their sinks in order, or are counted; the nanny never waits for them."""

import fcntl
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanny.log_writer import MAX_LINE_BYTES, LogFiles, LogPipe, Source
from tests.support.processes import wait_until
from tests.support.small_fork import SmallForked, SmallForks

DROPPED = b'"event":"log-lines-dropped","count":'


class Streams:
    """Pipes in the place of the forked writer's stdout and stderr."""

    def __init__(self) -> None:
        self.out, self._out_end = os.pipe()
        self.err, self._err_end = os.pipe()
        self._rest = {self.out: b"", self.err: b""}

    def forking(self, forks: SmallForks) -> Callable[..., SmallForked]:
        """Give a fork function whose children write here."""

        def fork(function: Callable[[], None], keep_descriptors: tuple[int, ...]) -> SmallForked:
            def redirected() -> None:
                os.dup2(self._out_end, 1)
                os.dup2(self._err_end, 2)
                os.closerange(
                    max(self.out, self._out_end, self.err, self._err_end) + 1, min(keep_descriptors)
                )
                for end in (self.out, self._out_end, self.err, self._err_end):
                    os.close(end)
                function()

            ends = (self.out, self._out_end, self.err, self._err_end)
            return forks(redirected, (*keep_descriptors, *ends))

        return fork

    def lines(self, descriptor: int, count: int) -> list[bytes]:
        """Read this many lines."""
        deadline = time.monotonic() + 20
        while self._rest[descriptor].count(b"\n") < count:
            ready, _, _ = select.select([descriptor], [], [], deadline - time.monotonic())
            assert ready, f"only {self._rest[descriptor][-300:]!r}"
            self._rest[descriptor] += os.read(descriptor, 1 << 16)
        *lines, rest = self._rest[descriptor].split(b"\n", count)
        self._rest[descriptor] = rest
        return lines

    def close(self) -> None:
        for end in (self.out, self._out_end, self.err, self._err_end):
            os.close(end)


@pytest.fixture
def streams(leaves_nothing_behind: None) -> Iterator[Streams]:
    both = Streams()
    yield both
    both.close()


@pytest.fixture
def forks(streams: Streams) -> Iterator[SmallForks]:
    with SmallForks() as small_forks:
        yield small_forks


@pytest.fixture
def start(streams: Streams, forks: SmallForks) -> Iterator[Callable[..., LogPipe]]:
    pipes = []

    def started(files: LogFiles | None = None) -> LogPipe:
        pipe = LogPipe(streams.forking(forks), files)
        pipe.start()
        pipes.append(pipe)
        return pipe

    yield started
    for pipe in pipes:
        pipe.close()


def test_the_nannys_lines_go_to_stderr_and_the_workers_to_stdout(
    streams: Streams, start: Callable[..., LogPipe]
) -> None:
    pipe = start()

    pipe.write(Source.NANNY, [b"one", b"two"])
    pipe.write(Source.WORKER, [b"", b"\xff\x00 not text"])

    assert streams.lines(streams.err, 2) == [b"one", b"two"]
    assert streams.lines(streams.out, 2) == [b"", b"\xff\x00 not text"]


def test_a_workers_warnings_reach_the_journal_as_warnings_and_the_file_as_they_are(
    streams: Streams, start: Callable[..., LogPipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status = os.fstat(streams.out)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    pipe = start(LogFiles(str(tmp_path)))
    said = [b'{"event":"e","level":"warning"}', b"not JSON", b'{"level": "error"}', b'{"level":"info"}']

    pipe.write(Source.WORKER, said)

    assert streams.lines(streams.out, 4) == [b"<4>" + said[0], said[1], b"<3>" + said[2], said[3]]
    assert (tmp_path / "worker.log").read_bytes().splitlines() == said


def test_what_was_handed_over_is_written_after_the_nanny_is_gone(
    streams: Streams, start: Callable[..., LogPipe], forks: SmallForks
) -> None:
    pipe = start()
    pipe.write(Source.NANNY, [b"first"])
    assert streams.lines(streams.err, 1) == [b"first"]
    pipe.writer.send_signal(signal.SIGSTOP)
    pipe.write(Source.NANNY, [b"last %d" % i for i in range(50)])
    pipe.close()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        pipe.writer.send_signal(signum)

    pipe.writer.send_signal(signal.SIGCONT)

    assert forks.wait_for_exit(pipe.writer) == 0
    assert streams.lines(streams.err, 50) == [b"last %d" % i for i in range(50)]


def test_a_stuck_reader_costs_lines_that_are_counted_and_never_the_nannys_time(
    streams: Streams, start: Callable[..., LogPipe]
) -> None:
    pipe = start()

    # Nobody reads stderr: the pipe fills, the writer blocks in it, the socket fills.
    written = 0
    while pipe.dropped_total < 100:
        pipe.write(Source.NANNY, [b"%06d " % written + b"x" * 1000])
        written += 1
        assert written < 1_000_000
    pipe.write(Source.NANNY, [b"%06d last" % written])

    seen: list[int] = []
    counted = 0
    while len(seen) + counted <= written:
        pipe.flush_drops()
        line = streams.lines(streams.err, 1)[0]
        if DROPPED in line:
            counted += int(line.partition(DROPPED)[2].rstrip(b"}"))
        else:
            seen.append(int(line[:6]))
    assert seen == sorted(set(seen))
    assert counted == pipe.dropped_total >= 100
    pipe.write(Source.NANNY, [b"after"])
    assert streams.lines(streams.err, 1) == [b"after"]


def test_a_line_after_a_gap_is_preceded_by_the_count(streams: Streams, start: Callable[..., LogPipe]) -> None:
    pipe = start()
    pipe.writer.send_signal(signal.SIGKILL)
    wait_until(pipe.on_readable, 10, "the writer's end")
    pipe.write(Source.WORKER, [b"lost"] * 3)

    pipe.start()
    pipe.write(Source.NANNY, [b"after"])

    count, after = streams.lines(streams.err, 2)
    assert (DROPPED + b"3}" in count, after) == (True, b"after")
    assert pipe.dropped_total == 3


def test_a_writer_that_hangs_is_replaced(
    streams: Streams, start: Callable[..., LogPipe], forks: SmallForks
) -> None:
    pipe = start()
    hung = pipe.writer
    hung.send_signal(signal.SIGSTOP)
    assert not pipe.on_readable()

    pipe.start()
    pipe.write(Source.NANNY, [b"from the next"])

    assert streams.lines(streams.err, 1) == [b"from the next"]
    assert forks.wait_for_exit(hung) == -signal.SIGKILL


def test_a_line_too_long_is_cut_and_says_so(streams: Streams, start: Callable[..., LogPipe]) -> None:
    pipe = start()

    pipe.write(Source.WORKER, [b"x" * (MAX_LINE_BYTES + 7)])

    assert streams.lines(streams.out, 1) == [b"x" * MAX_LINE_BYTES + b" [7 bytes cut]"]


def test_a_stream_that_others_made_non_blocking_loses_nothing(
    streams: Streams, start: Callable[..., LogPipe]
) -> None:
    flags = fcntl.fcntl(streams._out_end, fcntl.F_GETFL)
    fcntl.fcntl(streams._out_end, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    pipe = start()

    lines = [b"%03d" % i + b"x" * 2000 for i in range(60)]
    for line in lines:
        pipe.write(Source.WORKER, [line])
    # Far more than the pipe's 64 KiB: the writer meets EAGAIN.
    assert streams.lines(streams.out, 60 - pipe.dropped_total) == lines[: 60 - pipe.dropped_total]


def test_a_full_disk_leaves_no_half_lines_and_the_streams_go_on(
    streams: Streams, start: Callable[..., LogPipe], forks: SmallForks, tmp_path: Path
) -> None:
    """RLIMIT_FSIZE stands in for the disk: it, too, takes a part of the write and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        pipe = start(LogFiles(str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    pipe.write(Source.NANNY, [b"x" * 99, b"y" * 99, b"z" * 9])
    pipe.close()
    forks.wait_for_exit(pipe.writer)

    trouble = b'{"level":"error","event":"log-sink-failed","sink":"nanny.log","errno":"EFBIG"}'
    assert streams.lines(streams.err, 4) == [b"x" * 99, trouble, b"y" * 99, b"z" * 9]
    assert (tmp_path / "nanny.log").read_bytes() == b"x" * 99 + b"\n"


def test_files_are_bounded_in_size_and_number(
    streams: Streams, start: Callable[..., LogPipe], forks: SmallForks, tmp_path: Path
) -> None:
    pipe = start(LogFiles(str(tmp_path / "log"), max_bytes=100, old_files=2))

    for i in range(20):
        pipe.write(Source.NANNY, [b"line %02d " % i + b"." * 31])
    pipe.write(Source.WORKER, [b"a worker's"])
    pipe.close()
    assert forks.wait_for_exit(pipe.writer) == 0

    found = {path.name: path.read_bytes() for path in (tmp_path / "log").iterdir()}
    assert sorted(found) == ["nanny.log", "nanny.log.1", "nanny.log.2", "worker.log"]
    kept = found["nanny.log.2"] + found["nanny.log.1"] + found["nanny.log"]
    assert kept == b"".join(b"line %02d " % i + b"." * 31 + b"\n" for i in range(14, 20))
    assert found["worker.log"] == b"a worker's\n"


def test_a_file_that_was_there_is_continued(
    streams: Streams, start: Callable[..., LogPipe], forks: SmallForks, tmp_path: Path
) -> None:
    (tmp_path / "nanny.log").write_bytes(b"before\n")
    pipe = start(LogFiles(str(tmp_path), max_bytes=14, old_files=1))

    pipe.write(Source.NANNY, [b"fits in"[:6], b"rotates"])
    pipe.close()
    forks.wait_for_exit(pipe.writer)

    assert (tmp_path / "nanny.log.1").read_bytes() == b"before\nfits i\n"
    assert (tmp_path / "nanny.log").read_bytes() == b"rotates\n"


def test_a_file_that_cannot_be_written_is_said_once_and_its_gap_when_it_can(
    streams: Streams, start: Callable[..., LogPipe], forks: SmallForks, tmp_path: Path
) -> None:
    (tmp_path / "log").write_bytes(b"in the way")
    pipe = start(LogFiles(str(tmp_path / "log")))

    pipe.write(Source.NANNY, [b"one", b"two", b"three"])
    lines = streams.lines(streams.err, 4)
    (tmp_path / "log").unlink()
    pipe.write(Source.NANNY, [b"four"])
    pipe.close()
    forks.wait_for_exit(pipe.writer)

    trouble = b'{"level":"error","event":"log-sink-failed","sink":"nanny.log","errno":"EEXIST"}'
    assert lines == [trouble, b"one", b"two", b"three"]
    gap = b'{"level":"warning","event":"log-lines-lost","sink":"nanny.log","count":3}'
    assert (tmp_path / "log" / "nanny.log").read_bytes() == gap + b"\nfour\n"
