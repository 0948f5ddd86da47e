"""``nannyctl replay`` against a real node: the running nanny's recording, a saved one, an evidence bundle's."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from nanny.linux import pidfd
from tests.support.processes import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.nodes import RunningNanny

    Ctl = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow
AS_RECORDED = "every decision as recorded, no rule broken"


@pytest.fixture
def after_a_kill(node: RunningNanny) -> RunningNanny:
    """A node whose worker was killed and replaced, with a bundle about it."""
    before = node.wait_for_phase("running")
    worker = pidfd.open_pidfd(before["worker"]["pid"])
    try:
        pidfd.send_signal(worker, signal.SIGKILL)
    finally:
        os.close(worker)
    wait_until(lambda: node.status()["incarnation"] != before["incarnation"], 20, "the successor")
    node.wait_for_phase("running")
    return node


def test_the_running_nannys_recording_is_told_and_leads_to_the_same_decisions(
    after_a_kill: RunningNanny, ctl: Ctl
) -> None:
    told = ctl(after_a_kill, "replay")
    assert told.returncode == 0, told.stdout + told.stderr
    assert AS_RECORDED in told.stdout.splitlines()[-1]
    for words in ("worker exited", "SIGKILL", "RUNNING -> STARTING", "does        ", "heartbeat received"):
        assert words in told.stdout


def test_a_program_gets_each_event_and_a_verdict(after_a_kill: RunningNanny, ctl: Ctl) -> None:
    lines = [json.loads(line) for line in ctl(after_a_kill, "replay", "--json").stdout.splitlines()]
    *moments, verdict = lines
    assert verdict == {"events": len(moments), "as_recorded": True, "problems": []}
    assert {"WorkerExited", "HeartbeatReceived"} <= {one["event"]["is"] for one in moments}


def test_a_saved_recording_is_told_without_the_node_and_is_not_overwritten(
    after_a_kill: RunningNanny, ctl: Ctl, tmp_path: Path
) -> None:
    path = str(tmp_path / "recording.gz")
    assert ctl(after_a_kill, "replay", "--save", path).returncode == 0
    told = ctl("/nonexistent", "replay", path)
    assert (told.returncode, AS_RECORDED in told.stdout) == (0, True)
    again = ctl(after_a_kill, "replay", "--save", path)
    assert again.returncode != 0
    assert "exists" in again.stderr


def test_a_bundle_has_the_recording_up_to_its_making(after_a_kill: RunningNanny, ctl: Ctl) -> None:
    def has_bundle() -> bool:
        return bool(json.loads(ctl(after_a_kill, "evidence", "--json").stdout))

    wait_until(has_bundle, 20, "the bundle")
    told = ctl(after_a_kill, "replay", "latest")
    assert told.returncode == 0, told.stderr
    assert AS_RECORDED in told.stdout


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [("no-such-bundle", 1, "no bundle begins so"), (__file__, 1, "no gzip")],
)
def test_what_is_no_recording_is_refused_with_advice(
    node: RunningNanny, ctl: Ctl, what: str, code: int, words: str
) -> None:
    refused = ctl(node, "replay", what)
    assert refused.returncode == code
    assert words in refused.stderr
    assert "next:" in refused.stderr
