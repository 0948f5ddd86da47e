"""Crashes of the nanny, of the disk and of the machine, between any two steps, in any order.

Each step keeps the rules; no number is lived twice, no two workers own the node, no order ends twice; what the journal
is compacted to is the same state; and once the world means well, everything comes to rest with nothing owed.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nanny.core import events as e
from nanny.core import startup
from nanny.core.config import ChildTiming, PolicyConfig
from nanny.core.events import Command, CommandKind, Source
from nanny.core.policy import next_deadline
from nanny.core.records import CommandAccepted, CommandFinished
from nanny.core.state import Phase
from tests.exploration.crashing_world import World, essence

if TYPE_CHECKING:
    from nanny import adoption

CONFIG = PolicyConfig(
    worker=ChildTiming(crash_loop_after=3, unkillable_timeout_s=3.0, stop_grace_s=3.0, stable_after_s=20.0),
    server_restarts_per_hour=1000,
    server_commands_per_hour=1000,
)
kinds = st.sampled_from(CommandKind)
aims = st.sampled_from(["none", "present", "past", "future"])
few = st.integers(0, 3)


class Crashes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(CONFIG)
        self.ordered: list[Command] = []

    # The worker

    def beat(self, **fields: object) -> None:
        owner = self.world.owner
        if owner is not None:
            self.world.tell(replace(e.HeartbeatReceived(owner.incarnation), **fields))  # type: ignore[arg-type]

    @rule(ready=st.booleans(), stopping=st.booleans())
    def worker_beats(self, ready: bool, stopping: bool) -> None:
        self.beat(ready=ready, stopping=stopping)

    @rule()
    def worker_gets_ready(self) -> None:
        self.beat(ready=True)

    @rule(lag_s=st.sampled_from([6.0, 40.0]), trigger=st.booleans())
    def worker_stalls(self, lag_s: float, trigger: bool) -> None:
        self.beat(loop_lag_s=lag_s, trigger=trigger)

    @precondition(lambda self: self.world.processes)
    @rule(which=few, status=st.sampled_from(["exit code 0", "SIGSEGV"]))
    def worker_exits(self, which: int, status: str) -> None:
        self.world.dies(self.world.processes[which % len(self.world.processes)], status)

    @precondition(lambda self: self.world.processes)
    @rule()
    def worker_enters_uninterruptible_sleep(self) -> None:
        self.world.processes[-1].unkillable = True

    @precondition(lambda self: self.world.owner is not None)
    @rule()
    def worker_does_not_die_of_sigkill(self) -> None:
        self.worker_enters_uninterruptible_sleep()
        self.beat(ready=True)
        self.beat(trigger=True)
        for _ in range(5):
            self.world.wait(400.0)

    # Answers

    @precondition(lambda self: self.world.evidence)
    @rule()
    def evidence_is_there(self) -> None:
        self.world.tell(self.world.evidence.pop(0))

    @precondition(lambda self: self.world.reloads)
    @rule(good=st.booleans())
    def settings_are_read(self, good: bool) -> None:
        name = self.world.reloads.pop(0)
        self.world.tell(e.ConfigReloaded((), (), name) if good else e.ConfigRejected("no such key", name))

    # Orders

    @rule(kind=kinds, aim=aims, local=st.booleans())
    def order(self, kind: CommandKind, aim: str, local: bool) -> None:
        current = self.world.state.incarnation
        by = {"present": 0, "past": -1, "future": 1}.get(aim)
        target = None if by is None or current is None else replace(current, number=current.number + by)
        self.ordered.append(
            Command(
                id=f"order-{len(self.ordered)}",
                kind=kind,
                time_to_live_s=60.0,
                reason="because",
                actor="somebody",
                source=Source.LOCAL if local else Source.SERVER,
                target=target if kind is CommandKind.RESTART else None,
                for_s=5.0,
            )
        )
        self.world.tell(e.CommandReceived(self.ordered[-1]))

    @precondition(lambda self: self.ordered)
    @rule(which=st.integers(0, 5))
    def order_again(self, which: int) -> None:
        self.world.tell(e.CommandReceived(self.ordered[-1 - which % len(self.ordered)]))

    @precondition(lambda self: self.world.outcomes)
    @rule(which=few)
    def outcome_is_acknowledged(self, which: int) -> None:
        known = list(self.world.outcomes)
        self.world.tell(e.OutcomeAcknowledged(known[which % len(known)]))

    # Time and disk

    @rule(longest_s=st.sampled_from([0.5, 2.0, 30.0, 400.0]))
    def time_passes(self, longest_s: float) -> None:
        self.world.wait(longest_s)

    @rule()
    def disk_hangs(self) -> None:
        self.world.disk_hangs = True

    @rule()
    def journal_times_out(self) -> None:
        self.world.degrade()

    @rule()
    def disk_answers(self) -> None:
        self.world.heal()

    @precondition(lambda self: not (self.world.disk_hangs or self.world.is_gone))
    @rule()
    def journal_is_compacted(self) -> None:
        world = self.world
        world.compact()
        records: list[adoption.Dated] = [(line.record, line.at) for line in world.journal]
        living, unjournaled = world.find(records)
        assert unjournaled == []
        again = startup.recover(records, living, world.now, ("x", "y"), CONFIG).state
        assert essence(again) == essence(world.state)
        assert (again.epoch, again.spare_epoch) == (world.state.epoch, "y")
        assert again.next_number >= world.state.next_number

    # Ends

    @rule(surviving=st.integers(0, 6))
    def nanny_is_killed(self, surviving: int) -> None:
        self.world.crash(surviving)

    @rule(surviving=st.integers(0, 6), which=few)
    def nanny_is_killed_and_a_worker_dies_unseen(self, surviving: int, which: int) -> None:
        if self.world.processes:
            self.world.processes.pop(which % len(self.world.processes))
        self.world.crash(surviving)

    @rule()
    def nanny_is_asked_to_end(self) -> None:
        self.world.tell(e.ShutdownRequested())

    @precondition(lambda self: self.world.is_gone)
    @rule()
    def nanny_is_started_again(self) -> None:
        self.world.crash(99)

    @rule(surviving=st.integers(0, 6))
    def machine_reboots(self, surviving: int) -> None:
        self.world.reboot(surviving)

    @invariant()
    def some_deadline_or_event_will_come(self) -> None:
        world = self.world
        if world.is_gone or world.held:
            return
        state = world.state
        awaited = next_deadline(state, CONFIG) is not None
        assert awaited or state.phase in {Phase.DOWN, Phase.RUNNING}, state

    def teardown(self) -> None:
        """The world means well from here on: all comes to rest, and nothing is owed."""
        world = self.world
        if world.is_gone or world.state.is_shutting_down:
            world.crash(99)
        world.heal()
        world.come_to_rest()
        assert world.state.phase in {Phase.RUNNING, Phase.DOWN}, world.state
        assert not world.state.ledger.pending, world.state


ORDERS = (
    CommandKind.RESTART,
    CommandKind.STOP,
    CommandKind.START,
    CommandKind.HOLD,
    CommandKind.COLLECT_EVIDENCE,
    CommandKind.RELOAD,
)
SEQUENCES = [
    *product(ORDERS, repeat=1),
    *product(ORDERS, repeat=2),
    *product((CommandKind.RESTART, CommandKind.STOP, CommandKind.START), repeat=3),
]


@pytest.mark.parametrize("worker_lives", [True, False], ids=["worker lives on", "machine rebooted"])
@pytest.mark.parametrize("kinds", SEQUENCES, ids=[" ".join(kinds) for kinds in SEQUENCES])
def test_the_journal_may_end_after_any_line(kinds: tuple[CommandKind, ...], worker_lives: bool) -> None:
    """Steps are not atomic on disk: whatever of one is missing, the latest order holds and each order ends."""
    world = World(CONFIG)
    world.come_to_rest()
    began = len(world.journal)
    for number, kind in enumerate(kinds):
        world.tell(
            e.CommandReceived(Command(f"o{number}", kind, 60.0, "because", "x", Source.SERVER, for_s=5.0))
        )
    for end in range(began, len(world.journal) + 1):
        again = deepcopy(world)
        again.journal = again.journal[:end]
        again.outcomes.clear()
        again.facts.clear()  # What /run would know is not needed.
        if worker_lives:
            again.crash(0)
        else:
            again.reboot(0)
        again.come_to_rest()
        accepted = [line.record.command for line in again.journal if isinstance(line.record, CommandAccepted)]
        ended = [line.record.command_id for line in again.journal if isinstance(line.record, CommandFinished)]
        assert not again.state.ledger.pending
        assert len(ended) == len(set(ended))
        assert {one.id for one in accepted} <= set(ended)
        wants = [one.kind for one in accepted if one.kind in {CommandKind.STOP, CommandKind.START}]
        assert again.state.phase is (Phase.DOWN if wants[-1:] == [CommandKind.STOP] else Phase.RUNNING)


def test_rules_hold_whatever_crashes_and_whenever() -> None:
    run_state_machine_as_test(
        Crashes,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
