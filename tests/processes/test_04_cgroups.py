"""Design 5.4, plain sub-cgroups: a worker's descendants end with it, and no controller is ever enabled.

Without a writable cgroup v2 the nanny supervises all the same; these tests are skipped then.
"""

import os
import signal
from pathlib import Path

import pytest

from nanny.linux.cgroup import own_cgroup_dir
from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny, cgroup_of, real_node

pytestmark = pytest.mark.skipif(own_cgroup_dir() is None, reason="no writable cgroup v2 here")

FAMILY = (
    PRELUDE
    + """
def detached():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600) # grandchild"])
        os._exit(0)
    os.wait()
detached()
detached()
beat_for_ever()
"""
)


def subtree(node: RealNanny) -> Path:
    found = cgroup_of(node)
    assert found is not None
    return found


def test_each_worker_lives_in_a_cgroup_of_its_own_which_goes_with_it(node: RealNanny) -> None:
    node.start()
    first = node.wait_for_phase("running")
    [home] = subtree(node).glob("worker-*")
    assert (home / "cgroup.procs").read_text().split() == [str(first["worker"]["pid"])]
    os.kill(first["worker"]["pid"], signal.SIGKILL)
    second = node.wait_for_next(first)
    wait_until(lambda: not home.exists(), 10, "the dead worker's cgroup to be removed")
    [home] = subtree(node).glob("worker-*")
    assert (home / "cgroup.procs").read_text().split() == [str(second["worker"]["pid"])]
    node.stop()
    assert not subtree(node).exists()


def test_the_nanny_is_in_no_workers_cgroup_and_enables_no_controller(node: RealNanny) -> None:
    own = own_cgroup_dir()
    assert own is not None
    before = (Path(own) / "cgroup.subtree_control").read_text()
    node.start()
    node.wait_for_phase("running")
    inside = {pid for path in subtree(node).rglob("cgroup.procs") for pid in path.read_text().split()}
    assert str(node.pid) not in inside
    assert (Path(own) / "cgroup.subtree_control").read_text() == before
    assert [path.read_text().strip() for path in subtree(node).rglob("cgroup.subtree_control")] == ["", ""]


def test_descendants_that_left_session_and_parent_end_with_the_worker(node: RealNanny) -> None:
    node.start(FAMILY)
    status = node.wait_for_phase("running")
    wait_until(lambda: len(node.workers("import time; time.sleep")) >= 2, 10, "the grandchildren")
    family = set(node.workers("import time; time.sleep")) - {status["worker"]["pid"]}
    os.kill(status["worker"]["pid"], signal.SIGKILL)
    node.wait_for_next(status)
    wait_until(lambda: not family & set(node.processes()), 10, "the dead worker's descendants to end")
    assert "ProbeResidue" not in node.log()


def test_what_a_worker_left_that_died_unwatched_is_swept_by_the_next_nanny(node: RealNanny) -> None:
    node.start(FAMILY)
    status = node.wait_for_phase("running")
    wait_until(lambda: len(node.workers("import time; time.sleep")) >= 2, 10, "the grandchildren")
    family = set(node.workers("import time; time.sleep")) - {status["worker"]["pid"]}
    node.kill()
    os.kill(status["worker"]["pid"], signal.SIGKILL)
    node.start()
    node.wait_for_phase("running")
    wait_until(lambda: not family & set(node.processes()), 10, "the left-over descendants to end")
    wait_until(lambda: len(list(subtree(node).glob("worker-*"))) == 1, 10, "their cgroup to be removed")


def test_two_nannies_in_one_cgroup_never_touch_each_others_workers(node: RealNanny) -> None:
    """Several nodes on one machine, as in the demo: same node name, same numbers."""
    with real_node() as other:
        node.start()
        ours = node.wait_for_phase("running")
        other.start()
        theirs = other.wait_for_phase("running")
        assert node.wait_for_phase("running")["worker"]["pid"] == ours["worker"]["pid"]
        os.kill(ours["worker"]["pid"], signal.SIGKILL)
        node.wait_for_next(ours)
        node.stop()
        after = other.wait_for_phase("running")
        assert after["worker"]["pid"] == theirs["worker"]["pid"]
        assert other.status()["counters"]["ends_total"] == {}


def test_a_restart_is_no_reason_to_say_residue(node: RealNanny) -> None:
    node.start(FAMILY)
    status = node.wait_for_phase("running")
    for _ in range(3):
        assert node.order("restart")["outcome"] == "done"
        status = node.wait_for_next(status)
    assert "ProbeResidue" not in node.log()
