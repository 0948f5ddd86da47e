"""The setting that has the server fall: what may be said, and that nothing falls without it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from server_stub import fault_point
from server_stub.config import ServerConfig, check

FALL = """
import sys
from server_stub import fault_point
fault_point.arm(sys.argv[1] or None)
for place in ("first", "second", "third"):
    fault_point.reach(place)
print("lived")
"""


@pytest.mark.parametrize("text", ["after-1", "after-100"])
def test_a_place_is_counted(text: str) -> None:
    assert fault_point.is_setting(text)


@pytest.mark.parametrize("text", ["", "after-", "after-0", "after--1", "after-x", "1", "stored", "after-٣"])
def test_all_else_is_refused_by_the_configuration(text: str) -> None:
    assert not fault_point.is_setting(text)
    assert [problem.key for problem in check(ServerConfig(fault_point=text))] == ["fault_point"]


@pytest.mark.parametrize(
    ("setting", "status", "said"),
    [("after-2", -signal.SIGKILL, "fault point: second"), ("after-4", 0, "lived"), ("", 0, "lived")],
)
def test_a_program_falls_at_the_place_that_was_said(setting: str, status: int, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FALL, setting], capture_output=True, text=True, check=False, timeout=60
    )

    assert (ended.returncode, (ended.stdout + ended.stderr).strip()) == (status, said)
