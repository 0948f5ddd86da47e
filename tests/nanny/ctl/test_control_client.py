"""The blocking client against a real nanny, and against peers that are none: every wait ends, every error advises."""

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nanny.control_client import (
    ControlClient,
    ControlError,
    NannyUnreachable,
    NotPermitted,
    RequestRefused,
    TryAgain,
)
from tests.support.nodes import RunningNanny

Behaviour = Callable[[socket.socket], None]


@contextmanager
def peer(behave: Behaviour) -> Iterator[str]:
    """A socket at a path whose one connection `behave` serves."""
    directory = tempfile.mkdtemp(prefix="ctl", dir="/tmp")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{directory}/control.sock")
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            behave(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"{directory}/control.sock"
    finally:
        thread.join(20)
        listener.close()
        shutil.rmtree(directory)


def say(*lines: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"".join(lines))
        connection.recv(4096)

    return behave


def refusing(error: str) -> Behaviour:
    return say(json.dumps({"id": 1, "ok": False, "error": error}).encode() + b"\n")


@pytest.mark.root
@pytest.mark.slow
def test_a_real_nanny_answers_pushes_and_refuses(node: RunningNanny, leaves_nothing_behind: None) -> None:
    with ControlClient(node.control_path) as client:
        status = client.subscribe()
        assert status["phase"] == "running"
        with pytest.raises(RequestRefused, match="unknown request 'nonsense'"):
            client.request("nonsense")
        assert client.next_push(0.0) is None
        command: dict[str, Any] = {
            "command_id": "01a1fc84-de95-733c-a570-16526a3f9ecc",
            "kind": "clear",
            "reason": "r",
            "actor": "a",
        }
        assert client.request("command", **command)["state"] == "accepted"
        pushes: list[dict[str, Any]] = []
        while not any(one["push"] == "outcome" for one in pushes):
            push = client.next_push(10.0)
            assert push is not None, pushes
            pushes.append(push)
        assert pushes[-1]["outcome"] == "done"


def test_pushes_that_come_before_the_answer_are_kept_in_order(leaves_nothing_behind: None) -> None:
    lines = (b'{"push":"a"}\n{"pu', b'sh":"b"}\n{"id":1,"ok":true,"result":{"x":1}}\n{"push":"c"}\n')
    with peer(say(*lines)) as path, ControlClient(path) as client:
        assert client.request("status") == {"x": 1}
        assert [(client.next_push(10.0) or {}).get("push") for _ in range(3)] == ["a", "b", "c"]
        assert client.next_push(0.01) is None


def test_a_silent_peer_is_given_up_in_time(leaves_nothing_behind: None) -> None:
    def be_silent(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with peer(be_silent) as path, ControlClient(path, 0.2) as client:
        began = time.monotonic()
        with pytest.raises(NannyUnreachable, match="did not answer status in time") as caught:
            client.request("status")
        assert 0.15 < time.monotonic() - began < 10
        assert "systemctl status" in caught.value.advice


def test_a_peer_that_feeds_bytes_without_an_answer_is_given_up_in_time(leaves_nothing_behind: None) -> None:
    def drip(connection: socket.socket) -> None:
        try:
            for _ in range(2000):
                connection.sendall(b'{"push":"x"}\n')
                time.sleep(0.005)
        except OSError:
            pass

    with (
        peer(drip) as path,
        ControlClient(path, 0.3) as client,
        pytest.raises(NannyUnreachable, match="in time"),
    ):
        client.request("status")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (b"hello\n", "does not speak JSON"),
        (b"[1]\n", "does not send JSON objects"),
        (b"[" * 100_000 + b"\n", "does not speak JSON"),
        (b"", "closed the connection"),
        (b'{"id":1', "closed the connection"),
    ],
)
def test_a_peer_that_is_no_nanny_is_told_apart(told: bytes, words: str, leaves_nothing_behind: None) -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(told)

    with peer(behave) as path, ControlClient(path) as client, pytest.raises(NannyUnreachable, match=words):
        client.request("status")


def test_a_refusal_before_the_request_is_heard(leaves_nothing_behind: None) -> None:
    def turn_away(connection: socket.socket) -> None:
        connection.sendall(b'{"id":null,"ok":false,"error":"uid 7 may not use this socket"}\n')

    with peer(turn_away) as path, ControlClient(path) as client:
        with pytest.raises(NotPermitted, match="uid 7 may not") as caught:
            client.request("status")
        assert "control_users" in caught.value.advice


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("deferred: the ledger is full or the nanny is ending; try again", TryAgain),
        ("too many commands are being taken; try again in a second", TryAgain),
        ("too many clients", TryAgain),
        ("a worker is being born; try again in a second", TryAgain),
        ("observer may not command", NotPermitted),
        ("internal error; the nanny's log has it", RequestRefused),
    ],
)
def test_refusals_are_of_three_kinds(
    error: str, kind: type[ControlError], leaves_nothing_behind: None
) -> None:
    with peer(refusing(error)) as path, ControlClient(path) as client:
        with pytest.raises(ControlError) as caught:
            client.request("command")
        assert type(caught.value) is kind


def test_what_is_not_there_is_said_with_what_to_do_next(
    tmp_path: object, leaves_nothing_behind: None
) -> None:
    directory = tempfile.mkdtemp(prefix="ctl", dir="/tmp")
    try:
        with pytest.raises(NannyUnreachable, match="no such directory") as caught:
            ControlClient(f"{directory}/missing/control.sock")
        assert "--runtime-dir" in caught.value.advice
        with pytest.raises(NannyUnreachable, match=r"it has no control\.sock"):
            ControlClient(f"{directory}/control.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{directory}/control.sock")
        with pytest.raises(NannyUnreachable, match="that nanny is dead") as caught:
            ControlClient(f"{directory}/control.sock")
        assert "the worker goes on" in caught.value.advice
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(f"{directory}/notify.sock")
            with pytest.raises(NannyUnreachable, match="no nanny's socket"):
                ControlClient(f"{directory}/notify.sock")
        with pytest.raises(NannyUnreachable):
            ControlClient(f"{directory}/{'x' * 200}")
    finally:
        shutil.rmtree(directory)


def test_a_full_accept_queue_is_given_up_in_time(leaves_nothing_behind: None) -> None:
    directory = tempfile.mkdtemp(prefix="ctl", dir="/tmp")
    path = os.path.join(directory, "control.sock")
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                try:
                    client.connect(path)
                except BlockingIOError:
                    break
            with pytest.raises(NannyUnreachable, match=r"took no connection within 0\.2 s"):
                ControlClient(path, 0.2)
        finally:
            for client in waiting:
                client.close()
            shutil.rmtree(directory)
