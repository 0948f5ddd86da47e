"""Link's log holds nobody up, whoever reads it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from typing import TYPE_CHECKING

import pytest

from nanny.link.log import LogThread, open_log
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 4096)
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


def test_a_reader_that_does_not_read_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    thread = LogThread(write_fd, lines_limit=10)

    for _ in range(1000):
        thread.write(b"x" * 999 + b"\n")

    assert thread.dropped_total >= 1000 - 10 - 5
    thread.close(timeout_s=0.05)
    written = 0
    while written < 5 * 1000:  # the thread ends once its lines find a reader again
        written += len(os.read(read_fd, 65536))
    os.set_blocking(read_fd, False)

    def drained() -> bool:
        try:
            os.read(read_fd, 65536)
        except BlockingIOError:
            return not thread._thread.is_alive()
        return False

    wait_until(drained, PATIENCE_S, "the log thread to end")


def test_levels_below_the_one_asked_for_are_left_out_and_libraries_are_heard(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    handlers = logging.getLogger().handlers[:]
    thread = LogThread(write_fd)
    try:
        log = open_log(thread, "warning")
        log.info("left out")
        log.warning("said", why="a reason")
        logging.getLogger("asyncio").error("a library's %s", "trouble")
    finally:
        logging.getLogger().handlers[:] = handlers
        thread.close(timeout_s=PATIENCE_S)

    lines = [json.loads(line) for line in os.read(read_fd, 65536).splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [("warning", "said"), ("error", "library")]
    assert (lines[0]["why"], lines[1]["message"]) == ("a reason", "a library's trouble")
