"""Orders and the journal's writer: what was done while nothing could be written is done once all the same."""

from __future__ import annotations

import os
import signal

import pytest

from nanny.common.identifiers import uuid7
from tests.support.nodes import RunningNanny, running_nanny

pytestmark = [pytest.mark.slow]


def _writer_pid(node: RunningNanny) -> int:
    """The first helper that the nanny forked after its log writer is the journal's writer."""
    for pid in sorted(node.pids()):
        try:
            files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        if any("journal." in name for name in files):
            return pid
    raise AssertionError("no journal writer")


def _signal(pid: int, signum: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signum)
    finally:
        os.close(fd)


def _restart_order(node: RunningNanny, command_id: str) -> dict[str, object]:
    answer: dict[str, object] = node.request(
        "command", command_id=command_id, kind="restart", time_to_live_s=30, reason="test", actor="test"
    )
    return answer


def test_a_restart_done_while_degraded_is_not_done_again_by_the_next_nanny() -> None:
    with running_nanny(journal_timeout_s="0.3") as node:
        first = node.wait_for_phase("running")["incarnation"]
        writer = _writer_pid(node)
        _signal(writer, signal.SIGSTOP)
        try:
            command_id = uuid7(1_800_000_000_000, os.urandom(10))
            accepted = _restart_order(node, command_id)
            assert (accepted["state"], accepted["durable"]) == ("accepted", False)
            after = node.wait_for(
                lambda status: status["incarnation"] != first and status["phase"] == "running", "the restart"
            )
            node.kill()
        finally:
            _signal(writer, signal.SIGKILL)
        node.start()
        node.wait_for_phase("running")

        answer = _restart_order(node, command_id)

        assert answer["outcome"] == "done"
        assert node.status()["incarnation"] == after["incarnation"]


def test_the_death_of_the_writer_alone_refuses_no_order() -> None:
    with running_nanny() as node:
        node.wait_for_phase("running")
        _signal(_writer_pid(node), signal.SIGKILL)
        command_id = uuid7(1_800_000_000_000, os.urandom(10))

        answer = node.request(
            "command", command_id=command_id, kind="stop", time_to_live_s=30, reason="test", actor="test"
        )

        assert answer.get("outcome") != "rejected"
        node.wait_for_phase("down")
        assert node.status()["journal_degraded"] is False
