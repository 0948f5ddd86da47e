"""Design 5.12, one nanny: a second one is refused with the first one's pid, whatever directories it shares."""

import os
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, RealNanny, real_node

EX_TEMPFAIL = 75


def start_second(node: RealNanny, **directories: str) -> tuple[int, str]:
    """Start another nanny; its exit code and what it said."""
    command = node.command(BEATS)
    for name, path in directories.items():
        at = next(i for i, flag in enumerate(command) if flag.startswith(f"--{name}-dir="))
        command[at] = f"--{name}-dir={path}"
    second = subprocess.run(command, env=node.environment(), capture_output=True, timeout=30, check=False)
    return second.returncode, second.stderr.decode()


def test_a_second_nanny_is_refused_with_the_holders_pid_and_harms_nothing(node: RealNanny) -> None:
    node.start()
    before = node.wait_for_phase("running")
    for _ in range(20):
        code, said = start_second(node)
        assert (code, str(node.pid) in said) == (EX_TEMPFAIL, True), said
    after = node.wait_for_phase("running")
    assert after["worker"]["pid"] == before["worker"]["pid"]
    assert node.workers() == [before["worker"]["pid"]]


@pytest.mark.parametrize("shared", ["runtime", "state"])
def test_sharing_one_of_the_directories_is_enough_to_be_refused(node: RealNanny, shared: str) -> None:
    node.start()
    node.wait_for_phase("running")
    other = "state" if shared == "runtime" else "runtime"
    for _ in range(20):
        code, said = start_second(node, **{other: str(node.directory / "other")})
        assert (code, str(node.pid) in said) == (EX_TEMPFAIL, True), said
    node.assert_unharmed()


def test_the_locks_survive_an_upgrade_and_end_with_the_nanny(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    node.ask("reexec")
    node.wait_for(lambda status: status["nanny"]["reexecuted"] == 1, "the new image")
    assert start_second(node)[0] == EX_TEMPFAIL
    assert start_second(node, runtime=str(node.directory / "other"))[0] == EX_TEMPFAIL
    # Killed while its helpers live on: they hold nothing.
    helpers = [pid for pid in node.processes() if pid != node.pid and pid not in node.workers()]
    for pid in helpers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    node.kill()
    node.start()
    node.wait_for_phase("running")
    for pid in helpers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_two_names_of_one_state_directory_degrade_the_first_and_corrupt_nothing(node: RealNanny) -> None:
    """What no lock sees, the journal's fence does: the older nanny goes on without a journal, for good."""
    with real_node() as other:
        node.start()
        node.wait_for_phase("running")
        assert node.order("drain")["outcome"] == "done"
        other.state_dir.symlink_to(node.state_dir)
        other.start()
        other.wait_for_phase("running")
        assert other.status()["draining"] is True
        refused = node.order("undrain")
        degraded = node.wait_for(lambda status: status["journal_degraded"], "the fence to be noticed")
        assert "another nanny" in str(degraded["conditions"])
        # Longer than the pause after which a journal that only hangs is tried again.
        time.sleep(2.5)
        assert (node.status()["journal_degraded"], other.status()["journal_degraded"]) == (True, False)
        assert refused["outcome"] in {"rejected", "done"}
        assert node.order("undrain")["outcome"] in {"rejected", "already-satisfied"}
        for _ in range(3):
            assert other.order("restart")["outcome"] == "done"
        assert other.status()["journal_degraded"] is False
        node.assert_unharmed()
        node.kill()
        other.kill()
        other.start()
        assert other.wait_for_phase("running")["draining"] is True


def test_a_runtime_directory_that_can_not_be_made_is_said_and_nothing_is_started(node: RealNanny) -> None:
    node.directory.joinpath("run").write_text("in the way")
    node.start(wait=False)
    assert node.wait_for_exit() == os.EX_UNAVAILABLE
    assert "cannot start" in node.log()
    wait_until(lambda: not node.processes(), 10, "nothing to be left")
