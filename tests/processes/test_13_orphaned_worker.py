"""Design 5.13, a worker whose nanny is gone goes on, for as long as it takes."""

import os
import time
from pathlib import Path

from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny


def test_a_worker_without_a_nanny_goes_on_and_is_told_nothing(node: RealNanny) -> None:
    alive = node.directory / "alive"
    program = (
        PRELUDE
        + f"""
for name in ("SIGTERM", "SIGHUP", "SIGPIPE", "SIGINT"):
    signal.signal(getattr(signal, name), lambda signum, _: open({str(node.directory / "signalled")!r}, "w").write(str(signum)))
tell("READY=1\\nWATCHDOG=1")
n = 0
while True:
    n += 1
    print("still here", flush=True)
    with open({str(alive)!r}, "w") as file:
        file.write(str(n))
    tell("WATCHDOG=1")
    time.sleep(0.05)
"""
    )
    node.start(program)
    before = node.wait_for_phase("running")
    node.kill()
    for _ in range(3):
        seen = _count(alive)
        wait_until(lambda seen=seen: _count(alive) > seen + 5, 10, "signs of life")  # type: ignore[misc]
    assert not (node.directory / "signalled").exists()
    assert node.workers() == [before["worker"]["pid"]]
    # No parent of its own making: it is init's, or the next subreaper's, and in a session of its own.
    assert os.getsid(before["worker"]["pid"]) == before["worker"]["pid"]
    node.start(program)
    after = node.wait_for_phase("running")
    assert after["worker"]["pid"] == before["worker"]["pid"]
    assert after["last_restart"] is None


def test_the_whole_unit_may_fall_except_for_the_worker(node: RealNanny) -> None:
    """Every process of the nanny is killed at once: KillMode=process and an OOM killer that takes helpers."""
    node.start()
    before = node.wait_for_phase("running")
    helpers = [pid for pid in node.processes() if pid not in {node.pid, before["worker"]["pid"]}]
    node.kill()
    for pid in helpers:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, 9)
    time.sleep(0.2)
    node.start()
    assert node.wait_for_phase("running")["worker"]["pid"] == before["worker"]["pid"]


def test_helpers_that_die_are_replaced_and_the_worker_never_notices(node: RealNanny) -> None:
    node.start()
    before = node.wait_for_phase("running")
    helpers = [pid for pid in node.processes() if pid not in {node.pid, before["worker"]["pid"]}]
    assert len(helpers) == 2, "the log's and the journal's writer"
    for pid in helpers:
        os.kill(pid, 9)
    node.wait_for(
        lambda status: (
            not status["journal_degraded"] and len(set(node.processes()) - {node.pid, *node.workers()}) == 2
        ),
        "both writers to be replaced",
    )
    node.log_path.write_text("")
    assert node.order("drain")["outcome"] == "done"
    wait_until(lambda: "drain-set" in node.log(), 10, "the log to go on")
    assert node.status()["worker"]["pid"] == before["worker"]["pid"]


def _count(path: Path) -> int:
    return int((path.read_text() if path.exists() else "") or 0)
