"""sd_notify towards a real datagram socket that plays the service manager."""

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator

import pytest

from nanny.linux.systemd_notify import SystemdNotifier, watchdog_interval_s
from tests.support.processes import belongings


@pytest.fixture
def short_dir() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="nn-", dir="/tmp") as directory:
        yield directory


@pytest.fixture(params=["path", "abstract"])
def notified(
    leaves_nothing_behind: None, request: pytest.FixtureRequest, short_dir: str
) -> Iterator[tuple[socket.socket, SystemdNotifier]]:
    name = f"{short_dir}/notify" if request.param == "path" else f"@nodenanny-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(10)
        notifier = SystemdNotifier(name)
        yield manager, notifier
        notifier.close()


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (lambda n: n.ready(), b"READY=1"),
        (lambda n: n.status("worker 7 runs"), b"STATUS=worker 7 runs"),
        (lambda n: n.status("two\nREADY=1"), b"STATUS=two READY=1"),
        (lambda n: n.watchdog(), b"WATCHDOG=1"),
        (lambda n: n.stopping(), b"STOPPING=1"),
        (lambda n: n.reloading(1234567), b"RELOADING=1\nMONOTONIC_USEC=1234567"),
        (lambda n: n.extend_timeout(1.5), b"EXTEND_TIMEOUT_USEC=1500000"),
        (lambda n: n.remove_stored("healthz"), b"FDSTOREREMOVE=1\nFDNAME=healthz"),
        (lambda n: n.send({"MAINPID": "7", "STATUS": "x"}), b"MAINPID=7\nSTATUS=x"),
    ],
)
def test_each_message_has_systemds_words(
    notified: tuple[socket.socket, SystemdNotifier], say: Callable[[SystemdNotifier], bool], expected: bytes
) -> None:
    manager, notifier = notified
    assert say(notifier) is True
    assert manager.recv(4096) == expected
    assert (notifier.sent_total, notifier.failed_total, notifier.last_errno) == (1, 0, 0)


def test_stored_descriptors_arrive_with_their_name(notified: tuple[socket.socket, SystemdNotifier]) -> None:
    manager, notifier = notified
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert notifier.store_fds([listener.fileno()], "healthz") is True
        payload, fds, _, _ = socket.recv_fds(manager, 4096, 4)
        assert payload == b"FDSTORE=1\nFDNAME=healthz"
        with socket.socket(fileno=fds[0]) as stored:
            assert stored.getsockname() == listener.getsockname()


def test_a_full_queue_is_counted_and_never_waited_on(
    notified: tuple[socket.socket, SystemdNotifier],
) -> None:
    manager, notifier = notified
    taken = [notifier.watchdog() for _ in range(5000)]
    assert taken.count(False) == notifier.failed_total > 0
    assert notifier.last_errno == errno.EAGAIN
    manager.recv(100)
    assert notifier.watchdog() is True


def test_a_manager_that_comes_back_under_the_same_name_is_heard_again(
    leaves_nothing_behind: None, short_dir: str
) -> None:
    path = f"{short_dir}/notify"
    notifier = SystemdNotifier(path)
    for _ in range(3):
        assert notifier.ready() is False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            assert notifier.ready() is True
            assert manager.recv(100) == b"READY=1"
        assert notifier.ready() is False
        os.unlink(path)
    assert (notifier.sent_total, notifier.failed_total) == (3, 6)
    notifier.close()


@pytest.mark.parametrize("path", [None, ""])
def test_without_a_path_nothing_is_said_and_nothing_opened(
    leaves_nothing_behind: None, path: str | None
) -> None:
    notifier = SystemdNotifier(path)
    assert notifier.enabled is False
    assert notifier.ready() is False
    assert (notifier.sent_total, notifier.failed_total) == (0, 0)


@pytest.mark.parametrize("path", ["/" + "x" * 200, "@", "vsock:2:1", "relative"])
def test_an_address_that_cannot_be_reached_is_counted_not_raised(
    leaves_nothing_behind: None, path: str
) -> None:
    notifier = SystemdNotifier(path)
    assert notifier.ready() is False
    assert notifier.failed_total == 1
    notifier.close()
    assert notifier.ready() is False


def test_a_descriptor_that_is_closed_is_counted_not_raised(
    notified: tuple[socket.socket, SystemdNotifier],
) -> None:
    _, notifier = notified
    assert notifier.store_fds([9999], "gone") is False
    assert notifier.failed_total == 1


def test_its_socket_is_not_inherited_by_executed_programs(leaves_nothing_behind: None) -> None:
    before = belongings()
    notifier = SystemdNotifier("/run/nobody-listens-here")
    opened = [fd for fd, _ in belongings().minus(before).descriptors]
    assert [os.get_inheritable(fd) for fd in opened] == [False]
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_interval_is_ours_alone(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval_s(environ) == expected
