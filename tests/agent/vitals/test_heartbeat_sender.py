"""Beats towards a supervisor whose queue is full: the word is said again soon, and the sender never waits.

The listener is a real notify socket that is filled on purpose. unix(7).
"""

import socket
import tempfile
from pathlib import Path

import pytest

from agent.vitals.heartbeat_sender import HeartbeatSender
from nanny.protocol.notify_format import Beat
from tests.support.notify_listener import notify_listener
from tests.support.vitals_subject import running_subject

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


def fill(address: str) -> int:
    """Send until the queue takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for count in range(10_000):
            try:
                sender.sendto(b"STATUS=noise", address)
            except BlockingIOError:
                return count
    raise AssertionError("the queue is endless")


def test_a_full_queue_is_told_from_nobody_there() -> None:
    with notify_listener() as listener:
        sender = HeartbeatSender(listener.address)
        assert sender.send(Beat(watchdog=True))
        fill(listener.address)
        assert not sender.send(Beat(watchdog=True))
        assert (sender.is_full, sender.unheard) == (True, 0)
        listener.skip()
        assert sender.send(Beat(watchdog=True))
        assert not sender.is_full
        sender.close()
    with tempfile.TemporaryDirectory(prefix="nt") as folder:
        sender = HeartbeatSender(str(Path(folder) / "nobody"))
        assert not sender.send(Beat(watchdog=True))
        assert (sender.is_full, sender.unheard) == (False, 1)
        sender.close()


@pytest.mark.slow
def test_a_beat_that_found_the_queue_full_is_said_again_long_before_the_next_is_due() -> None:
    """Beats are a minute apart here: only trying again brings this one within the test's patience."""
    with notify_listener() as listener:
        full = fill(listener.address)
        with running_subject(notify_socket=listener.address, settings={"interval_s": 60.0}):
            # It is up, and its first beats met a full queue.
            assert full > 0
            listener.skip()
            assert listener.hear_until(lambda beat: beat.ready, timeout_s=30.0).watchdog
