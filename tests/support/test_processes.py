"""The shared test support keeps its own promises: nothing it starts outlives a test, every leak is seen."""

import os
import signal
import socket
import subprocess
import threading

import pytest

from tests.support.processes import belongings, spawn_python, wait_until


def test_a_spawned_process_is_gone_after_its_block(leaves_nothing_behind: None) -> None:
    with spawn_python("import time; print('ready', flush=True); time.sleep(60)") as child:
        assert child.read_line() == "ready"
    assert child.popen.returncode == -signal.SIGKILL


def test_a_stopped_process_is_gone_after_its_block(leaves_nothing_behind: None) -> None:
    with spawn_python("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)") as child:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert child.popen.returncode == -signal.SIGKILL


def test_the_exit_of_a_spawned_process_can_be_awaited_inside_the_block(leaves_nothing_behind: None) -> None:
    with spawn_python("raise SystemExit(7)") as child:
        assert child.wait_for_exit() == 7
        child.send_signal(signal.SIGTERM)
        assert child.read_line() == ""


def test_an_exception_in_the_block_still_ends_the_process(leaves_nothing_behind: None) -> None:
    with pytest.raises(KeyError), spawn_python("import time; time.sleep(60)") as child:
        raise KeyError
    assert child.popen.returncode == -signal.SIGKILL


def test_arguments_and_extra_descriptors_reach_the_process(leaves_nothing_behind: None) -> None:
    ours, theirs = socket.socketpair()
    code = "import os, sys; os.write(int(sys.argv[1]), b'hi')"
    with (
        ours,
        theirs,
        spawn_python(code, argv=(str(theirs.fileno()),), pass_fds=[theirs.fileno()]) as child,
    ):
        assert child.wait_for_exit() == 0
        assert ours.recv(10) == b"hi"


def test_waiting_for_a_state_that_never_comes_says_what_was_awaited() -> None:
    with pytest.raises(AssertionError, match=r"waited 0.02 s for the moon; last seen: 0"):
        wait_until(lambda: 0, 0.02, "the moon")


def test_belongings_name_a_leaked_descriptor() -> None:
    before = belongings()
    reader, writer = os.pipe()
    try:
        assert {fd for fd, _ in belongings().minus(before).descriptors} == {reader, writer}
    finally:
        os.close(reader)
        os.close(writer)
    assert not belongings().minus(before)


def test_belongings_name_a_leaked_zombie() -> None:
    before = belongings()
    with spawn_python("pass", stdin=subprocess.DEVNULL) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert {pid for pid, _ in belongings().minus(before).children} == {child.pid}


def test_belongings_name_a_leaked_thread() -> None:
    before = belongings()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="straggler")
    thread.start()
    try:
        assert {name for _, name in belongings().minus(before).threads} == {"straggler"}
    finally:
        release.set()
        thread.join()
