"""Signals as readiness: none lost in a burst, none taken over from a forked child, all restored at the end."""

import os
import select
import signal
import socket
from collections.abc import Iterator

import pytest

from nanny.linux.signals import SignalDoor
from tests.support.processes import spawn_python


@pytest.fixture
def door(leaves_nothing_behind: None) -> Iterator[SignalDoor]:
    opened = SignalDoor()
    yield opened
    opened.close()


def is_readable(door: SignalDoor, timeout_s: float = 0.0) -> bool:
    return bool(select.select([door.fileno()], [], [], timeout_s)[0])


def test_a_signal_makes_the_door_readable_and_is_given_once(door: SignalDoor) -> None:
    door.watch([signal.SIGUSR1, signal.SIGUSR2])
    assert (is_readable(door), door.drain()) == (False, set())
    signal.raise_signal(signal.SIGUSR1)
    assert is_readable(door) is True
    assert door.drain() == {signal.SIGUSR1}
    assert (is_readable(door), door.drain()) == (False, set())


def test_signals_of_several_kinds_come_together(door: SignalDoor) -> None:
    door.watch([signal.SIGUSR1, signal.SIGUSR2])
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        signal.raise_signal(signum)
    assert door.drain() == {signal.SIGUSR1, signal.SIGUSR2}


def test_a_signal_from_elsewhere_ends_a_wait(door: SignalDoor) -> None:
    door.watch([signal.SIGUSR1])
    code = f"import os, signal; os.kill({os.getpid()}, signal.SIGUSR1)"
    with spawn_python(code):
        assert is_readable(door, 20) is True
        assert door.drain() == {signal.SIGUSR1}


def test_the_death_of_a_child_comes_in_by_the_door(door: SignalDoor) -> None:
    door.watch([signal.SIGCHLD])
    with spawn_python("pass"):
        assert is_readable(door, 20) is True
        assert door.drain() == {signal.SIGCHLD}


def test_a_term_behind_a_burst_that_fills_the_socket_is_not_lost(
    door: SignalDoor, capfd: pytest.CaptureFixture[str]
) -> None:
    door.watch([signal.SIGUSR1, signal.SIGTERM])
    for _ in range(5000):
        signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    assert door.drain() == {signal.SIGUSR1, signal.SIGTERM}
    assert is_readable(door) is False
    assert capfd.readouterr().err == ""


def test_a_signal_to_a_forked_child_is_not_taken_for_one_to_us(leaves_nothing_behind: None) -> None:
    code = """
import os, select, signal
from nanny.linux.signals import SignalDoor
door = SignalDoor()
door.watch([signal.SIGTERM])
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
os.waitpid(pid, 0)
print(bool(select.select([door.fileno()], [], [], 0)[0]), door.drain(), flush=True)
"""
    with spawn_python(code) as child:
        assert child.read_line() == "True set()"


def test_a_forked_child_can_return_to_the_default_effects(leaves_nothing_behind: None) -> None:
    code = """
import os, select, signal
from nanny.linux.signals import SignalDoor
door = SignalDoor()
door.watch([signal.SIGTERM])
pid = os.fork()
if pid == 0:
    door.reset_in_child()
    if signal.set_wakeup_fd(-1) == -1:
        os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
_, status = os.waitpid(pid, 0)
print(os.WTERMSIG(status), bool(select.select([door.fileno()], [], [], 0)[0]), flush=True)
"""
    with spawn_python(code) as child:
        assert child.read_line() == f"{int(signal.SIGTERM)} False"


def test_closing_restores_what_was(leaves_nothing_behind: None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        former = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            door = SignalDoor()
            door.watch([signal.SIGUSR1])
            door.watch([signal.SIGUSR1])
            door.close()
            door.close()
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
            assert signal.set_wakeup_fd(-1) == theirs.fileno()
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGUSR1, former)
