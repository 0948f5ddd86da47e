"""Faults 1 to 6 and 10 to 15: what goes wrong in the worker's own process, each with real processes.

The programs are small stand-ins that speak sd_notify; where the repository's agent itself matters, see
test_agent_loop.py. Every worker that is replaced is replaced twice: the second failure is where others stay down.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults import fault_makers as make
from tests.faults.fault_node import LOST_AFTER_S, STARVATION_LIMIT_S
from tests.faults.journal_story import read_story
from tests.faults.oracles import Expectation, judged
from tests.faults.own_cgroups import own_cgroup, why_no_controller
from tests.faults.registry import fault
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow
HANG = Expectation(
    detect_within_s=LOST_AFTER_S, recover_within_s=LOST_AFTER_S + 2.0, cause=("lost",), evidence=True
)
DEATH = Expectation(detect_within_s=0.1, recover_within_s=1.0)


@fault("1", "crash at import after a bad update", by="nanny: pidfd, crash loop")
def test_a_bad_wheel_is_a_crash_loop_that_ends_with_the_good_one(node: FaultNode) -> None:
    node.begin(make.dies_at_import(node), crash_loop_after=3)
    with judged(node, expects=Expectation(restarts=None, cause=("exit code 1", "failure 3 in a row"), explains=())) as case:  # fmt: skip
        make.break_module(node)
        make.oom_kill(node.status()["worker"]["pid"])
        case.begins()
        failed = node.wait_for(lambda status: status["worker"]["failures"] >= 4, "a crash loop")
        assert any("in a row" in one or "crash loop" in one for one in failed["because"]), failed["because"]
        assert "bad wheel" in node.log()
        make.break_module(node, whole=True)
        node.wait_for_phase("running")


@fault("2", "crash k seconds after ready, inside the reset window", by="nanny: pidfd, failures counted")
def test_deaths_inside_the_window_escalate(node: FaultNode) -> None:
    node.begin(make.dies_after_ready(node, 0.2), stable_after_s=5)
    with judged(node, expects=Expectation(restarts=None, cause=("exit code 1",), explains=())):
        node.wait_for(lambda status: status["worker"]["failures"] >= 3, "three failures in a row")
        (node.directory / "mended").touch()
        node.wait_for_phase("running")
    counted = [one["failures"] for one in read_story(node).of_type("incarnation-ended")]
    assert counted == list(range(1, len(counted) + 1))


@fault("2", "crash k seconds after ready, beyond the reset window", by="nanny: pidfd, failures forgotten")
def test_deaths_beyond_the_window_do_not_escalate(node: FaultNode) -> None:
    node.begin(make.dies_after_ready(node, 1.0), stable_after_s=0.3)
    with judged(node, expects=Expectation(restarts=None, cause=("exit code 1",), explains=())):
        wait_until(lambda: len(read_story(node).of_type("incarnation-ended")) >= 2, 30, "two deaths")
        (node.directory / "mended").touch()
        node.wait_for_phase("running")
    counted = [one["failures"] for one in read_story(node).of_type("incarnation-ended")]
    assert counted == [1] * len(counted)


@fault("3", "SIGSEGV in native code", by="nanny: pidfd")
def test_a_segfault_is_named_and_followed(node: FaultNode) -> None:
    node.begin(make.dies_by_segv(node))
    for _ in range(2):
        with judged(node, expects=replace(DEATH, cause=("SIGSEGV",))):
            make.cue(node)


@fault("4", "abort() in a driver library", by="nanny: pidfd")
def test_an_abort_is_named_and_followed(node: FaultNode) -> None:
    node.begin(make.dies_by_abort(node))
    for _ in range(2):
        with judged(node, expects=replace(DEATH, cause=("SIGABRT",))):
            make.cue(node)


@fault("5", "killed as by the OOM killer", by="nanny: pidfd")
def test_a_sigkill_from_nowhere_is_followed(node: FaultNode) -> None:
    node.begin()
    for _ in range(2):
        with judged(node, expects=replace(DEATH, cause=("SIGKILL",))):
            make.oom_kill(node.status()["worker"]["pid"])


@fault("6", "SIGSTOP of the worker", by="nanny: beats lost, state T")
def test_a_stopped_worker_is_replaced(node: FaultNode) -> None:
    node.begin()
    for _ in range(2):
        with judged(node, expects=replace(HANG, cause=("lost", "process state T"))):
            make.stop(node.status()["worker"]["pid"])


@fault("8", "busy loop in the beating thread", by="nanny: beats lost")
def test_a_spinning_worker_is_replaced(node: FaultNode) -> None:
    # On a busy machine one that spins waits for its turn like one that starves: given more time, but not for ever.
    node.begin(make.spins_without_beats(node), starvation_limit_s=STARVATION_LIMIT_S)
    with judged(node, expects=HANG) as case:
        make.cue(node)
        case.begins()


@pytest.mark.parametrize("breaks", [make.ignores_term, make.wedged_by_term])
@fault("10", "SIGTERM ignored, or its handler wedged", by="nanny: the order's ladder")
def test_an_order_is_done_whatever_sigterm_does(
    node: FaultNode, breaks: Callable[[FaultNode], make.Program]
) -> None:
    node.begin(breaks(node), stop_grace_s=0.5)
    expects = Expectation(
        recover_within_s=2.0, cause=("restart-ordered",), outcomes=("done",), explains=("restart-ordered",)
    )
    for _ in range(2):
        with judged(node, expects=expects):
            assert node.order("restart")["outcome"] == "done"


@fault("11", "grandchildren hold its pipes, then it dies", by="nanny: pidfd; its cgroup is swept")
def test_grandchildren_of_a_dead_worker_are_swept(node: FaultNode) -> None:
    node.begin(make.leaves_grandchildren(node))
    for _ in range(2):
        with judged(node, expects=replace(DEATH, cause=("exit code 1",))):
            make.cue(node)


@fault("12", "descriptor leak to EMFILE, and it dies of it", by="nanny: pidfd")
def test_a_worker_that_dies_of_emfile_is_followed(node: FaultNode) -> None:
    node.begin(make.dies_of_emfile(node))
    with judged(node, expects=replace(DEATH, cause=("exit code 1",))):
        make.cue(node)
    wait_until(lambda: "Too many open files" in node.log(), 10, "the reason in the log")


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
@fault("13", "no more processes: EAGAIN on fork", by="nanny: none needed, or pidfd", why_not=lambda: why_no_controller("pids"))  # fmt: skip
def test_without_a_free_process_id_the_worker_is_kept_or_followed(node: FaultNode, dies: bool) -> None:
    status = node.begin(make.cannot_fork(node, dies=dies))
    expects = DEATH if dies else Expectation(restarts=0)
    with own_cgroup("pids") as group:
        group.add(status["worker"]["pid"])
        group.limit_processes(1)
        with judged(node, expects=expects):
            make.cue(node)
            wait_until((node.directory / "forked").exists, 10, "the answer to its fork")
        assert (node.directory / "forked").read_text() == "Resource temporarily unavailable"


@fault("13", "no more processes for the nanny itself", by="nanny: fork fails, it tries again", why_not=lambda: why_no_controller("pids"))  # fmt: skip
def test_a_nanny_that_can_not_fork_tries_until_it_can(node: FaultNode) -> None:
    node.begin()
    with own_cgroup("pids") as group:
        with judged(node, expects=Expectation(restarts=None, cause=("spawn-failed",), recover_within_s=5.0)) as case:  # fmt: skip
            group.add_node(node)
            group.limit_processes(group.tasks() - 1)
            make.oom_kill(node.status()["worker"]["pid"])
            node.wait_for(
                lambda status: (status["last_restart"] or {}).get("reason") == "spawn-failed", "EAGAIN"
            )
            group.limit_processes(None)
            case.begins()
        node.is_expected_to_err = True


@fault("14", "log storm, then a hang", by="nanny: beats lost")
def test_a_storm_of_lines_neither_hides_a_hang_nor_holds_the_nanny(node: FaultNode) -> None:
    node.start(make.storms(node), *node.flags(), stdout=subprocess.DEVNULL)
    node.wait_for_phase("running")
    with judged(node, expects=HANG) as case:
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            node.status()
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2.0
        make.cue(node)
        case.begins()


@fault("15", "hangs while dumping stacks and while aborting", by="nanny: evidence and abort have deadlines")
def test_a_worker_that_hangs_in_its_own_dump_is_killed(node: FaultNode) -> None:
    node.begin(make.hangs_in_dump(node))
    for _ in range(2):
        with judged(node, expects=HANG) as case:
            make.cue(node)
            case.begins()
