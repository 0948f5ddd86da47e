"""Design 5.11, one reaper: every orphan is reaped, no status goes astray; the same code is PID 1 of a container."""

import os
import shutil
import signal

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny

from .test_05_adoption import zombies_of

ORPHANS = """
def orphan(code=0):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.02)
            os._exit(code)
        os._exit(0)
    os.wait()
"""


def test_orphans_are_reparented_to_the_nanny_and_reaped(node: RealNanny) -> None:
    node.start(PRELUDE + ORPHANS + "for _ in range(50): orphan()\nbeat_for_ever()")
    node.wait_for(lambda status: status["counters"]["children_reaped_total"] >= 50, "fifty orphans")
    wait_until(lambda: not zombies_of(node.pid), 10, "every zombie to be reaped")


@pytest.mark.slow
def test_under_a_storm_of_orphans_the_workers_status_is_still_known(node: RealNanny) -> None:
    """Two storms, each ended by the worker's own death with a code of its own."""
    node.start(
        PRELUDE + ORPHANS + "tell('READY=1\\nWATCHDOG=1')\nfor n in range(400): orphan(n % 7)\nos._exit(42)"
    )
    first = node.wait_for(lambda status: status["last_restart"], "the first end")
    assert first["last_restart"]["detail"] == "exit code 42"
    node.wait_for(
        lambda status: (status["last_restart"] or {}).get("before") != first["last_restart"]["before"],
        "the second end",
    )
    assert node.status()["last_restart"]["detail"] == "exit code 42"
    node.assert_unharmed()


@pytest.mark.parametrize(("end", "told"), [("os._exit(7)", "exit code 7"), ("os.abort()", "SIGABRT")])
def test_how_the_worker_ended_is_told(node: RealNanny, end: str, told: str) -> None:
    node.start(PRELUDE + f"tell('READY=1\\nWATCHDOG=1')\ntime.sleep(0.1)\n{end}")
    status = node.wait_for(lambda status: status["last_restart"], "its end")
    assert status["last_restart"]["detail"].startswith(told)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_as_pid_1_of_a_container_it_reaps_everyone_and_ends_in_order(node: RealNanny) -> None:
    program = PRELUDE + ORPHANS + "for _ in range(20): orphan()\nbeat_for_ever()"
    command = node.command(program)
    node.command = lambda *_: [  # type: ignore[method-assign]
        *("unshare", "--fork", "--pid", "--mount-proc", "--kill-child=SIGKILL"),
        *command,
    ]
    node.start(wait=False)

    def is_up() -> bool:
        try:
            return bool(node.status()["phase"] == "running")
        except (OSError, EOFError):
            return False

    wait_until(is_up, 30, "the nanny as PID 1")
    status = node.wait_for(lambda status: status["counters"]["children_reaped_total"] >= 20, "twenty orphans")
    assert status["nanny"]["pid"] == 1
    inside = [pid for pid, line in node.processes().items() if "lean_start" in line]
    init = next(pid for pid in inside if _pid_inside(pid) == 1)
    assert zombies_of(init) == []
    pidfd = os.pidfd_open(init)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)
    assert node.wait_for_exit() == 0


def _pid_inside(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith("NSpid:")).split()[-1])
