"""The support for whole nodes: it runs one, finds all of it, and leaves nothing, whatever the test did to it."""

import os

import pytest

from tests.support.nodes import RequestRefused, RunningNanny, running_nanny
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_a_node_runs_answers_and_leaves_nothing(leaves_nothing_behind: None) -> None:
    with running_nanny() as node:
        status = node.wait_for_phase("running")
        worker_pid = node.worker_pid
        assert {node.nanny_pid, worker_pid} < node.pids()
        assert status["node_name"] == node.node_name
        wait_until(lambda: "hello from" in node.log(), 10, "the worker's output")
        with pytest.raises(RequestRefused, match="unknown request"):
            node.request("nonsense")
        root = node.root
    assert not os.path.exists(root)


def test_a_killed_nanny_leaves_its_worker_to_the_next_one(leaves_nothing_behind: None) -> None:
    with running_nanny() as node:
        before = node.wait_for_phase("running")
        node.kill()
        assert before["worker"]["pid"] in node.pids()
        node.start()
        after = node.wait_for_phase("running")
        assert after["worker"]["pid"] == before["worker"]["pid"]


def test_what_a_failed_test_leaves_is_swept_and_its_failure_stands(leaves_nothing_behind: None) -> None:
    nodes: list[RunningNanny] = []

    def fail_with_a_dead_nanny() -> None:
        with running_nanny() as node:
            nodes.append(node)
            node.wait_for_phase("running")
            node.kill()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_dead_nanny()
    assert nodes[0].pids() == set()
    assert nodes[0].cgroup_dirs() == []
