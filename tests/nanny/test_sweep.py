"""ExecStopPost: what it decides from what systemd says, and that it leaves nothing in a cgroup. Real systemd elsewhere."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanny import sweep
from nanny.linux.cgroup import SubCgroup, own_cgroup_dir
from tests.support.processes import wait_until

SLEEPS = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")


@pytest.fixture
def group(leaves_nothing_behind: None) -> Iterator[SubCgroup]:
    own = own_cgroup_dir()
    if own is None:
        pytest.skip("no cgroup v2 that can be written")
    made = SubCgroup(os.path.join(own, f"test-sweep-{os.getpid()}"))
    made.create()
    yield made
    made.kill()
    wait_until(made.remove, 10, "the cgroup to go")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("113 nodenanny.service stop running", True),
        ("113 nodenanny.service restart running", False),
        ("113 nodenanny.service start waiting", False),
        ("113 nodenanny-link.service stop running", False),
        ("No jobs running.", False),
        ("", False),
    ],
)
def test_only_a_stop_of_the_unit_is_an_ordered_end(line: str, expected: bool) -> None:
    assert sweep.is_stop_of("nodenanny.service", line) is expected


def test_an_orderly_end_is_an_ordered_one_whoever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep.is_ordered({"SERVICE_RESULT": "success"}, "nodenanny.service")
    # Nobody to ask: a worker is left alone rather than ended for nothing.
    monkeypatch.setenv("PATH", "/nowhere")
    assert not sweep.is_ordered({"SERVICE_RESULT": "watchdog"}, "nodenanny.service")


def test_systemds_own_subgroup_is_not_the_units(tmp_path: Path) -> None:
    unit = tmp_path / "system.slice/nodenanny.service"
    (unit / ".control").mkdir(parents=True)
    (unit / ".control/cgroup.controllers").touch()
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/system.slice/nodenanny.service/.control\n")
    (proc / "self/mountinfo").write_text(f"30 20 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 rw\n")

    assert sweep.unit_cgroup_dir(str(proc)) == str(unit)


@pytest.mark.root
def test_everything_in_the_cgroup_and_below_it_ends_and_is_removed(group: SubCgroup) -> None:
    below = SubCgroup(f"{group.path}/worker-1")
    below.create()
    children = [subprocess.Popen(SLEEPS) for _ in range(2)]
    group.adopt(children[0].pid)
    below.adopt(children[1].pid)

    left = sweep.sweep(group.path)

    assert left == ()
    assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 2
    assert not os.path.exists(below.path)


def test_without_a_cgroup_or_without_an_order_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "sweep", lambda _: pytest.fail("nobody ordered it"))
    for result in ("watchdog", "signal", "core-dump", "timeout", "exit-code", ""):
        monkeypatch.setenv("SERVICE_RESULT", result)
        assert sweep.main() == 0
