"""LISTEN_FDS in both directions, across a real exec."""

import json
import os
import socket
import subprocess

import pytest

from nanny.linux.inherited_sockets import environment_for_child, is_listening, take_inherited
from tests.support.processes import spawn_python

# A child that puts three listeners at 3, 4, 5, then executes itself with the variables, as systemd would.
STAGE_ONE = """
import fcntl, os, socket, sys
listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 50) for s in listeners]
for index, fd in enumerate(high):
    os.dup2(fd, 3 + index)
from nanny.linux.inherited_sockets import environment_for_child
environment = dict(os.environ, **environment_for_child(["healthz", "control", "healthz"]))
os.execve(sys.executable, [sys.executable, "-c", sys.argv[1]], environment)
"""
STAGE_TWO = """
import fcntl, json, os
from nanny.linux.inherited_sockets import take_inherited
taken = take_inherited(os.environ)
cloexec = [bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC) for fd in (3, 4, 5)]
print(json.dumps([taken, cloexec, [n for n in os.environ if n.startswith("LISTEN_")]]), flush=True)
"""


def test_named_sockets_cross_an_exec_and_become_close_on_exec(leaves_nothing_behind: None) -> None:
    with spawn_python(STAGE_ONE, argv=(STAGE_TWO,)) as child:
        assert json.loads(child.read_line()) == [
            {"healthz": [3, 5], "control": [4]},
            [True, True, True],
            [],
        ]


def test_variables_meant_for_another_process_are_dropped_and_nothing_is_taken() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert take_inherited(environ) == {}
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "x", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": ""},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-4"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
)
def test_missing_or_malformed_variables_give_nothing(environ: dict[str, str]) -> None:
    assert take_inherited(environ) == {}
    assert environ == {}


def test_unnamed_descriptors_are_unknown_and_closed_numbers_are_left_out(leaves_nothing_behind: None) -> None:
    code = """
import os
os.dup2(1, 3); os.dup2(1, 4); os.dup2(1, 6); os.set_inheritable(6, True)
os.closerange(5, 6); os.closerange(7, 100)
from nanny.linux.inherited_sockets import take_inherited
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1000000000", "LISTEN_FDNAMES": "a"}
print(take_inherited(environ), flush=True)
"""
    with spawn_python(code, stderr=subprocess.DEVNULL) as child:
        assert child.read_line() == "{'a': [3], 'unknown': [4, 6]}"


def test_a_child_gets_its_variables_for_the_pid_that_it_will_have() -> None:
    assert environment_for_child(["healthz", "control"], pid=42) == {
        "LISTEN_PID": "42",
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "healthz:control",
    }
    assert environment_for_child(["healthz"])["LISTEN_PID"] == str(os.getpid())


def test_a_child_without_sockets_gets_no_variables() -> None:
    assert environment_for_child([]) == {}


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "ä", "x" * 256])
def test_a_name_that_the_variable_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a descriptor"):
        environment_for_child([name])


def test_a_listener_stops_listening_when_any_holder_shuts_it_down(leaves_nothing_behind: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as other:
        assert is_listening(listener) is True
        other.shutdown(socket.SHUT_RDWR)
        assert is_listening(listener) is False


def test_a_bound_socket_does_not_listen_yet(leaves_nothing_behind: None) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert is_listening(sock) is False
