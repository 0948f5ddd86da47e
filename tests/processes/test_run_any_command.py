"""`nanny run -- ANY COMMAND`: programs that beat, that only say READY=1, that say nothing, that are not there."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.notify_listener import notify_listener
from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny, real_node

ANYONES_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")


def test_a_program_that_says_nothing_is_running_as_soon_as_it_is_born(node: RealNanny) -> None:
    with notify_listener() as systemd:
        ours = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "60000000"}
        node.start(("sleep", "600"), "--heartbeat=none", environ=ours)
    status = node.wait_for_phase("running")
    wait_until(lambda: node.workers("sleep 600") == [status["worker"]["pid"]], 10, "its exec")
    environ = Path(f"/proc/{status['worker']['pid']}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert b"WATCHDOG_USEC" not in environ
    os.kill(status["worker"]["pid"], signal.SIGKILL)
    node.wait_for_next(status)


@pytest.mark.slow
def test_a_program_that_only_says_ready_is_never_judged_by_its_silence(node: RealNanny) -> None:
    node.start(
        PRELUDE + "tell('READY=1'); time.sleep(600)",
        "--heartbeat=ready",
        "--heartbeat-timeout-s=0.4",
        "--heartbeat-interval-s=0.2",
    )
    status = node.wait_for_phase("running")
    time.sleep(1.5)
    after = node.status()
    assert (after["phase"], after["worker"]["pid"]) == ("running", status["worker"]["pid"])


@pytest.mark.slow
def test_a_program_that_stops_beating_is_ended_and_followed(node: RealNanny) -> None:
    node.start(
        PRELUDE + "tell('READY=1\\nWATCHDOG=1'); time.sleep(600)",
        "--heartbeat-timeout-s=0.5",
        "--heartbeat-interval-s=0.2",
    )
    first = node.wait_for_phase("running")
    second = node.wait_for_next(first)
    assert second["last_restart"]["reason"] == "lost"


def test_a_program_that_never_says_ready_is_ended_at_its_start_timeout(node: RealNanny) -> None:
    node.start(PRELUDE + "time.sleep(600)", "--start-timeout-s=0.3")
    status = node.wait_for(lambda status: status["last_restart"], "the end of the first")
    assert status["last_restart"]["reason"] == "start-timeout"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/no/such/program", "No such file or directory"),
        ("no-such-program-anywhere", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/", "Permission denied"),
    ],
)
def test_a_program_that_can_not_be_executed_is_explained_and_tried_again(
    node: RealNanny, program: str, why: str
) -> None:
    node.start((program,), "--backoff-initial-s=0.2", "--crash-loop-after=50")
    status = node.wait_for(
        lambda status: status["phase"] == "backoff" and why in " ".join(status["because"]),
        "the reason in the explanation",
    )
    assert status["next_step"] == "start the next worker"
    failures = status["worker"]["failures"]
    node.wait_for(lambda status: status["worker"]["failures"] > failures, "the next try")


def test_a_crash_loop_is_a_phase_and_a_condition_and_is_tried_for_ever(node: RealNanny) -> None:
    node.start(("false",), "--heartbeat=none", "--crash-loop-after=3", "--backoff-ceiling-s=0.4")
    status = node.wait_for_phase("failed")
    assert "CrashLooping" in {one["type"] for one in status["conditions"]}
    failures = status["worker"]["failures"]
    status = node.wait_for(lambda status: status["worker"]["failures"] >= failures + 2, "more tries")
    assert status["desired"]["value"] == "up"


def test_the_second_and_the_tenth_failure_are_handled_like_the_first(node: RealNanny) -> None:
    node.start()
    status = node.wait_for_phase("running")
    for _ in range(10):
        os.kill(status["worker"]["pid"], signal.SIGKILL)
        status = node.wait_for_next(status)
        node.order("clear")
    assert node.status()["counters"]["ends_total"] == {"exited": 10}


def test_a_relative_program_is_found_in_path_and_runs_in_its_directory(node: RealNanny) -> None:
    node.start(
        ("sh", "-c", "pwd > where; exec sleep 600"),
        "--heartbeat=none",
        f"--working-directory={node.directory}",
    )
    node.wait_for_phase("running")
    wait_until((node.directory / "where").exists, 10, "the file")
    wait_until(
        lambda: (node.directory / "where").read_text().strip() == os.path.realpath(node.directory),
        10,
        "its directory in the file",
    )


def test_an_unknown_user_is_explained_and_tried_again(node: RealNanny) -> None:
    node.start(("sleep", "600"), "--heartbeat=none", "--worker-user=nobody-of-that-name")
    # The child looks itself for its user: one without heartbeats counts as running until it has said so.
    node.wait_for(
        lambda status: (
            status["phase"] in {"backoff", "failed"} and "nobody-of-that-name" in " ".join(status["because"])
        ),
        "the explanation",
    )
    node.wait_for(lambda status: status["counters"]["incarnations_total"] > 2, "another try")


@pytest.mark.root
@pytest.mark.skipif(ANYONES_PYTHON is None, reason="no interpreter that another user may execute")
def test_the_worker_runs_as_its_user_and_still_beats(node: RealNanny) -> None:
    with real_node() as other:
        other.directory.chmod(0o755)
        assert ANYONES_PYTHON is not None
        other.start((ANYONES_PYTHON, "-c", PRELUDE + "beat_for_ever()"), "--worker-user=nobody")
        status = other.wait_for_phase("running")
        assert os.stat(f"/proc/{status['worker']['pid']}").st_uid == 65534
        other.wait_for(lambda status: status["counters"]["beats_total"] > 3, "beats")
