"""What the standby's shell makes of the nanny's own steps, and of a promoted process before it has its wake.

The steps are the core's own, taken by hand on a clock of this file; the standby is not made here (see
tests/processes/test_14_standby.py for real ones).
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from nanny.common.log_lines import LogLines
from nanny.config import NannyConfig
from nanny.core import events as e
from nanny.core import standby as core
from nanny.core.actions import SpawnWorker
from nanny.core.config import PolicyConfig
from nanny.core.policy import next_deadline, step
from nanny.core.standby import Stage
from nanny.core.state import NannyState
from nanny.event_loop import DeadlineSource, EventLoop
from nanny.linux import pidfd
from nanny.linux.clocks import SystemClock
from nanny.protocol.incarnation import Incarnation
from nanny.reaper import Reaper
from nanny.standby_process import StandbyChild, StandbyProcess
from tests.support.processes import spawn_python

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")
FIRST, SECOND = Incarnation("epoch", 1), Incarnation("epoch", 2)
RESTART = e.Command(
    "0190a6d0-0000-7000-8000-000000000001", e.CommandKind.RESTART, 600.0, "test", "t", e.Source.LOCAL
)


@dataclass
class Bench:
    """The standby's shell on a loop that nobody turns by itself, beside a core that is stepped by hand."""

    loop: EventLoop
    standby: StandbyProcess
    now: float
    state: NannyState = field(default_factory=lambda: NannyState("epoch", "spare"))
    config: PolicyConfig = field(default_factory=lambda: PolicyConfig(node_id="n"))

    def tell(self, event: e.Event) -> None:
        before = self.state
        result = step(before, event, self.now, self.config)
        self.state = result.state
        self.standby.observe(before, result.state, result.records)
        for action in result.actions:
            if isinstance(action, SpawnWorker):
                self.standby.child_wanted(action.incarnation)

    def run_up(self, incarnation: Incarnation) -> None:
        """Have this life born and ready."""
        self.tell(e.WorkerParked(incarnation, 1000 + incarnation.number, 1))
        self.tell(e.HeartbeatReceived(incarnation, ready=True))

    def pass_deadline(self) -> None:
        due = next_deadline(self.state, self.config)
        assert due is not None
        self.now = due
        self.tell(e.TimePassed())


@pytest.fixture
def bench() -> Iterator[Bench]:
    loop = EventLoop(SystemClock(), 1e9, lambda _: None, lambda _: None)
    loop.add_source(DeadlineSource(lambda: loop.now, lambda _now: None))  # so no turn waits
    config = NannyConfig(
        node_name="n",
        state_dir="/nowhere",
        runtime_dir="/nowhere",
        command=("program",),
        standby_after_s=3600.0,
    )
    log = LogLines(lambda _: None, "test", lambda: 0.0)
    standby = StandbyProcess(config, loop, log, Reaper(), None)
    standby.start_cold = lambda _incarnation: None
    standby.on_taken = lambda: None
    made = Bench(loop, standby, loop.now)
    made.tell(e.NannyStarted())
    made.run_up(FIRST)
    yield made
    loop.close()


def test_that_a_fenced_life_dies_at_last_says_nothing_of_its_successor(bench: Bench) -> None:
    bench.tell(e.CommandReceived(RESTART))
    while FIRST not in bench.state.fenced:
        bench.pass_deadline()
    bench.run_up(SECOND)
    ready_since = bench.standby.state.ready_since
    assert ready_since == bench.now
    bench.tell(e.WorkerExited(FIRST, "SIGKILL"))
    assert bench.state.fenced == ()
    assert bench.standby.state.ready_since == ready_since, "a standby is still to be made beside it"


def test_an_ordered_restart_is_cold_also_where_the_old_worker_had_to_be_fenced(bench: Bench) -> None:
    now = bench.now
    bench.standby.state = replace(
        bench.standby.state, stage=Stage.PARKED, number=1, since=now, made_at=now, check_at=now + 3600.0
    )
    bench.tell(e.CommandReceived(RESTART))
    while FIRST not in bench.state.fenced:
        bench.pass_deadline()
    assert bench.standby.dropped_total == {"ordered": 1}
    assert bench.standby.cold_total == 2


def test_a_record_that_waits_for_the_disk_does_not_cost_the_promoted_one_its_life(bench: Bench) -> None:
    bench.standby._config = replace(bench.standby._config, journal_timeout_s=60.0)
    promoted_at = bench.loop.now
    bench.standby.state = replace(
        bench.standby.state, promoted=SECOND, promoted_at=promoted_at, is_taken=False
    )
    due = core.next_deadline(bench.standby.state, bench.standby._timing())
    assert due is not None
    assert due > promoted_at + 60.0


def test_a_channel_that_ends_before_the_wake_is_no_wake_taken(bench: Bench) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with spawn_python("import sys; sys.stdin.read()") as process:
        fd = pidfd.open_pidfd(process.pid)
        child = StandbyChild(1, process.pid, fd, 1, -1, -1, ours, None, 0.0)
        bench.standby._woken = (SECOND, child)
        bench.standby.state = replace(
            bench.standby.state, promoted=SECOND, promoted_at=bench.now, is_taken=False
        )
        bench.loop.watch(ours.fileno(), lambda: bench.standby._hear(child))
        theirs.close()
        bench.loop.turn()
        assert not bench.standby.state.is_taken
        # Nor is it an error of ours: the wake finds nobody, and the process is ended.
        bench.standby.wake(SECOND, "/nowhere", -1)
        bench.loop.turn()
        assert process.wait_for_exit(30) == -signal.SIGKILL
        os.close(fd)
