"""Faults 34 to 36: a starved worker, a pid that is somebody else's by now, a kernel log that overran.

A worker that could not run is given time and not killed. A process that a journal names by its number alone, or of
another boot, is nobody of ours: it is not signalled. What the kernel's ring overwrote is passed over, and what comes
after it is read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from nanny.journal.records_file import render_body, render_line
from tests.faults import fault_makers as make
from tests.faults.fault_node import LOST_AFTER_S
from tests.faults.oracles import Expectation, judged
from tests.faults.own_cgroups import own_cgroup, why_no_controller
from tests.faults.registry import fault
from tests.support.processes import spawn_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow

UNHARMED = Expectation(restarts=0)
BURN_S = 30
"""A burner ends by itself, whatever becomes of the test."""
WORKS_BETWEEN_BEATS = """
tell("READY=1\\nWATCHDOG=1")
while True:
    until = time.process_time() + 0.03
    while time.process_time() < until: pass
    tell("WATCHDOG=1")
    time.sleep(0.05)
"""

# 34


@contextmanager
def throttled(pid: int) -> Iterator[None]:
    """The worker gets 1 % of a core."""
    with own_cgroup("cpu") as group:
        group.add(pid)
        group.limit_cpu(0.01)
        yield


@contextmanager
def behind_a_burner(pid: int) -> Iterator[None]:
    """The worker gets what another process leaves of one core, as the lowest of all."""
    cpu = min(os.sched_getaffinity(0))
    cpus = os.sched_getaffinity(pid)
    burner = f"""
import os, time
os.sched_setaffinity(0, [{cpu}])
os.nice(-5)
print("ready", flush=True)
until = time.monotonic() + {BURN_S}
while time.monotonic() < until: pass
"""
    with spawn_python(burner, start_new_session=True) as process:
        assert process.read_line() == "ready"
        share_by_session(process.pid, -5)
        os.sched_setaffinity(pid, [cpu])
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        share_by_session(pid, 19)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                share_by_session(pid, 0)
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
                os.sched_setaffinity(pid, cpus)


def share_by_session(pid: int, nice: int) -> None:
    """Where sessions share a core as groups (sched(7), autogroup), a process's own nice value counts inside its only."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def why_not_root() -> str | None:
    return None if os.geteuid() == 0 else "needs root to favour a process"


def why_no_cpu_controller() -> str | None:
    return why_no_controller("cpu")


def is_given_time(node: FaultNode, starve: Callable[[int], Any]) -> None:
    before = node.begin(make.program(node, WORKS_BETWEEN_BEATS))
    with judged(node, expects=UNHARMED):
        with starve(before["worker"]["pid"]):
            # Without the look at its run queue it would be dead by then.
            node.wait_for(
                lambda status: (status["worker"]["beat_age_s"] or 0) > LOST_AFTER_S + 0.5, "a silence"
            )
            assert node.status()["incarnation"] == before["incarnation"]
        node.wait_for(lambda status: (status["worker"]["beat_age_s"] or 9) < LOST_AFTER_S, "beats again")


@fault("34", "CPU starvation: 1 % of a core", by="nanny: run-queue delay of the silent thread", why_not=why_no_cpu_controller)  # fmt: skip
def test_a_throttled_worker_is_given_time(node: FaultNode) -> None:
    is_given_time(node, throttled)


@pytest.mark.root
@fault("34", "CPU starvation: behind a burner on its core", by="nanny: run-queue delay of the silent thread", why_not=why_not_root)  # fmt: skip
def test_a_worker_behind_a_burner_is_given_time(node: FaultNode) -> None:
    is_given_time(node, behind_a_burner)


@fault("34", "CPU starvation without end", by="nanny: condition NodeStarved, then the ladder", why_not=why_no_cpu_controller)  # fmt: skip
def test_a_worker_that_starves_for_ever_is_replaced_under_a_condition(node: FaultNode) -> None:
    before = node.begin(make.program(node, WORKS_BETWEEN_BEATS), starvation_limit_s=1)
    expects = Expectation(cause=("NodeStarved",), explains=(), condition="NodeStarved")
    with judged(node, expects=expects) as case:
        with throttled(before["worker"]["pid"]):
            case.begins()
            wait_until(lambda: '"NodeStarved"' in node.log(), 30, "the condition")
        node.wait_for_next(before)


# 35


