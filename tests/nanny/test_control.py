"""The control socket on a real loop and real connections: what one client may cost the others, and the nanny.

Each test turns the loop by hand, so that what a turn does can be counted and no clock decides.
"""

import fcntl
import json
import os
import socket
import struct
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from nanny.common.log_lines import LogLines
from nanny.control import ControlSocket, Role
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.linux.clocks import SystemClock

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


class Desk:
    """A control socket that answers `echo`, its loop, and clients."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.raised: list[Exception] = []
        self.served = 0
        self.loop = EventLoop(SystemClock(), 1e9, lambda _: None, lambda _: None)
        self.loop.add_source(DeadlineSource(lambda: self.loop.now, lambda _now: None))  # so no turn waits
        self.loop.on_error = lambda _what, error: self.raised.append(error)
        log = LogLines(lambda _: None, "test", lambda: 0.0)
        self.control = ControlSocket(path, self.loop, log, lambda _peer: Role.OPERATOR)
        self.control.serve("echo", frozenset(Role), self._echo)
        self._clients: list[socket.socket] = []

    def _echo(self, request: dict[str, Any], _client: object) -> dict[str, Any]:
        self.served += 1
        return {"said": request.get("said")}

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._clients.append(client)
        client.connect(self.path)
        client.setblocking(False)
        return client

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.control.close()
        self.loop.close()


@pytest.fixture
def desk(leaves_nothing_behind: None) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="nc") as folder:
        made = Desk(os.path.join(folder, "control"))
        try:
            yield made
        finally:
            made.close()


def answers_to(client: socket.socket) -> list[dict[str, Any]]:
    heard = b""
    try:
        while chunk := client.recv(1 << 20):
            heard += chunk
    except BlockingIOError:
        pass
    return [json.loads(line) for line in heard.splitlines()]


def unread_by(desk: Desk) -> list[int]:
    """Bytes in the socket of each client, FIONREAD."""
    waiting = []
    for client in desk.control._clients.values():
        (count,) = struct.unpack("i", fcntl.ioctl(client.connection, termios.FIONREAD, bytes(4)))
        waiting.append(count)
    return waiting


def test_a_turn_serves_a_bounded_number_of_requests_however_many_wait(desk: Desk) -> None:
    greedy = desk.connect()
    greedy.send(b'{"id":1,"do":"echo"}\n' * 2000)
    desk.turn()
    served, answers = [], 0
    for _ in range(200):
        before = desk.served
        desk.turn()
        served.append(desk.served - before)
        answers += len(answers_to(greedy))
    assert (desk.served, answers) == (2000, 2000)
    assert 0 < max(served) <= 32


def test_empty_lines_without_end_are_bounded_too(desk: Desk) -> None:
    greedy, other = desk.connect(), desk.connect()
    desk.turn()
    for _ in range(20):
        greedy.send(b"\n" * 60_000)
        other.send(b'{"id":1,"do":"echo"}\n')
        desk.turn(2)
        assert [one["ok"] for one in answers_to(other)] == [True]
        assert all(len(one.received) <= 128 << 10 for one in desk.control._clients.values())
        try:
            greedy.send(b"\n")
        except BlockingIOError:
            break


def test_empty_lines_of_a_client_that_has_left_cost_no_turn_each(desk: Desk) -> None:
    others = [desk.connect() for _ in range(40)]
    gone = desk.connect()
    gone.send(b"\n \r\n" * 10_000 + b'{"id":1,"do":"echo"}\n' + b"\n" * 10_000)
    gone.close()
    desk.turn(20)
    assert desk.served == 1
    assert len(desk.control._clients) == len(others)


def test_a_turn_reads_once_from_each_client_however_much_all_of_them_have_sent(desk: Desk) -> None:
    """Twenty full sockets, drained at once and filled again meanwhile, would hold up beats and deadlines."""
    flooding = [desk.connect() for _ in range(20)]
    desk.turn(3)
    for client in flooding:
        with suppress(BlockingIOError):
            while True:
                client.send(b"\n" * 50_000)
    turns = 0
    before = unread_by(desk)
    assert min(before) > 128 << 10
    while sum(before) and turns < 1000:
        desk.turn()
        turns += 1
        after = unread_by(desk)
        assert max(had - has for had, has in zip(before, after, strict=True)) <= 64 << 10
        before = after
    assert (sum(before), turns > 1) == (0, True)


def test_what_is_pushed_to_a_client_that_stands_in_line_reaches_it_whole(desk: Desk) -> None:
    client = desk.connect()
    client.send(b'{"id":1,"do":"echo"}\n' * 100)
    desk.turn()
    (served,) = desk.control._clients.values()
    served.subscribed = True
    assert (desk.served <= 32, served.is_in_line) == (True, True)
    desk.control.push({"push": "x" * 1_000_000})
    assert served.waiting
    heard, pushes = 0, 0
    text = b""
    for _ in range(200):
        desk.turn()
        with suppress(BlockingIOError):
            text += client.recv(1 << 20)
    for line in text.splitlines():
        told = json.loads(line)
        heard += "id" in told
        pushes += told.get("push") == "x" * 1_000_000
    assert (heard, pushes) == (100, 1)
    assert desk.raised == []


def test_a_client_that_asks_once_is_served_after_one_round_beside_sixty_that_flood(desk: Desk) -> None:
    flooding = [desk.connect() for _ in range(60)]
    desk.turn(3)
    for client in flooding:
        client.send(b'{"id":1,"do":"echo"}\n' * 500)
    polite = desk.connect()
    desk.turn(2)
    polite.send(b'{"id":7,"do":"echo","said":"please"}\n')
    before = desk.served
    while not (answers := answers_to(polite)):
        desk.turn()
    assert answers == [{"id": 7, "ok": True, "result": {"said": "please"}}]
    # Each of the others was served once or twice meanwhile, whatever it had asked before.
    assert desk.served - before <= 122


def test_clients_that_read_nothing_share_one_bound_and_the_worst_of_them_goes_first(desk: Desk) -> None:
    desk.control.serve("much", frozenset(Role), lambda _request, _client: {"text": "x" * 500_000})
    reader = desk.connect()
    silent = [desk.connect() for _ in range(20)]
    for client in silent:
        client.send(b'{"id":1,"do":"much"}\n' * 6)
    most = 0
    for _ in range(100):
        desk.turn()
        most = max(most, sum(len(one.waiting) for one in desk.control._clients.values()))
    assert most <= 10 << 20
    assert 1 < len(desk.control._clients) < 21
    reader.send(b'{"id":1,"do":"echo"}\n')
    desk.turn(2)
    assert [one["ok"] for one in answers_to(reader)] == [True]
    assert desk.raised == []


def test_requests_that_take_their_time_are_spread_over_turns(desk: Desk) -> None:
    def ponder(_request: dict[str, Any], _client: object) -> dict[str, Any]:
        time.sleep(0.02)
        return {}

    desk.control.serve("ponder", frozenset(Role), ponder)
    client = desk.connect()
    client.send(b'{"id":1,"do":"ponder"}\n' * 5)
    answers = []
    for _ in range(8):
        desk.turn()
        answers.append(len(answers_to(client)))
    assert sum(answers) == 5
    assert max(answers) == 1


def test_lines_that_wait_are_served_after_the_client_has_closed_its_end(desk: Desk) -> None:
    client = desk.connect()
    client.send(b'{"id":1,"do":"echo"}\n' * 100)
    client.shutdown(socket.SHUT_WR)
    desk.turn(10)
    assert len(answers_to(client)) == 100
    assert not desk.control._clients


def test_a_request_that_comes_byte_by_byte_is_one_request(desk: Desk) -> None:
    client = desk.connect()
    for byte in b'{"id":1,"do":"echo","said":"x"}\n{"id":2,"do":"echo"}\n':
        client.send(bytes([byte]))
        desk.turn()
    assert [one["id"] for one in answers_to(client)] == [1, 2]


def test_a_request_over_the_limit_ends_its_connection_though_whole_ones_precede_it(desk: Desk) -> None:
    client = desk.connect()
    client.send(b'{"id":1,"do":"echo"}\n' + b"x" * 50_000)
    desk.turn()
    client.send(b"x" * 50_000)
    desk.turn(2)
    first, second = answers_to(client)
    assert first["ok"] is True
    assert second == {"id": None, "ok": False, "error": "a request has at most 65536 bytes"}
    assert not desk.control._clients


@pytest.mark.parametrize(
    "given",
    ["[" * depth + "]" * depth for depth in (65, *range(900, 1000, 3))]
    + ["1e999", "9" * 400, '"%s"' % ("x" * 200)],
)
def test_an_id_that_could_not_be_written_again_is_refused_in_words(desk: Desk, given: str) -> None:
    client = desk.connect()
    client.send(b'{"id":%b,"do":"echo"}\n{"id":2,"do":"echo"}\n' % given.encode())
    desk.turn(2)
    refused, served = answers_to(client)
    assert (refused["id"], refused["ok"]) == (None, False)
    assert len(refused["error"]) < 300
    assert served["ok"] is True
    assert desk.raised == []


def test_a_crowd_that_connects_is_accepted_over_several_turns_and_wholly(desk: Desk) -> None:
    crowd = [desk.connect() for _ in range(60)]
    desk.turn()
    assert len(desk.control._clients) <= 64
    desk.turn(10)
    assert len(desk.control._clients) == len(crowd)
