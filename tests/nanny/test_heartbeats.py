"""The notify socket on a real loop: what it hands on of a crowd of datagrams, and how many it takes in a turn.

Real datagrams with the kernel's credentials; the loop is turned by hand, so nothing depends on time.
"""

from __future__ import annotations

import os
import socket
import tempfile
from typing import TYPE_CHECKING

import pytest

from nanny.common.log_lines import LogLines
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.heartbeats import NotifySocket
from nanny.linux.clocks import SystemClock
from tests.support.processes import spawn_python

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanny.protocol.notify_format import Beat


class Ear:
    """A notify socket that hears this process alone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.beats: list[Beat] = []
        self.loop = EventLoop(SystemClock(), 1e9, lambda _: None, lambda _: None)
        self.loop.add_source(DeadlineSource(lambda: self.loop.now, lambda _now: None))  # so no turn waits
        log = LogLines(lambda _: None, "test", lambda: 0.0)
        self.socket = NotifySocket(
            path,
            self.loop,
            log,
            lambda sender: sender.pid == os.getpid(),
            lambda beat, _: self.beats.append(beat),
        )
        self.sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sender.setblocking(False)

    def send(self, *texts: str) -> None:
        for text in texts:
            self.sender.sendto(text.encode(), self.path)

    def close(self) -> None:
        self.sender.close()
        self.socket.close()
        self.loop.close()


@pytest.fixture
def ear(leaves_nothing_behind: None) -> Iterator[Ear]:
    with tempfile.TemporaryDirectory(prefix="nh") as folder:
        made = Ear(os.path.join(folder, "notify"))
        try:
            yield made
        finally:
            made.close()


def test_of_beats_that_say_the_same_the_last_one_is_handed_on(ear: Ear) -> None:
    ear.send(*(f"WATCHDOG=1\nX_SEQ={n}\nX_LOOP_LAG_US={n}000000" for n in range(1, 8)))
    ear.loop.turn()
    assert [(one.seq, one.loop_lag_s) for one in ear.beats] == [(7, 7.0)]
    assert ear.socket.received_total == 7


def test_no_word_is_lost_to_a_later_one(ear: Ear) -> None:
    told = ("WATCHDOG=1\nX_SEQ=1", "READY=1\nX_SEQ=2", "WATCHDOG=1\nX_SEQ=3", "WATCHDOG=trigger\nX_SEQ=4")
    ear.send(*told, "WATCHDOG=1\nX_SEQ=5", "STOPPING=1\nX_SEQ=6")
    ear.loop.turn()
    assert [one.seq for one in ear.beats] == [1, 2, 3, 4, 5, 6]


def test_an_extension_and_the_senders_thread_are_not_lost_to_a_beat_without_them(ear: Ear) -> None:
    ear.send(
        "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=5000000", "WATCHDOG=1\nX_VITALS_TID=7", "WATCHDOG=1", "WATCHDOG=1"
    )
    ear.loop.turn()
    assert [(one.extend_timeout_s, one.vitals_tid) for one in ear.beats] == [
        (5.0, None),
        (None, 7),
        (None, None),
    ]


def test_garbage_in_between_is_counted_and_hides_no_beat(ear: Ear) -> None:
    ear.send("WATCHDOG=1\nX_SEQ=1", "X_SEQ=-1", "X_SEQ=\0", "WATCHDOG=1\nX_SEQ=2")
    ear.loop.turn()
    assert [one.seq for one in ear.beats] == [2]
    assert ear.socket.refused_total == 2


def test_a_turn_reads_a_bounded_number_however_fast_others_send(ear: Ear) -> None:
    """Senders that wait for room fill the queue again at once, so that reading until it is empty would not end."""
    flood = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    s.sendto(b'WATCHDOG=1', sys.argv[1])\n"
    )
    with spawn_python(flood, argv=(ear.path,)) as one, spawn_python(flood, argv=(ear.path,)) as two:
        one.read_line()
        two.read_line()
        most = 0
        for _ in range(50):
            before = ear.socket.received_total
            ear.loop.turn()
            most = max(most, ear.socket.received_total - before)
    assert 0 < most <= 1024
    assert ear.beats == []
    assert ear.socket.refused_total == ear.socket.received_total


def test_a_turn_parses_a_bounded_number_of_bytes(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanny.heartbeats._PARSED_BYTES_A_TURN", 3000)
    ear.send(*("WATCHDOG=1\nSTATUS=" + "x" * 1000 for _ in range(8)))
    read = []
    for _ in range(4):
        before = ear.socket.received_total
        ear.loop.turn()
        read.append(ear.socket.received_total - before)
    assert read == [3, 3, 2, 0]
    assert len(ear.beats) == 3
