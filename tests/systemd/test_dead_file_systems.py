"""A file system that never answers: systemd builds the units' sandboxes all the same, so the node does not go dark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.dead_mount import why_no_dead_mount
from tests.systemd.test_nanny_faults import other_nanny

if TYPE_CHECKING:
    from tests.systemd.node import Node

pytestmark = pytest.mark.skipif(why_no_dead_mount() is not None, reason=str(why_no_dead_mount()))


@pytest.mark.parametrize("path", ["/home", "/srv"])
def test_everything_restarts_beside_a_dead_file_system(node: Node, path: str) -> None:
    before = node.wait_until_ready()
    with node.dead_file_system(path):
        pids = [told["MainPID"] for told in before["units"].values()]
        node.signal("KILL", *pids)
        node.wait_for(other_nanny(before), "another nanny")
        node.wait_until_ready()

        node.nannyctl("restart", "--reason", "beside a dead file system")

        after = node.wait_until_ready(after=before["nanny"]["incarnation"])
        assert after["units"]["nodenanny-link"]["MainPID"] not in pids
        assert after["nanny"]["conditions"] == []


def test_a_nanny_whose_state_does_not_answer_comes_back_and_adopts_its_worker(node: Node) -> None:
    before = node.wait_until_ready()
    with node.dead_file_system("/var/lib/nodenanny"):
        node.signal("KILL", before["units"]["nodenanny"]["MainPID"])

        after = node.wait_for(other_nanny(before), "another nanny")

        assert after["nanny"]["worker"]["pid"] == before["nanny"]["worker"]["pid"]
        assert after["nanny"]["incarnation"] == before["nanny"]["incarnation"]
        assert after["nanny"]["journal_degraded"]
        # What must go on goes on: the next worker.
        node.signal("KILL", before["nanny"]["worker"]["pid"])
        node.wait_until_running(after=before["nanny"]["incarnation"])
    # The disk is back: so is the journal.
    node.wait_for(lambda told: told["nanny"] and not told["nanny"]["journal_degraded"], "the journal")
