"""The two commands of the README, as a new user runs them, only shorter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server_stub.demo", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def _left_behind() -> list[str]:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if "nodenanny-" in line and "python" in line]


def test_demo_shows_a_ready_node_and_leaves_nothing_behind() -> None:
    ended = _run_demo("--for", "3")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "READY" in ended.stdout
    assert "demo-node" in ended.stdout
    assert _left_behind() == []


def test_every_fault_heals_both_times() -> None:
    ended = _run_demo("--faults", "--json")

    healed = json.loads(ended.stdout)
    not_back = [
        f"{one['fault']} {one['time']}: {one['verdict']}" for one in healed if one["ready_after_s"] is None
    ]
    assert not_back == []
    assert ended.returncode == 0, ended.stderr
    assert len(healed) == 18
    assert _left_behind() == []
