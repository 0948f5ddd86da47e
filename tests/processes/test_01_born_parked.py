"""Design 5.1, born parked: no worker runs before it is recorded, and no exec ever holds the nanny.

The fault points put SIGKILL exactly between the child's birth and its record, and between record and release.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, RealNanny

MARKS = "import os\nopen({path!r}, 'a').write('ran ')\n" + BEATS
WHY_NOT = why_no_dead_mount()


@pytest.mark.parametrize("place", ["worker-parked", "worker-recorded"])
def test_a_nanny_that_dies_before_the_release_leaves_no_worker(node: RealNanny, place: str) -> None:
    ran = node.directory / "ran"
    program = MARKS.format(path=str(ran))
    node.start(program, f"--fault-point={place}", wait=False)
    assert node.wait_for_exit() == -signal.SIGKILL
    wait_until(lambda: not node.processes(), 10, "the parked child to meet end of file and go")
    assert not ran.exists()

    node.start(program)
    status = node.wait_for_phase("running")
    assert node.workers() == [status["worker"]["pid"]]
    assert ran.read_text() == "ran "


def test_the_record_is_in_the_journal_before_the_worker_runs(node: RealNanny) -> None:
    node.start(BEATS, "--fault-point=worker-recorded", wait=False)
    assert node.wait_for_exit() == -signal.SIGKILL
    wait_until(lambda: not node.processes(), 10, "the writer to end")
    newest = max(node.state_dir.glob("journal.0*.jsonl"))
    records = [json.loads(line[9:]) for line in newest.read_text().splitlines()[1:]]
    started = [one for one in records if one["type"] == "incarnation-started"]
    assert [one["pid"] > 0 and one["start_time_ticks"] > 0 and bool(one["boot"]) for one in started] == [True]


def test_a_number_is_never_used_twice_whatever_dies(node: RealNanny) -> None:
    seen = []
    for place in ("worker-parked", "worker-recorded", "worker-parked"):
        node.start(BEATS, f"--fault-point={place}", wait=False)
        node.wait_for_exit()
    for _ in range(2):
        node.start()
        seen.append(node.wait_for_phase("running")["incarnation"])
        node.stop()
    assert len(set(seen)) == 2
    numbers = [int(one.partition("/")[2]) for one in seen]
    assert numbers[0] > 64 * 3, "a block of numbers was reserved by each of the nannies before"
    assert numbers[1] > numbers[0]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_program_on_a_dead_mount_holds_its_child_and_never_the_nanny(
    node: RealNanny, tmp_path: Path
) -> None:
    with dead_mount(tmp_path / "dead") as dead:
        node.start((str(dead / "program"),), "--start-timeout-s=30")
        status = node.wait_for(
            lambda status: status["phase"] == "starting" and status["worker"]["pid"], "a parked child"
        )
        pid = status["worker"]["pid"]
        wait_until(lambda: _syscall_waits(pid), 10, "the child to hang in its exec")
        for _ in range(20):
            assert node.status()["nanny"]["late_s"] < 1.0
        node.assert_unharmed()


def _syscall_waits(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan") as file:
        wchan = file.read()
    return "fuse" in wchan or "request" in wchan


def test_a_crash_between_birth_and_record_is_no_use_of_the_fault_point_by_strangers(node: RealNanny) -> None:
    """The seam is a setting like any other: an unknown place is refused, and it is off by default."""
    node.start(BEATS, "--fault-point=everywhere", wait=False)
    assert node.wait_for_exit() == os.EX_CONFIG
    node.start()
    node.wait_for_phase("running")
