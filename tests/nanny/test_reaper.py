"""The one reaper with real deaths: told once, never lost, never stolen, bounded a turn."""

import os
import select
import signal
from collections.abc import Callable
from functools import partial

import pytest

from nanny.linux import procfs
from nanny.linux.signals import SignalDoor
from nanny.reaper import UNKNOWN, ExitStatus, OnExit, Reaper
from tests.support.processes import spawn_python, wait_until

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")

Deaths = list[tuple[int, ExitStatus]]


def fork(in_child: Callable[[], object]) -> int:
    """Fork a child that runs `in_child` and exits with 0 if it comes back."""
    pid = os.fork()
    if pid == 0:
        try:
            in_child()
        finally:
            os._exit(0)
    return pid


def dead_child(in_child: Callable[[], object]) -> int:
    """Fork a child and wait until it is a zombie, without reaping it."""
    pid = fork(in_child)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


@pytest.fixture
def deaths() -> Deaths:
    return []


@pytest.fixture
def on_exit(deaths: Deaths) -> OnExit:
    return lambda pid, status: deaths.append((pid, status))


def test_an_exit_code_and_a_signal_are_told_apart_and_told_once(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()
    gate, opener = os.pipe()
    exits = fork(lambda: os.read(gate, 1) and os._exit(3))
    killed = fork(signal.pause)
    reaper.register(exits, on_exit)
    reaper.register(killed, on_exit)
    os.kill(killed, signal.SIGKILL)
    os.write(opener, b"x")
    for pid in (exits, killed):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.close(gate)
    os.close(opener)
    assert reaper.reap() is False
    assert reaper.reap() is False
    assert sorted(deaths) == sorted(
        [(exits, ExitStatus(3, None)), (killed, ExitStatus(None, signal.SIGKILL))]
    )
    assert (reaper.reaped_total, reaper.strangers_total) == (2, 0)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(0, None), "exit code 0"),
        (ExitStatus(3, None), "exit code 3"),
        (ExitStatus(None, signal.SIGKILL), "SIGKILL"),
        (ExitStatus(None, signal.SIGABRT, core_dumped=True), "SIGABRT (core dumped)"),
        (ExitStatus(None, 44), "signal 44"),
        (UNKNOWN, "unknown"),
    ],
)
def test_a_status_reads_as_people_say_it(status: ExitStatus, text: str) -> None:
    assert str(status) == text


def test_a_child_that_died_before_it_was_registered_is_told_at_registration(
    deaths: Deaths, on_exit: OnExit
) -> None:
    reaper = Reaper()
    pid = dead_child(lambda: os._exit(5))
    reaper.register(pid, on_exit)
    assert deaths == [(pid, ExitStatus(5, None))]


def test_a_child_that_was_reaped_before_it_was_registered_is_told_all_the_same(
    deaths: Deaths, on_exit: OnExit
) -> None:
    reaper = Reaper()
    pid = dead_child(lambda: os._exit(6))
    reaper.reap()
    assert reaper.strangers_total == 1
    reaper.register(pid, on_exit)
    assert deaths == [(pid, ExitStatus(6, None))]


