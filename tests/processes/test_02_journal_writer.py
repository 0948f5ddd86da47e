"""Design 5.2, the journal writer is a process: a disk that hangs degrades the journal and nothing else.

SIGSTOP of the writer, and a file system that never answers, stand for the disk.
"""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, RealNanny

WHY_NOT = why_no_dead_mount()
QUIET = "import time; time.sleep(600) # _notify"


def newest_journal(node: RealNanny) -> Path:
    return max(node.state_dir.glob("journal.0*.jsonl"))


def writers(node: RealNanny) -> list[int]:
    """The processes that hold the journal open."""
    found = []
    for pid in node.processes():
        with suppress(OSError):
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            if any("/state/journal" in path for path in held):
                found.append(pid)
    return found


def test_the_nanny_itself_holds_no_file_of_the_state_directory(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    assert len(writers(node)) == 1
    assert node.pid not in writers(node)


@pytest.mark.slow
def test_a_hung_writer_degrades_the_journal_restarts_go_on_and_it_recovers(node: RealNanny) -> None:
    node.start(BEATS, "--journal-timeout-s=0.3")
    first = node.wait_for_phase("running")
    [writer] = writers(node)
    os.kill(writer, signal.SIGSTOP)
    os.kill(first["worker"]["pid"], signal.SIGKILL)
    second = node.wait_for_next(first)
    answer = node.order("restart")
    assert answer["outcome"] == "done"
    node.wait_for_next(second)
    # A stopped writer is left behind and replaced after a second, and the journal is whole again.
    recovered = node.wait_for(lambda status: not status["journal_degraded"], "the journal to recover")
    assert recovered["phase"] == "running"
    assert writer not in writers(node)
    assert "JournalDegraded" in node.log()
    text = newest_journal(node).read_text()
    assert recovered["incarnation"] in text, "what was decided meanwhile is on record after all"


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_with_a_silent_disk_a_start_adopts_from_run_refuses_stop_and_goes_on(node: RealNanny) -> None:
    node.start(QUIET, "--heartbeat=none")
    before = node.wait_for_phase("running")
    wait_until(lambda: node.workers() == [before["worker"]["pid"]], 10, "the worker to be released")
    node.kill()
    node.state_dir.rename(node.directory / "aside")
    with dead_mount(node.state_dir):
        node.start(QUIET, "--heartbeat=none", "--journal-timeout-s=0.3")
        status = node.wait_for_phase("running")
        assert (status["incarnation"], status["worker"]["pid"]) == (
            before["incarnation"],
            before["worker"]["pid"],
        )
        assert node.workers() == [before["worker"]["pid"]]
        assert "JournalDegraded" in {one["type"] for one in status["conditions"]}
        refused = node.order("stop")
        assert refused["outcome"] == "rejected"
        assert "journal is degraded" in refused["detail"]
        assert node.status()["desired"]["value"] == "up"
        assert node.order("restart")["outcome"] == "done"
        node.wait_for_next(status)
        node.assert_unharmed()
        node.kill()


@pytest.mark.slow
def test_the_journal_that_answers_late_is_taken_up_with_nothing_lost(node: RealNanny) -> None:
    """The desired state from before, and the worker born while the journal was silent, both count."""
    node.start()
    node.wait_for_phase("running")
    assert node.order("drain")["outcome"] == "done"
    node.stop()
    # A disk that refuses to be read answers, but not with the journal.
    aside = node.directory / "aside"
    node.state_dir.rename(aside)
    node.state_dir.write_text("not a directory")
    node.start(BEATS, "--journal-timeout-s=0.3")
    status = node.wait_for_phase("running")
    assert (status["journal_degraded"], status["draining"]) == (True, False)
    node.state_dir.unlink()
    aside.rename(node.state_dir)
    late = node.wait_for(
        lambda status: not status["journal_degraded"] and status["nanny"]["reexecuted"], "recovery"
    )
    assert late["draining"] is True
    assert (late["incarnation"], late["worker"]["pid"]) == (status["incarnation"], status["worker"]["pid"])
    assert node.workers() == [status["worker"]["pid"]]


def test_a_torn_tail_is_cut_and_said(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    node.stop()
    with open(newest_journal(node), "ab") as file:
        file.write(b'0badc0de {"type":"desired-set","desired":"do')
    node.start()
    node.wait_for_phase("running")
    assert '"torn_bytes":44' in node.log()


def test_a_journal_damaged_in_its_middle_costs_no_second_worker(node: RealNanny) -> None:
    """What /run knows of the living worker is added to what is left of the journal."""
    node.start()
    before = node.wait_for_phase("running")
    node.kill()
    for path in node.state_dir.glob("journal.0*.jsonl"):
        content = path.read_bytes()
        at = content.index(b"numbers-reserved")
        path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    node.start()
    after = node.wait_for_phase("running")
    assert "journal repaired" in node.log()
    assert after["worker"]["pid"] == before["worker"]["pid"]
    assert node.workers() == [before["worker"]["pid"]]


@pytest.mark.root
def test_a_read_only_state_directory_is_a_condition_and_the_worker_runs(node: RealNanny) -> None:
    node.state_dir.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "none", str(node.state_dir)], check=True, capture_output=True
    )
    try:
        node.start()
        status = node.wait_for_phase("running")
        degraded = [one for one in status["conditions"] if one["type"] == "JournalDegraded"]
        assert "Read-only file system" in json.dumps(degraded)
        assert "Read-only file system" in " ".join(status["because"])
        node.assert_unharmed()
    finally:
        node.end_everything()
        subprocess.run(["umount", str(node.state_dir)], check=True, capture_output=True)
