"""The demotion brake where the network is cut in truth: in a network namespace of the server's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 100.0


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_server_without_a_network_keeps_its_fleet_as_it_was_and_finds_it_again(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.cut_network", str(tmp_path / "server.sqlite3")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    if found.get("not_allowed"):
        pytest.skip("no network namespaces here")
    assert found["results"]
    assert set(found["results"]) <= {"timeout", "no-route"}
    assert found["demoted"] < 12
    assert set(found["told_of_the_kept"]) <= {"PENDING", "READY", "DEGRADED"}
    assert found["brake"] == ["brake.on", "brake.off"]
    assert found["commands"] == 0
