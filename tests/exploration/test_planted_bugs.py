"""The rules can fail: each bug that is planted here is found by the exploration, under the rule that it breaks.

The first three are the founding bug in its forms: an exit is taken for a goodbye.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from nanny.core import (
    child,
    command_ledger,
    commands,
    liveness,
    node_events,
    policy,
    recovery_ladder,
    settlement,
    worker_life,
)
from nanny.core import events as e
from nanny.core.child import Child, Stage
from nanny.core.command_ledger import Ledger
from nanny.core.records import Desired
from nanny.core.state import Intent, NannyState, Phase, Reason, Rung, Vitals
from tests.exploration import projections
from tests.exploration.explorer import explore

if TYPE_CHECKING:
    from nanny.core.draft import Draft

Plant = Callable[[pytest.MonkeyPatch], None]
_CRASHES = (Phase.STARTING, Phase.RUNNING, Phase.DEGRADED)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "crc32", lambda _: 0)


def exit_0_is_a_goodbye(patch: pytest.MonkeyPatch) -> None:
    def exited(draft: Draft, event: e.WorkerExited) -> None:
        if event.status != "exit code 0":
            worker_life.exited(draft, event)
            return
        draft.change(worker=Child(since=draft.now), stopping=None, vitals=Vitals())

    for phase in _CRASHES:
        patch.setitem(policy.TABLE[e.WorkerExited], phase, exited)


def stopping_1_and_exit_is_a_goodbye(patch: pytest.MonkeyPatch) -> None:
    def exited(draft: Draft, event: e.WorkerExited) -> None:
        if draft.state.vitals.leaving:
            draft.change(intent=Intent(Desired.DOWN, "worker", "it said goodbye", draft.now))
        worker_life.exited(draft, event)

    patch.setitem(policy.TABLE[e.WorkerExited], Phase.DEGRADED, exited)


def stopping_1_is_a_goodbye(patch: pytest.MonkeyPatch) -> None:
    def beat(draft: Draft, event: e.HeartbeatReceived) -> None:
        liveness.beat_while_ready(draft, event)
        if event.stopping:
            draft.change(intent=Intent(Desired.DOWN, "worker", "it said goodbye", draft.now))

    patch.setitem(policy.TABLE[e.HeartbeatReceived], Phase.RUNNING, beat)


def the_third_failure_is_final(patch: pytest.MonkeyPatch) -> None:
    def exited(draft: Draft, event: e.WorkerExited) -> None:
        worker_life.exited(draft, event)
        if draft.state.worker.failures >= 3:
            draft.change(worker=replace(draft.state.worker, deadline=None))

    for phase in _CRASHES:
        patch.setitem(policy.TABLE[e.WorkerExited], phase, exited)


def a_beat_forgets_the_next_one(patch: pytest.MonkeyPatch) -> None:
    beat = child.beat
    patch.setattr(child, "beat", lambda *given, **more: replace(beat(*given, **more), deadline=None))


def a_worker_that_leaves_may_take_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        liveness,
        "_exit_overdue",
        lambda draft: draft.change(worker=replace(draft.state.worker, deadline=None)),
    )


def fencing_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    fence = worker_life.fence

    def just_go_on(draft: Draft) -> None:
        fence(draft)
        draft.change(fenced=())

    patch.setattr(worker_life, "fence", just_go_on)


def a_restart_does_not_wait_for_the_end(patch: pytest.MonkeyPatch) -> None:
    def begin(draft: Draft, reason: Reason, detail: str) -> None:
        worker_life.spawn(draft)

    patch.setattr(recovery_ladder, "begin", begin)


def a_number_is_used_twice(patch: pytest.MonkeyPatch) -> None:
    spawn = worker_life.spawn

    def again(draft: Draft) -> None:
        number = draft.state.next_number
        spawn(draft)
        if number > 1:
            draft.change(next_number=number)

    patch.setattr(worker_life, "spawn", again)


def numbers_run_on_without_a_journal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker_life, "NUMBERS_PER_BLOCK", 2)
    patch.setattr(worker_life, "RESERVE_AHEAD", 1)
    spawn = worker_life.spawn

    def trust(draft: Draft) -> None:
        degraded = draft.state.journal_degraded
        draft.change(journal_degraded=False)
        spawn(draft)
        draft.change(journal_degraded=degraded)

    patch.setattr(worker_life, "spawn", trust)


def a_worker_is_released_unrecorded(patch: pytest.MonkeyPatch) -> None:
    def parked(draft: Draft, event: e.WorkerParked) -> None:
        worker_life.parked(draft, event)
        draft.records.clear()

    patch.setitem(policy.TABLE[e.WorkerParked], Phase.STARTING, parked)


def a_repeated_id_acts_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "find_finished", lambda self, command_id: None)
    patch.setattr(
        Ledger, "knows", lambda self, command_id: any(one.command_id == command_id for one in self.finished)
    )


def an_outcome_is_not_recorded(patch: pytest.MonkeyPatch) -> None:
    settle = settlement.settle

    def silently(draft: Draft, *given: Any) -> None:
        kept = len(draft.records)
        settle(draft, *given)
        del draft.records[kept:]

    patch.setattr(settlement, "settle", silently)


def a_stop_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker_life, "settle_down", lambda *given: None)


def a_restart_is_not_told_of_its_successor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker_life, "settle_ready", lambda draft: None)


def a_start_leaves_the_stop_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "supersede", lambda *given: None)


def an_answer_is_awaited_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "_expect_answer", lambda *given: None)


def the_third_failure_waits_an_hour(patch: pytest.MonkeyPatch) -> None:
    backoff_s = child.backoff_s
    patch.setattr(
        child,
        "backoff_s",
        lambda failures, *others: backoff_s(failures, *others) * (3600 if failures > 2 else 1),
    )


def the_second_failure_is_killed_without_evidence(patch: pytest.MonkeyPatch) -> None:
    begin = recovery_ladder.begin

    def impatient(draft: Draft, reason: Reason, detail: str) -> None:
        begin(draft, reason, detail)
        stopping = draft.state.stopping
        if draft.state.worker.failures and stopping is not None:
            draft.change(stopping=replace(stopping, rung=Rung.KILL, remaining=()))

    patch.setattr(recovery_ladder, "begin", impatient)


def an_ordered_restart_counts_as_a_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker_life, "ORDERED", frozenset())
    patch.setattr(worker_life, "_is_restart_ordered", lambda draft: False)


def a_hold_never_expires(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "_hold_expired", lambda draft: None)


def a_late_timer_moves_the_past(patch: pytest.MonkeyPatch) -> None:
    def later(draft: Draft, event: e.NannyWasLate) -> None:
        draft.change(worker=replace(draft.state.worker, stage=Stage.ABSENT))

    for phase in Phase:
        patch.setitem(policy.TABLE[e.NannyWasLate], phase, later)


def the_journal_is_blamed_on_the_intent(patch: pytest.MonkeyPatch) -> None:
    def degraded(draft: Draft, event: e.JournalDegraded) -> None:
        node_events.journal_degraded(draft, event)
        draft.change(intent=replace(draft.state.intent, desired=Desired.DOWN))

    for phase in Phase:
        patch.setitem(policy.TABLE[e.JournalDegraded], phase, degraded)


def an_unacknowledged_outcome_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(command_ledger, "REMEMBERED_OUTCOMES_LIMIT", 1)
    with_finished = Ledger.with_finished
    patch.setattr(
        Ledger,
        "with_finished",
        lambda self, outcome: replace(with_finished(self, outcome), finished=(outcome,)),
    )


CASES: list[tuple[Plant, str, str]] = [
    (exit_0_is_a_goodbye, "births", "rule 1"),
    (stopping_1_and_exit_is_a_goodbye, "busy", "rule 2"),
    (stopping_1_is_a_goodbye, "busy", "rule 2"),
    (the_third_failure_is_final, "births", "rule 1"),
    (a_beat_forgets_the_next_one, "births", "rule 1"),
    (a_worker_that_leaves_may_take_for_ever, "busy", "rule 1"),
    (a_late_timer_moves_the_past, "starving", "rule 1"),
    (the_journal_is_blamed_on_the_intent, "journal", "rule 2"),
    (fencing_is_forgotten, "births", "rule 3"),
    (a_restart_does_not_wait_for_the_end, "orders", "rule 3"),
    (a_number_is_used_twice, "births", "rule 3"),
    (numbers_run_on_without_a_journal, "journal", "rule 3"),
    (a_worker_is_released_unrecorded, "births", "rule 3"),
    (a_repeated_id_acts_again, "repeats", "rule 4"),
    (an_outcome_is_not_recorded, "orders", "rule 4"),
    (an_unacknowledged_outcome_is_forgotten, "repeats", "rule 4"),
    (a_stop_never_ends, "orders", "rule 4"),
    (a_restart_is_not_told_of_its_successor, "orders", "rule 4"),
    (a_start_leaves_the_stop_open, "orders", "rule 4"),
    (an_answer_is_awaited_for_ever, "questions", "rule 4"),
    (the_third_failure_waits_an_hour, "births", "rule 5"),
    (the_second_failure_is_killed_without_evidence, "patience", "rule 5"),
    (an_ordered_restart_counts_as_a_failure, "patience", "rule 5"),
    (a_hold_never_expires, "held", "a deadline"),
]


@pytest.mark.parametrize(("plant", "side", "rule"), CASES, ids=[plant.__name__ for plant, _, _ in CASES])
def test_a_planted_bug_is_found(plant: Plant, side: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    looked_at = projections.PROJECTIONS[side]
    start = (NannyState(epoch="a", spare_epoch="b"), 0.0)
    found = explore(
        [start],
        looked_at.stimuli,
        looked_at.config,
        numbers=looked_at.numbers,
        prune=looked_at.prune,
        problems_limit=1,
    )
    assert any(problem.startswith(rule) for problem in found.problems), found.problems[:3]


def test_every_rule_has_a_bug_that_breaks_it() -> None:
    assert {rule for _, _, rule in CASES} >= {f"rule {number}" for number in range(1, 6)}
