"""Power is lost on a node whose disk forgets what was not synced: each order has one outcome, and one effect."""

from __future__ import annotations

import json
import time
from typing import Any

from nanny.common.identifiers import uuid7
from tests.systemd.installation import PREFIX
from tests.systemd.node import QUICK, Node, order_of

DEAF = {
    "command": ["/usr/bin/python3", "/src/inside/crier.py"],
    "heartbeat": "ready",
    "stop_grace_s": 60.0,
}
"""A worker that will not end on SIGTERM: an order to restart it is accepted and stays open."""


def power_cycle(node: Node) -> None:
    node.box.crash()
    node.box.start()


def outcomes(node: Node, command_id: str) -> list[dict[str, Any]]:
    """The records of the journal about how an order ended."""
    lines = node.box.sh("cat /var/lib/nodenanny/journal*.jsonl").splitlines()
    records = [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
    return [
        one
        for one in records
        if one.get("type") == "command-finished" and one.get("command_id") == command_id
    ]


def test_an_order_that_was_accepted_has_one_outcome_after_a_power_loss(disk_node: Node) -> None:
    node = disk_node
    node.configure(QUICK | {"nanny": QUICK["nanny"] | DEAF})
    node.box.run("sync", "-f", "/")
    node.box.run("systemctl", "start", "server-stub", "nodenanny", "nodenanny-link")
    before = node.wait_until_running()["nanny"]
    command_id = uuid7(time.time_ns() // 1_000_000, b"power-loss")
    order = ("restart", "--reason", "power", "--id", command_id)
    node.box.run(f"{PREFIX}/bin/nannyctl", *order, "--no-wait")
    assert outcomes(node, command_id) == []

    power_cycle(node)

    after = node.wait_until_running(after=before["incarnation"])["nanny"]
    assert after["boot_id"] != before["boot_id"]
    node.box.wait_until(lambda: outcomes(node, command_id), "the order's outcome")
    first = outcomes(node, command_id)
    # The same order again: known, with the same outcome, and no second effect.
    again = node.box.ask(f"{PREFIX}/bin/nannyctl", "--json", *order)
    assert json.loads(again.out)["outcome"] == first[0]["outcome"]
    assert node.status()["incarnation"] == after["incarnation"]
    power_cycle(node)
    last = node.wait_until_running(after=after["incarnation"])["nanny"]
    assert {one["outcome"] for one in outcomes(node, command_id)} == {first[0]["outcome"]}
    assert order_of(last) > order_of(after) > order_of(before)
    assert last["conditions"] == []


def test_what_nannyctl_called_done_is_so_after_a_power_loss(disk_node: Node) -> None:
    node = disk_node
    node.box.run("systemctl", "start", "server-stub", "nodenanny", "nodenanny-link")
    node.wait_until_running()

    for order, expected, phase in (("stop", "down", "down"), ("start", "up", "running")):
        node.nannyctl(order, "--reason", f"before the power loss: {order}")
        power_cycle(node)

        told = node.wait_until_in_phase(phase)
        assert told["nanny"]["desired"]["value"] == expected
        assert told["nanny"]["desired"]["reason"] == f"before the power loss: {order}"
    node.wait_until_ready()
