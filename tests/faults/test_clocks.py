"""Fault 33: the wall clock steps by an hour, and the node sleeps for ten minutes; neither restarts anything.

The nanny's own clocks are moved through the seam of its shell; and once libfaketime steps the wall clock of whole
processes, nanny, helpers and the repository's agent, from outside. The machine's own clock is never touched.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import fault_makers as make
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow

UNHARMED = Expectation(restarts=0, outcomes=())
BEATS_TO_SEE = 15
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def why_no_faketime() -> str | None:
    return None if FAKETIME.exists() else "libfaketime is not installed"


class MovedClocks:
    """The clocks of this node's nanny."""

    def __init__(self, node: FaultNode) -> None:
        self._path = node.directory / "offsets"
        self.move()
        self.flag = f"--clock-offsets={self._path}"

    def move(self, wall_s: float = 0, boottime_s: float = 0) -> None:
        """From its next look on the nanny sees these clocks."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(f"{wall_s} {boottime_s}")
        draft.rename(self._path)


def sees_beats(node: FaultNode) -> None:
    """The node goes on for more than one heartbeat time-out."""
    before = node.status()["counters"]["beats_total"]
    node.wait_for(lambda status: status["counters"]["beats_total"] >= before + BEATS_TO_SEE, "beats to go on")


def is_told_at(node: FaultNode, offset_s: float, since_s: float) -> bool:
    """Whether the nanny has logged anything at a wall time that is off by so much, since the real time `since_s`."""
    hours = {time.strftime("%Y-%m-%dT%H", time.gmtime(at + offset_s)) for at in (since_s, time.time())}
    return any(f'{{"time":"{hour}' in node.log() for hour in hours)


@contextmanager
def without_leftovers_of_faketime(node: FaultNode) -> Iterator[None]:
    """What libfaketime keeps in shared memory for this node's processes is removed; it is named after the first."""
    try:
        yield
    finally:
        for pid in node.nanny_pids:
            for path in Path("/dev/shm").glob(f"*faketime*_{pid}"):
                path.unlink(missing_ok=True)


@fault("33", "the wall clock steps forward and back by an hour", by="nobody: no decision looks at it")
def test_a_step_of_the_wall_clock_restarts_nothing(node: FaultNode) -> None:
    clocks = MovedClocks(node)
    node.begin(make.program(node, "beat_for_ever()"), clocks.flag)
    for wall_s in (3600, -3600):
        with judged(node, expects=replace(UNHARMED, outcomes=("done", "done"))):
            since_s = time.time()
            clocks.move(wall_s=wall_s)
            sees_beats(node)
            # An order's time to live is not counted on this clock.
            assert node.order("drain", time_to_live_s=30)["outcome"] == "done"
            assert node.order("undrain", time_to_live_s=30)["outcome"] == "done"
            wait_until(lambda: is_told_at(node, wall_s, since_s), 20, "a line of that time")  # noqa: B023


@fault("33", "ten minutes of suspend", by="nanny: boottime ran ahead of the monotonic clock")
def test_a_suspended_node_restarts_nothing_and_what_expires_in_real_time_has_expired(node: FaultNode) -> None:
    clocks = MovedClocks(node)
    node.begin(make.program(node, "beat_for_ever()"), clocks.flag)
    node.order("hold", for_s=300)
    assert node.status()["hold"]["remaining_s"] > 250
    with judged(node, expects=UNHARMED):
        clocks.move(boottime_s=600, wall_s=600)
        wait_until(lambda: '"the node was away"' in node.log(), 20, "the suspend to be noticed")
        sees_beats(node)
        assert node.status()["hold"] is None


@fault(
    "33",
    "a suspend while the worker hangs",
    by="nanny: beats lost, two beats after the resume at the earliest",
)
def test_a_hang_before_a_suspend_is_found_after_it(node: FaultNode) -> None:
    clocks = MovedClocks(node)
    status = node.begin(make.program(node, "beat_for_ever()"), clocks.flag)
    with judged(node, expects=Expectation(cause=("lost",), recover_within_s=6.0)):
        make.stop(status["worker"]["pid"])
        clocks.move(boottime_s=600)
        node.wait_for_next(status)


@fault("33", "libfaketime steps the wall clock of real processes", by="nobody: no decision looks at it", why_not=why_no_faketime)  # fmt: skip
def test_a_stepped_wall_clock_of_the_whole_node_restarts_nothing(node: FaultNode) -> None:
    said = node.directory / "faketime"
    said.write_text("+0\n")
    environ = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(said),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with without_leftovers_of_faketime(node):
        program, environment = make.own_agent(node)
        node.start(
            program,
            environment,
            *node.flags(heartbeat_timeout_s=4, stall_timeout_s=20),
            "--port=0",
            environ=environ,
        )
        node.wait_for_phase("running")
        expects = replace(UNHARMED, outcomes=("done", "done", "done"))
        with judged(node, expects=expects):
            for step in (3600, -3600, 0):
                since_s = time.time()
                said.write_text(f"{step:+d}\n")
                sees_beats(node)
                assert node.order("clear")["outcome"] == "done"
                wait_until(lambda: is_told_at(node, step, since_s), 20, "a line of that time")  # noqa: B023
        node.end_everything()
