"""The two commands of the README, as a new user runs them, only shorter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def place() -> Iterator[str]:
    """Where the demo makes its directories: short, since sockets lie in them, and told from any other demo's."""
    with tempfile.TemporaryDirectory(prefix="nd-") as directory:
        yield directory


def _run(*argv: str, place: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *argv],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": place},
    )


def _left_behind(place: str) -> list[str]:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if place in line]


def test_demo_shows_a_ready_node_and_leaves_nothing_behind(place: str) -> None:
    ended = _run("server_stub.demo", "--for", "3", place=place)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "READY" in ended.stdout
    assert "demo-node" in ended.stdout
    assert _left_behind(place) == []
    assert os.listdir(place) == []


def test_every_fault_heals_both_times_and_its_recording_replays_to_the_same_decisions(
    place: str, tmp_path: Path
) -> None:
    ended = _run("server_stub.demo", "--faults", "--json", "--recordings", str(tmp_path), place=place)

    healed = json.loads(ended.stdout)
    not_back = [
        f"{one['fault']} {one['time']}: {one['verdict']}" for one in healed if one["ready_after_s"] is None
    ]
    assert not_back == []
    assert ended.returncode == 0, ended.stderr
    assert len(healed) == 18
    assert _left_behind(place) == []
    recordings = sorted(tmp_path.iterdir())
    assert len(recordings) == 18
    for one in recordings:
        told = _run("nanny.nannyctl", "replay", str(one), place=place)
        assert (told.returncode, told.stdout.splitlines()[-1].partition(": ")[2]) == (
            0,
            "every decision as recorded, no rule broken",
        ), told.stdout
    assert "worker exited" in _run("nanny.nannyctl", "replay", str(recordings[0]), place=place).stdout
