"""Design 5.9, the worker's output is a FIFO: a dead nanny costs no line and no SIGPIPE; a full one holds its writer."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import PRELUDE, RealNanny

COUNTS = (
    PRELUDE
    + """
tell("READY=1\\nWATCHDOG=1")
n = 0
while True:
    n += 1
    print(f"line {n}", flush=True)
    if n % 10 == 0:
        tell("WATCHDOG=1")
    time.sleep(0.01)
"""
)


def logged(node: RealNanny) -> list[int]:
    """The numbered lines that reached the nanny's stdout, which here is the log."""
    return [int(line[5:]) for line in node.log().splitlines() if line.startswith("line ")]


def test_a_worker_that_writes_while_the_nanny_is_dead_lives_and_nothing_is_lost(node: RealNanny) -> None:
    node.start(COUNTS)
    before = node.wait_for_phase("running")
    wait_until(lambda: len(logged(node)) > 10, 10, "lines")
    node.kill()
    time.sleep(0.5)
    node.start(COUNTS)
    after = node.wait_for_phase("running")
    assert after["worker"]["pid"] == before["worker"]["pid"]
    seen = len(logged(node))
    wait_until(lambda: len(logged(node)) > seen + 60, 10, "more lines")
    numbers = logged(node)
    # What the dead nanny had read, and not yet handed on, died with it: a few lines at most.
    missing = set(range(1, numbers[-1] + 1)) - set(numbers)
    assert len(missing) <= 3
    assert numbers == sorted(numbers)


def test_an_upgrade_in_place_and_a_restart_lose_no_line(node: RealNanny) -> None:
    node.start(COUNTS)
    node.wait_for_phase("running")
    wait_until(lambda: len(logged(node)) > 10, 10, "lines")
    node.ask("reexec")
    node.wait_for(lambda status: status["nanny"]["reexecuted"] == 1, "the new image")
    seen = len(logged(node))
    wait_until(lambda: len(logged(node)) > seen + 30, 10, "more lines")
    numbers = logged(node)
    assert len(set(range(1, numbers[-1] + 1)) - set(numbers)) <= 3


def test_a_full_backlog_holds_its_writer_and_is_read_by_the_next_nanny(node: RealNanny) -> None:
    """The price of losing nothing, as the docs say: a program that fills it waits."""
    marks = node.directory / "marks"
    program = (
        PRELUDE
        + f"""
tell("READY=1\\nWATCHDOG=1")
while not os.path.exists({str(marks)!r}):
    time.sleep(0.01)
os.write(1, (b"x" * 99 + b"\\n") * 2000)
open({str(marks)!r} + ".done", "w").close()
time.sleep(600)
"""
    )
    flags = ("--heartbeat=ready", "--output-backlog-bytes=65536")
    node.start(program, *flags)
    status = node.wait_for_phase("running")
    node.kill()
    marks.touch()
    wait_until(lambda: "pipe" in wchan(status["worker"]["pid"]), 10, "the worker to wait for room")
    node.start(program, *flags)
    wait_until(Path(f"{marks}.done").exists, 10, "the worker to go on")
    wait_until(lambda: node.log().count("x" * 99) == 2000, 10, "all lines")


def wchan(pid: int) -> str:
    return Path(f"/proc/{pid}/wchan").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("line", ["b'\\n' * 65536", "b'x' * 65536", "(b'y' * 80 + b'\\n') * 800"])
def test_a_storm_of_output_leaves_the_nanny_responsive_and_its_memory_bounded(
    node: RealNanny, line: str
) -> None:
    node.start(
        PRELUDE
        + f"""
import threading
threading.Thread(target=beat_for_ever, daemon=True).start()
while True:
    os.write(1, {line})
""",
        stdout=subprocess.DEVNULL,
    )
    status = node.wait_for_phase("running")
    slowest, deadline = 0.0, time.monotonic() + 3
    while time.monotonic() < deadline:
        began = time.monotonic()
        after = node.status()
        slowest = max(slowest, time.monotonic() - began)
    print(f"slowest answer in the storm of {line}: {slowest * 1e3:.0f} ms")
    assert slowest < 1.0
    assert (after["worker"]["pid"], after["last_restart"]) == (status["worker"]["pid"], None)
    resident = Path(f"/proc/{node.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(resident) < 40_000


def test_the_logs_that_people_ask_for_are_the_workers_last_lines(node: RealNanny) -> None:
    node.start(COUNTS)
    node.wait_for_phase("running")
    wait_until(lambda: "line 20" in node.ask("logs")["text"], 10, "the lines")
    assert len(node.ask("logs", limit_bytes=16)["text"]) == 16
