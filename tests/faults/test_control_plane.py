"""Fault 37: the server is gone, says no, or lies. The node goes on, and is whole again when the server is.

Whole nodes (nanny, link, agent) against a real server behind a front that breaks. A server's absence restarts
nothing: neither the worker nor link.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.hostile_servers import MODES
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.faults.served_node import is_heard, serve
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", MODES)
@fault("37", "the server refuses, lies or is silent", by="link and worker: they dial again; no restart")
def test_a_broken_server_restarts_nothing_and_is_found_again(node: FaultNode, mode: str) -> None:
    with serve(node) as served:
        before = node.status()
        with judged(node, expects=Expectation(restarts=0, recover_within_s=5.0)) as case:
            served.front.set(mode)
            served.until(lambda page: not is_heard(page), "the server to miss the node")
            if mode != "down":
                # Each of the two has met the broken server at least twice.
                wait_until(lambda: served.front.attempts >= 4, 40.0, "more tries")
            served.front.set("through")
            case.begins()
            served.until_whole()
            case.recovered()
        assert node.status()["link"]["pid"] == before["link"]["pid"]


@fault("37", "a proxy keeps the dead worker's connection open", by="server: the successor registers")
def test_a_connection_that_a_proxy_holds_open_does_not_hide_the_successor(node: FaultNode) -> None:
    with serve(node) as served:
        served.front.set("keeps-open")
        with judged(node, expects=Expectation(recover_within_s=3.0, cause=("SIGKILL",))):
            before = node.status()
            node.signal_worker(signal.SIGKILL)
            node.wait_for_next(before)
            served.until_whole()
        served.front.set("through")


@fault(
    "37",
    "the server restarts and has forgotten its sessions",
    by="link and worker: a new session; no restart",
)
def test_a_server_that_was_killed_is_found_again(node: FaultNode) -> None:
    with serve(node) as served, judged(node, expects=Expectation(restarts=0)) as case:
        served.server.kill()
        served.server.start()
        case.begins()
        served.until_whole()
        case.recovered()
