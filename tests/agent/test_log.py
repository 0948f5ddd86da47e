"""Log lines against readers that are slow, gone or absent."""

import asyncio
import fcntl
import json
import logging
import os
import select
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.log import LINE_LIMIT_BYTES, LogOutlet, configure_logging
from tests.support.processes import wait_until

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def fill(writer: int) -> None:
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4095 + b"\n")
    os.set_blocking(writer, True)


def read_available(reader: int, timeout_s: float = 5.0) -> bytes:
    found = b""
    while select.select([reader], [], [], timeout_s if not found else 0.2)[0]:
        chunk = os.read(reader, 1 << 20)
        if not chunk:
            break
        found += chunk
    return found


def lines_of(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.splitlines() if line.startswith(b"{")]


def test_structlog_logging_and_warnings_come_out_as_json_lines(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = configure_logging(fd=writer, context={"incarnation": "a/7"})
    structlog.get_logger().info("started", port=80)
    logging.getLogger("aiohttp.access").warning("slow %s", "client")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", stacklevel=1)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("it failed")
        structlog.get_logger().exception("so did this")
    assert outlet.close(5.0)
    started, slow, old, failed, so_did = lines_of(read_available(reader))
    assert (started["event"], started["port"], started["level"], started["incarnation"]) == (
        "started",
        80,
        "info",
        "a/7",
    )
    assert (slow["event"], slow["logger"], slow["level"], slow["incarnation"]) == (
        "slow client",
        "aiohttp.access",
        "warning",
        "a/7",
    )
    assert "old thing" in old["event"]
    assert "ValueError: why" in failed["exception"]
    assert "ValueError: why" in so_did["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (started, slow))


def test_lines_below_the_level_are_not_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = configure_logging(level="warning", fd=writer)
    structlog.get_logger().info("no")
    logging.getLogger("x").info("no")
    structlog.get_logger().warning("yes")
    outlet.close(5.0)
    assert [line["event"] for line in lines_of(read_available(reader))] == ["yes"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging(level="loud")


async def test_a_full_pipe_holds_up_nobody_and_the_drops_are_told_when_it_drains(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    fill(writer)
    outlet = configure_logging(fd=writer, line_limit=100)
    logger = structlog.get_logger()
    slowest_s = 0.0
    for number in range(5000):
        began_at = time.perf_counter()
        logger.info("storm", number=number)
        logging.getLogger("asyncio").warning("storm too")
        slowest_s = max(slowest_s, time.perf_counter() - began_at)
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert slowest_s < 1.0
    assert outlet.waiting <= 101
    assert outlet.dropped_total >= 10_000 - 102
    drained = b""

    def told() -> bool:
        nonlocal drained
        if select.select([reader], [], [], 0)[0]:
            drained += os.read(reader, 1 << 20)
        return b"log lines dropped" in drained and drained.endswith(b"\n")

    wait_until(told, 20, "the count of dropped lines")
    report = next(line for line in lines_of(drained) if line["event"] == "log lines dropped")
    assert report["dropped"] == report["dropped_total"] == outlet.dropped_total
    assert outlet.close(5.0)


def test_the_shared_description_stays_blocking(pipe: tuple[int, int]) -> None:
    _reader, writer = pipe
    outlet = LogOutlet(writer)
    outlet.offer(b"x")
    outlet.close(5.0)
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_close_gives_up_at_its_deadline_when_nobody_reads(pipe: tuple[int, int]) -> None:
    _reader, writer = pipe
    fill(writer)
    outlet = LogOutlet(writer)
    outlet.offer(b"never read")
    began_at = time.monotonic()
    assert not outlet.close(0.2)
    assert time.monotonic() - began_at < 10


def test_a_gone_reader_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    outlet = LogOutlet(writer)
    assert outlet.offer(b"into the void")
    wait_until(lambda: outlet.dropped_total == 1, 10, "the loss to be counted")
    outlet.close(5.0)


def test_a_socket_as_stderr_never_blocks_the_writer_for_good() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outlet = LogOutlet(theirs.fileno())
        outlet.offer(b"over a socket")
        assert outlet.close(5.0)
        assert ours.recv(100) == b"over a socket\n"
        assert theirs.getblocking()


def test_a_regular_file_is_appended_to(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a+b", buffering=0) as file:
        file.write(b"before\n")
        outlet = LogOutlet(file.fileno())
        outlet.offer(b"after")
        assert outlet.close(5.0)
    assert (tmp_path / "log").read_bytes() == b"before\nafter\n"


def test_what_cannot_be_rendered_says_so_and_long_lines_are_cut(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = configure_logging(fd=writer)

    class Nameless:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    logger = structlog.get_logger()
    logger.info("odd", thing=Nameless(), path=Path("/x"))
    logger.info("long", text="y" * 100_000)
    logging.getLogger("x").warning("%d", "not a number")
    outlet.close(5.0)
    raw = read_available(reader)
    odd, long, wrong = lines_of(raw)
    assert odd["thing"] == "<Nameless without a repr: RuntimeError>"
    assert (long["event"], long["cut"]) == ("long", True)
    assert "could not be rendered" in wrong["event"]
    assert all(len(line) <= LINE_LIMIT_BYTES for line in raw.splitlines())


def test_many_threads_lose_no_line_and_tear_none(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = LogOutlet(writer, line_limit=100_000)
    threads = [
        threading.Thread(target=lambda n=n: [outlet.offer(f"{n}:{i}".encode()) for i in range(500)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    found = b""
    while found.count(b"\n") < 4000:
        assert select.select([reader], [], [], 20)[0]
        found += os.read(reader, 1 << 20)
    for thread in threads:
        thread.join()
    outlet.close(5.0)
    assert sorted(found.split()) == sorted(f"{n}:{i}".encode() for n in range(8) for i in range(500))
