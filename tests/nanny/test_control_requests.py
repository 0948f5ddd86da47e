"""Orders that wait for a disk, in a crowd: what is kept of them is bounded, and who finds no room is told so.

The supervisor here never answers, as one whose journal hangs; the control socket and its clients are real.
"""

import json
import os
import socket
import tempfile
import time
from typing import Any

from nanny.common.identifiers import uuid7
from nanny.common.log_lines import LogLines
from nanny.control import ControlSocket, Role
from nanny.control_requests import ControlRequests
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.linux.clocks import SystemClock


class SilentSupervisor:
    """Takes events in and says nothing."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.on_step: list[object] = []

    def effect(self, _action: object, _run: object) -> None:
        pass

    def tell(self, event: object) -> None:
        self.told.append(event)


def order(command_id: str) -> bytes:
    fields = {"id": 1, "do": "command", "command_id": command_id, "kind": "stop", "reason": "r", "actor": "a"}
    return json.dumps(fields).encode() + b"\n"


def test_the_same_order_given_a_thousand_times_while_its_answer_waits_is_kept_a_bounded_number_of_times(
    leaves_nothing_behind: None,
) -> None:
    with tempfile.TemporaryDirectory(prefix="nq") as folder:
        path = os.path.join(folder, "control")
        loop = EventLoop(SystemClock(), 1e9, lambda _: None, lambda _: None)
        loop.add_source(DeadlineSource(lambda: loop.now, lambda _now: None))  # so no turn waits
        log = LogLines(lambda _: None, "test", lambda: 0.0)
        control = ControlSocket(path, loop, log, lambda _peer: Role.OPERATOR)
        supervisor: Any = SilentSupervisor()
        ControlRequests(control, supervisor, dict)
        refused: list[dict[str, Any]] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)
            client.setblocking(False)
            command_id = uuid7(time.time_ns() // 1_000_000, bytes(10))
            for _ in range(1000):
                client.send(order(command_id))
                loop.turn()
                try:
                    refused += [json.loads(line) for line in client.recv(1 << 16).splitlines()]
                except BlockingIOError:
                    continue
            for _ in range(10):
                loop.turn()
        control.close()
        loop.close()
    assert 0 < len(supervisor.told) <= 256
    assert {(one["ok"], one["retry"]) for one in refused} == {(False, True)}
