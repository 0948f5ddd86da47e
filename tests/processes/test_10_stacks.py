"""Design 5.10, stacks, end to end: a worker whose C code holds the GIL leaves its stack, and nobody dies of asking."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny

HELD = (
    PRELUDE
    + """
import ctypes, faulthandler
from nanny.protocol.stack_signal import STACK_SIGNAL
faulthandler.register(STACK_SIGNAL, file=int(os.environ["NANNY_STACKS_FD"]), all_threads=True)
tell("READY=1\\nWATCHDOG=1")
def the_guilty_one():
    ctypes.PyDLL(None).sleep(600)
time.sleep(0.3)
the_guilty_one()
"""
)


def with_path(program: str) -> tuple[str, ...]:
    root = str(Path(__file__).parents[2])
    return (sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {root!r})\n" + program)


def saved(node: RealNanny) -> str:
    """Everything that evidence bundles say."""
    folder = node.state_dir / "evidence"
    texts = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    return "\n".join(texts)


@pytest.mark.slow
@pytest.mark.parametrize("nanny", ["that started it", "that adopted it"])
def test_the_stack_of_a_worker_that_holds_the_gil_is_saved_before_it_is_ended(
    node: RealNanny, nanny: str
) -> None:
    flags = ("--heartbeat-timeout-s=1", "--evidence-timeout-s=2")
    node.start(with_path(HELD), *flags)
    before = node.wait_for_phase("running")
    if nanny == "that adopted it":
        node.kill()
        node.start(with_path(HELD), *flags)
        assert node.wait_for_phase("running")["incarnation"] == before["incarnation"]
    after = node.wait_for(lambda status: status["incarnation"] != before["incarnation"], "a successor")
    assert after["last_restart"]["reason"] == "lost"
    wait_until(lambda: "the_guilty_one" in saved(node), 10, "the stack in the bundle")


CRASHES = (
    PRELUDE
    + """
import faulthandler, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.enable(file=int(os.environ["NANNY_STACKS_FD"]))
signal.signal(signal.SIGUSR1, lambda *_: its_last_function())
def its_last_function():
    faulthandler._sigsegv()
beat_for_ever()
"""
)


@pytest.mark.parametrize("nanny", ["that started it", "that adopted it"])
def test_what_a_crashing_worker_left_in_its_memfd_is_saved(node: RealNanny, nanny: str) -> None:
    node.start(CRASHES)
    before = node.wait_for_phase("running")
    if nanny == "that adopted it":
        node.kill()
        node.start(CRASHES)
        assert node.wait_for_phase("running")["incarnation"] == before["incarnation"]
    os.kill(before["worker"]["pid"], signal.SIGUSR1)
    node.wait_for_next(before)
    wait_until(lambda: "its_last_function" in saved(node), 10, "the stack in the bundle")


def test_a_worker_without_a_handler_gets_no_stack_signal(node: RealNanny) -> None:
    """It would kill it. Ordered evidence of a healthy foreign program leaves it alone."""
    node.start()
    before = node.wait_for_phase("running")
    answer = node.order("collect-evidence")
    assert answer["outcome"] == "done"
    after = node.status()
    assert (after["worker"]["pid"], after["phase"]) == (before["worker"]["pid"], "running")
    assert "handles no stack signal" in node.log()


@pytest.mark.slow
def test_a_stopped_worker_is_ended_although_it_can_take_no_signal_but_kill(node: RealNanny) -> None:
    node.start(with_path(HELD.replace("the_guilty_one()\n", "beat_for_ever()\n")), "--heartbeat-timeout-s=1")
    before = node.wait_for_phase("running")
    os.kill(before["worker"]["pid"], signal.SIGSTOP)
    after = node.wait_for_next(before)
    assert after["last_restart"]["reason"] == "lost"
    assert "process state T" in after["last_restart"]["detail"]
