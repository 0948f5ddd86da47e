"""Senders are named by the kernel, and no datagram can plant a descriptor in us."""

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanny.linux.peer_credentials import (
    Credentials,
    enable_passcred,
    peer_of_stream,
    receive_with_credentials,
)
from tests.support.processes import belongings, spawn_python

ME = Credentials(os.getpid(), os.geteuid(), os.getegid())


@pytest.fixture
def pair(leaves_nothing_behind: None) -> Iterator[tuple[socket.socket, socket.socket]]:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        yield sender, receiver


def rights(*fds: int) -> list[tuple[int, int, "array.array[int]"]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


def test_a_datagram_comes_with_its_sender(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    enable_passcred(receiver)
    sender.send(b"WATCHDOG=1")
    assert receive_with_credentials(receiver, 4096) == (b"WATCHDOG=1", ME, False)


def test_an_empty_queue_is_none_even_on_a_blocking_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    _, receiver = pair
    assert receiver.getblocking() is True
    assert receive_with_credentials(receiver, 4096) is None


def test_an_empty_datagram_is_not_an_empty_queue(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    enable_passcred(receiver)
    sender.send(b"")
    assert receive_with_credentials(receiver, 4096) == (b"", ME, False)


@pytest.mark.parametrize(("limit", "expected"), [(4, (b"1234", ME, True)), (5, (b"12345", ME, False))])
def test_a_datagram_over_the_limit_is_cut_and_says_so(
    pair: tuple[socket.socket, socket.socket], limit: int, expected: object
) -> None:
    sender, receiver = pair
    enable_passcred(receiver)
    sender.send(b"12345")
    assert receive_with_credentials(receiver, limit) == expected


def test_without_passcred_the_sender_is_unknown(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    sender.send(b"x")
    assert receive_with_credentials(receiver, 4096) == (b"x", None, False)


@pytest.mark.parametrize("passcred", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_descriptors_sent_along_are_not_kept(
    pair: tuple[socket.socket, socket.socket], passcred: bool, count: int
) -> None:
    sender, receiver = pair
    if passcred:
        enable_passcred(receiver)
    before = belongings()
    for _ in range(10):
        sender.sendmsg([b"x"], rights(*[sender.fileno()] * count))
        received = receive_with_credentials(receiver, 4096)
        assert received == (b"x", ME if passcred else None, False)
    assert belongings().descriptors == before.descriptors


def test_descriptors_of_a_skipped_datagram_do_reach_a_careless_receiver(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    # The control: with a roomy buffer the same datagram does install a descriptor.
    sender, receiver = pair
    enable_passcred(receiver)
    sender.sendmsg([b"x"], rights(sender.fileno()))
    before = belongings()
    _, ancillary, _, _ = receiver.recvmsg(10, 1024)
    planted = [array.array("i", content)[0] for _, kind, content in ancillary if kind == socket.SCM_RIGHTS]
    assert {fd for fd, _ in belongings().minus(before).descriptors} == set(planted) != set()
    os.close(planted[0])


@pytest.mark.root
def test_forged_credentials_of_another_process_need_privilege_and_ours_do_not_lie(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    enable_passcred(receiver)
    code = """
import os, socket, struct, sys
sock = socket.socket(fileno=int(sys.argv[1]))
os.setgid(65534); os.setuid(65534)
forged = struct.pack("iII", os.getppid(), 0, 0)
try:
    sock.sendmsg([b"forged"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, forged)])
except PermissionError:
    sock.send(b"honest")
"""
    with spawn_python(code, argv=(str(sender.fileno()),), pass_fds=[sender.fileno()]) as child:
        assert child.wait_for_exit() == 0
        assert receive_with_credentials(receiver, 4096) == (
            b"honest",
            Credentials(child.pid, 65534, 65534),
            False,
        )


def test_the_peer_of_a_stream_is_the_process_that_connected(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    path = f"\0nodenanny-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + sys.argv[1]); s.recv(1)"
        with spawn_python(code, argv=(path[1:],)) as child:
            listener.settimeout(20)
            connection, _ = listener.accept()
            with connection:
                assert peer_of_stream(connection) == Credentials(child.pid, os.geteuid(), os.getegid())


def test_a_tcp_stream_has_no_unix_peer(leaves_nothing_behind: None) -> None:
    with socket.socket() as tcp:
        assert peer_of_stream(tcp).pid == 0
