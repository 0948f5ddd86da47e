"""A pidfd names one process for ever: signals, death and descriptors by it."""

import fcntl
import os
import signal
import socket

import pytest

from nanny.linux import pidfd
from tests.support.processes import spawn_python

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"


def test_a_signal_by_pidfd_reaches_the_process(leaves_nothing_behind: None) -> None:
    with spawn_python(SLEEPER) as child:
        fd = pidfd.open_pidfd(child.pid)
        try:
            child.read_line()
            assert pidfd.send_signal(fd, signal.SIGTERM) is True
            assert child.wait_for_exit() == -signal.SIGTERM
        finally:
            os.close(fd)


def test_a_signal_to_a_reaped_process_reports_that_it_is_gone(leaves_nothing_behind: None) -> None:
    with spawn_python("pass") as child:
        child.wait_for_exit()
        assert pidfd.send_signal(child.pidfd, signal.SIGTERM) is False


def test_a_signal_that_the_kernel_refuses_is_raised() -> None:
    own = pidfd.open_pidfd(os.getpid())
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            pidfd.send_signal(own, 200)
    finally:
        os.close(own)


def test_has_exited_turns_true_at_death_and_stays_true_after_the_reaping(leaves_nothing_behind: None) -> None:
    with spawn_python(SLEEPER) as child:
        child.read_line()
        assert pidfd.has_exited(child.pidfd) is False
        pidfd.send_signal(child.pidfd, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert pidfd.has_exited(child.pidfd) is True
        child.wait_for_exit()
        assert pidfd.has_exited(child.pidfd) is True


def test_a_stopped_process_has_not_exited(leaves_nothing_behind: None) -> None:
    with spawn_python(SLEEPER) as child:
        child.read_line()
        pidfd.send_signal(child.pidfd, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert pidfd.has_exited(child.pidfd) is False


def test_opening_a_process_that_is_gone_says_so() -> None:
    with spawn_python("pass") as child:
        child.wait_for_exit()
        with pytest.raises(ProcessLookupError):
            pidfd.open_pidfd(child.pid)


def test_a_number_that_is_no_process_id_is_a_process_that_is_gone() -> None:
    with pytest.raises(ProcessLookupError):
        pidfd.open_pidfd(2**40)


def test_a_pidfd_is_not_inherited_by_executed_programs() -> None:
    own = pidfd.open_pidfd(os.getpid())
    try:
        assert fcntl.fcntl(own, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(own)


def test_a_listening_socket_is_recovered_from_the_process_that_holds_it(leaves_nothing_behind: None) -> None:
    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.fileno(), s.getsockname()[1], flush=True); time.sleep(60)"
    )
    with spawn_python(code) as child:
        number, port = child.read_line().split()
        fd = pidfd.get_fd(child.pidfd, int(number))
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with socket.socket(fileno=fd) as recovered:
            child.send_signal(signal.SIGKILL)
            child.wait_for_exit()
            with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as client:
                connection, address = recovered.accept()
                with connection:
                    assert address == client.getsockname()


def test_a_descriptor_that_the_process_lacks_is_an_error_and_none_is_made(
    leaves_nothing_behind: None,
) -> None:
    with spawn_python(SLEEPER) as child:
        child.read_line()
        with pytest.raises(OSError, match="Bad file descriptor"):
            pidfd.get_fd(child.pidfd, 999)


def test_a_descriptor_of_a_process_that_is_gone_is_a_lookup_error(leaves_nothing_behind: None) -> None:
    with spawn_python("pass") as child:
        child.wait_for_exit()
        with pytest.raises(ProcessLookupError):
            pidfd.get_fd(child.pidfd, 0)