def renumbered(node: FaultNode, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the journal and /run know of each life that was begun."""
    newest: Path = max(node.state_dir.glob("journal.0*.jsonl"))
    lines = newest.read_bytes().splitlines(keepends=True)
    for index, line in enumerate(lines):
        record = json.loads(line[9:])
        if record["type"] == "incarnation-started":
            change(record)
            n = record.pop("n")
            lines[index] = render_line(n, render_body(record))
    newest.write_bytes(b"".join(lines))
    facts = node.runtime_dir / "facts"
    known = json.loads(facts.read_bytes()[9:])
    for record in known["records"]:
        if record["type"] == "incarnation-started":
            change(record)
    text = json.dumps(known, separators=(",", ":")).encode()
    facts.write_bytes(b"%08x %b\n" % (crc32(text), text))


@pytest.mark.parametrize("what", ["the number alone", "everything but the boot", "everything but the start"])
@fault("35", "the recorded pid is another process now", by="nanny: pid, start time and boot id")
def test_a_process_that_only_has_the_workers_number_is_never_signalled(node: FaultNode, what: str) -> None:
    before = node.begin()
    sleeper = node.bystander

    def change(record: dict[str, Any]) -> None:
        record["pid"] = sleeper.process.pid
        if what == "everything but the boot":
            record["start_time_ticks"] = sleeper.start_time_ticks
            record["boot"] = "00000000-0000-4000-8000-000000000000"
        elif what == "everything but the start":
            record["start_time_ticks"] = sleeper.start_time_ticks - 1

    with judged(node, expects=Expectation(restarts=None, explains=())):
        node.kill()
        make.oom_kill(before["worker"]["pid"])
        wait_until(lambda: not node.workers(), 10, "the worker to be dead")
        renumbered(node, change)
        node.start()
        after = node.wait_for_next(before)
        assert after["worker"]["pid"] != sleeper.process.pid
        assert node.order("restart")["outcome"] == "done"
        node.wait_for_next(after)
        assert sleeper.harm() is None


# 36


def why_no_compiler() -> str | None:
    return None if shutil.which("cc") else "no C compiler to build the stand-in for /dev/kmsg"


@contextmanager
def kernel_log(node: FaultNode) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A listening socket that stands for the device, and the environment that makes it so."""
    source = Path(__file__).parent / "stand_ins" / "kmsg.c"
    library = node.directory / "kmsg.so"
    flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", *flags, "-o", str(library), str(source), "-ldl"], check=True, timeout=60)
    path = str(node.directory / "kmsg")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(4)
        listener.settimeout(30)
        yield listener, {"LD_PRELOAD": str(library), "KMSG_STAND_IN": path}


@fault("36", "/dev/kmsg overruns, wraps around, floods", by="agent: EPIPE and gaps in the numbers", why_not=why_no_compiler)  # fmt: skip
def test_after_an_overrun_the_kernel_log_is_read_on(node: FaultNode) -> None:
    with kernel_log(node) as (listener, environ):
        program, environment = make.own_agent(node)
        merged = json.loads(environment.partition("=")[2]) | environ
        settings = node.flags(heartbeat_timeout_s=4, stall_timeout_s=20)
        node.start(program, f"--environment={json.dumps(merged)}", *settings, "--port=0")
        device, _ = listener.accept()
        with device:
            device.settimeout(30)
            node.wait_for_phase("running")

            def write(number: int, text: str) -> None:
                device.send(f"4,{number},{number * 1000},-;{text}".encode())

            def incidents(code: int) -> int:
                return len(re.findall(rf'"text":"NVRM: Xid \(PCI:0000:3b:00\): {code},', node.log()))

            with judged(node, expects=UNHARMED):
                write(100, "NVRM: Xid (PCI:0000:3b:00): 31, pid=1")
                wait_until(lambda: incidents(31) == 1, 30, "the first incident")
                # Overwritten unread, too long, no record at all, then a number far ahead, and one that was there.
                for broken in ("EPIPE", "EINVAL", "EPIPE", "no record", "4,x,y;z", ""):
                    if broken:
                        device.send(broken.encode())
                write(90_000, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus")
                write(100, "NVRM: Xid (PCI:0000:3b:00): 31, pid=1")
                wait_until(lambda: incidents(79) == 1, 30, "the incident behind the overrun")
                # A storm of overruns costs a fixed share of the loop: beats come, samples go on.
                since = time.monotonic()
                device.settimeout(1)
                with suppress(TimeoutError):
                    for _ in range(1500):
                        device.send(b"EPIPE")
                device.settimeout(30)
                write(90_001, "NVRM: Xid (PCI:0000:3b:00): 63, row remapping")
                wait_until(lambda: incidents(63) == 1, 60, "the incident behind the storm")
                assert time.monotonic() - since < 60
                assert incidents(31) == 1
            node.end_everything()
