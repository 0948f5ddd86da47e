"""The worker is killed, blocked, stopped: the nanny under systemd replaces it, and systemd sees no failure at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.systemd.node import Node, assert_always_answered, order_of

if TYPE_CHECKING:
    from collections.abc import Callable

FAULTS: dict[str, Callable[[Node, int], None]] = {
    "SIGKILL": lambda node, pid: node.signal("KILL", pid),
    "blocked loop": lambda node, _: node.inject("block 600"),
    "GIL held": lambda node, _: node.inject("gil 600"),
    "SIGSTOP": lambda node, pid: node.signal("STOP", pid),
}
REASONS = {"SIGKILL": "SIGKILL", "blocked loop": "stall", "GIL held": "lost", "SIGSTOP": "lost"}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_worker_is_ready_and_systemd_saw_no_failure(node: Node, fault: str) -> None:
    before = node.wait_until_ready()
    with node.probed() as answers:
        FAULTS[fault](node, before["nanny"]["worker"]["pid"])

        after = node.wait_until_ready(after=before["nanny"]["incarnation"])

    assert after["units"]["nodenanny"]["MainPID"] == before["units"]["nodenanny"]["MainPID"]
    assert after["units"]["nodenanny"]["NRestarts"] == before["units"]["nodenanny"]["NRestarts"]
    assert order_of(after["nanny"]) > order_of(before["nanny"])
    assert not node.is_alive(before["nanny"]["worker"]["pid"])
    if fault != "GIL held":  # a connection that the hung process accepted is its own
        assert_always_answered(answers, cut_short=1)
    assert REASONS[fault] in str(node.nannyctl("explain")), fault


def test_nothing_of_a_dead_workers_cgroup_is_left(node: Node) -> None:
    before = node.wait_until_ready()
    group = before["units"]["nodenanny"]["ControlGroup"]

    node.signal("KILL", before["nanny"]["worker"]["pid"])

    number = before["nanny"]["incarnation"].rpartition("/")[2]
    node.wait_until_ready(after=before["nanny"]["incarnation"])
    node.box.wait_until(
        lambda: (
            f"worker-{number}\n" not in node.box.run("find", f"/sys/fs/cgroup{group}", "-printf", "%f\\n")
        ),
        "the dead worker's cgroup to go",
    )
