"""What nanny, worker and link say is in the journal under their units, with its priority, last words included."""

from __future__ import annotations

import json
from typing import Any

from tests.systemd.node import QUICK, Node

CRIER = {"command": ["/usr/bin/python3", "/src/inside/crier.py"], "heartbeat": "ready", "stop_grace_s": 1.0}


def entries(node: Node, unit: str, *options: str) -> list[dict[str, Any]]:
    """The unit's entries of this boot: each with `said`, what its JSON line holds, empty for plain text."""
    found = []
    for line in node.box.journal(unit, "-b", "-o", "json", "--all", *options).splitlines():
        entry = json.loads(line)
        message = entry.get("MESSAGE") or ""
        text = message if isinstance(message, str) else bytes(message).decode()
        is_json = text.startswith("{") and text.endswith("}")
        found.append({**entry, "text": text, "said": json.loads(text) if is_json else {}})
    return found


def test_the_nannys_lines_have_their_priorities(node: Node) -> None:
    node.signal("KILL", node.status()["worker"]["pid"])
    node.wait_until_ready()
    own = [one for one in entries(node, "nodenanny") if one["said"].get("program") == "nanny"]

    levels = {one["said"]["level"]: one["PRIORITY"] for one in own}
    assert levels.pop("info") == "6"
    assert levels.get("warning", "4") == "4"
    assert levels.get("error", "3") == "3"
    assert "nanny started" in {one["said"]["event"] for one in own}


def test_links_lines_have_their_priorities_and_its_own_unit(node: Node) -> None:
    node.box.run("systemctl", "stop", "nodenanny")
    node.box.wait_until(
        lambda: any(one["said"].get("level") == "warning" for one in entries(node, "nodenanny-link")),
        "a warning of link",
        unit="nodenanny-link",
    )

    levels = {one["said"]["level"]: one["PRIORITY"] for one in entries(node, "nodenanny-link") if one["said"]}
    assert (levels["info"], levels["warning"]) == ("6", "4")


def test_the_agents_lines_arrive_under_the_nannys_unit(node: Node) -> None:
    node.wait_until_ready()

    (latest,) = [one for one in entries(node, "nodenanny") if one["said"].get("event") == "the agent runs"][
        -1:
    ]
    assert latest["said"]["incarnation"] == node.status()["incarnation"]
    assert latest["_SYSTEMD_UNIT"] == "nodenanny.service"


def test_a_workers_last_words_are_in_the_journal_with_the_priorities_it_gave_them(node: Node) -> None:
    node.configure(QUICK | {"nanny": QUICK["nanny"] | CRIER})
    node.box.run("systemctl", "restart", "nodenanny")
    before = node.wait_until_running()["nanny"]
    node.signal("USR1", before["worker"]["pid"])
    node.wait_until_running(after=before["incarnation"])

    node.box.wait_until(
        lambda: "on stderr: it is over" in node.box.journal("nodenanny", "-b"), "its last words"
    )

    said = {one["text"]: one["PRIORITY"] for one in entries(node, "nodenanny") if not one["said"]}
    assert said[f"ready, says {before['incarnation']}"] == "6"
    assert said["on stdout: the last words"] == "6"
    assert said["on stderr: it is over"] == "2"
    assert "on stdout: the last words" in node.box.run("/opt/nodenanny/bin/nannyctl", "logs")