def test_the_status_of_an_earlier_bearer_of_the_pid_is_not_told(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()
    pid = fork(signal.pause)
    # As if a stranger of this pid had been reaped before the kernel came round to it again.
    reaper._unclaimed[pid] = ExitStatus(99, None)
    reaper.register(pid, on_exit)
    assert deaths == []
    os.kill(pid, signal.SIGTERM)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    reaper.reap()
    assert deaths == [(pid, ExitStatus(None, signal.SIGTERM))]


def test_a_pid_that_is_no_child_of_ours_is_told_as_unknown(deaths: Deaths, on_exit: OnExit) -> None:
    Reaper().register(1, on_exit)
    assert deaths == [(1, UNKNOWN)]


def test_a_living_child_is_not_told(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()
    pid = fork(signal.pause)
    reaper.register(pid, on_exit)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    assert (reaper.reap(), deaths) == (False, [])
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    reaper.reap()
    assert deaths == [(pid, ExitStatus(None, signal.SIGKILL))]


def test_a_forgotten_child_is_reaped_as_a_stranger(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()
    pid = dead_child(lambda: None)
    living = fork(signal.pause)
    reaper.register(living, on_exit)
    reaper.forget(living)
    os.kill(living, signal.SIGKILL)
    os.waitid(os.P_PID, living, os.WEXITED | os.WNOWAIT)
    assert (reaper.reap(), deaths, reaper.strangers_total) == (False, [], 2)
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED)


def test_a_storm_of_zombies_is_taken_in_bounded_turns(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()
    pids = [dead_child(lambda: None) for _ in range(25)]
    ours = fork(signal.pause)
    reaper.register(ours, on_exit)
    turns = []
    while reaper.reap(limit=10):
        turns.append(reaper.reaped_total)
    assert turns == [10, 20]
    assert (reaper.strangers_total, deaths) == (len(pids), [])
    os.kill(ours, signal.SIGKILL)
    os.waitid(os.P_PID, ours, os.WEXITED | os.WNOWAIT)
    reaper.reap()
    assert [pid for pid, _ in deaths] == [ours]


def test_what_nobody_claims_is_kept_in_bounded_number() -> None:
    reaper = Reaper()
    for _ in range(70):
        dead_child(lambda: None)
        reaper.reap()
    assert len(reaper._unclaimed) == 64


def test_an_owner_may_fork_and_register_while_it_is_told(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()
    successors = []

    def respawn(pid: int, status: ExitStatus) -> None:
        on_exit(pid, status)
        successors.append(dead_child(lambda: os._exit(8)))
        reaper.register(successors[0], on_exit)

    first = dead_child(lambda: os._exit(7))
    reaper.register(first, respawn)
    reaper.reap()
    assert deaths == [(first, ExitStatus(7, None)), (successors[0], ExitStatus(8, None))]


def test_an_owner_that_raises_loses_no_other_childs_status(deaths: Deaths, on_exit: OnExit) -> None:
    reaper = Reaper()

    def fail(pid: int, status: ExitStatus) -> None:
        raise RuntimeError("a bug of the owner")

    pids = [fork(signal.pause) for _ in range(2)]
    reaper.register(pids[0], fail)
    reaper.register(pids[1], on_exit)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    raised = 0
    for _ in range(2):
        try:
            reaper.reap()
        except RuntimeError:
            raised += 1
    assert (raised, deaths) == (1, [(pids[1], ExitStatus(None, signal.SIGKILL))])


def test_sigchld_by_the_signal_door_is_enough_to_learn_of_every_death(
    deaths: Deaths, on_exit: OnExit
) -> None:
    reaper = Reaper()
    door = SignalDoor()
    try:
        door.watch([signal.SIGCHLD])
        for code in range(10):
            reaper.register(fork(partial(os._exit, code)), on_exit)
        while len(deaths) < 10:
            assert select.select([door.fileno()], [], [], 10.0)[0]
            door.drain()
            while reaper.reap():
                pass
    finally:
        door.close()
    assert sorted(status.code for _, status in deaths if status.code is not None) == list(range(10))


def test_adopted_orphans_are_reaped_and_counted_beside_a_child_of_ours() -> None:
    code = """
import os, signal, sys
from nanny.linux.subreaper import become_subreaper
from nanny.reaper import Reaper
become_subreaper()
reaper = Reaper()
told = []
child = os.fork()
if child == 0:
    if os.fork() == 0:
        os.read(0, 1)  # until the test says so: the orphan outlives its parent
        os._exit(9)
    os._exit(4)
reaper.register(child, lambda pid, status: told.append(str(status)))
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
reaper.reap()
print(told, reaper.strangers_total, flush=True)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
print(reaper.reap(), told, reaper.strangers_total, flush=True)
"""
    with spawn_python(code) as process:
        assert process.read_line() == "['exit code 4'] 0"
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        assert process.read_line() == "False ['exit code 4'] 1"
        assert process.wait_for_exit() == 0


def test_no_zombie_is_left_in_the_process_table(on_exit: OnExit) -> None:
    reaper = Reaper()
    pid = fork(lambda: None)
    wait_until(lambda: procfs.read_stat(pid).state == "Z", 5.0, "the child to die")
    reaper.reap()
    with pytest.raises(ProcessLookupError):
        procfs.read_stat(pid)
