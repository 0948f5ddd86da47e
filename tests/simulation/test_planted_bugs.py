"""The simulation can fail: each bug that is planted here is found by it, as what it does to the world.

The bugs are of the kinds that no rule on a single step of one core shows: in the shell's contract, in recovery, between
the programs, in time. A run without a plant, of the same seeds, finds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nanny import adoption, recovery
from nanny.control_requests import ControlRequests
from nanny.core import child, commands, policy, recovery_ladder, startup
from nanny.core.child import Stage
from nanny.core.command_ledger import Ledger
from nanny.protocol.session_outbox import Outbox
from nanny.supervisor import Supervisor
from tests.simulation import case_file, server
from tests.simulation.draw import drawn
from tests.simulation.faults import KINDS
from tests.simulation.fleet import Fleet
from tests.simulation.machine import Machine
from tests.simulation.shrink import rule_of, shrunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.core.actions import ReportAccepted
    from nanny.core.config import PolicyConfig
    from nanny.core.state import Rung
    from tests.simulation.fleet import Told

SEEDS = range(1, 13)
NODES, DAYS = 4, 2.0


def only(**rates: float) -> dict[str, float]:
    """No faults but these."""
    return {**dict.fromkeys(KINDS, 0.0), **rates}


def hunt(rates: dict[str, float] | None = None) -> Told | None:
    """The first run that breaks a rule."""
    for seed in SEEDS:
        told = Fleet(range(NODES)).run(drawn(seed, NODES, DAYS, rates), DAYS)
        if told.violation:
            return told
    return None


def effects_do_not_wait_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "_may_run", lambda self: bool(self._held))


def a_new_nanny_does_not_look_for_living_workers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adoption, "find_living", lambda _records: [])


def lives_without_a_journal_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery, "add_unknown_lives", lambda *_given: [])


def orders_found_open_stay_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "resume", lambda *_given: None)


def an_order_sent_twice_is_taken_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "find_pending", lambda self, command_id: None)


def the_ledger_does_not_survive_the_nanny(patch: pytest.MonkeyPatch) -> None:
    def recover(*given: Any) -> startup.Recovered:
        found = original(*given)
        return replace(found, state=replace(found.state, ledger=Ledger()))

    original = startup.recover
    patch.setattr(startup, "recover", recover)


def numbers_left_of_a_block_are_used(patch: pytest.MonkeyPatch) -> None:
    def recover(*given: Any) -> startup.Recovered:
        found = original(*given)
        number = 1 if found.state.incarnation is None else found.state.incarnation.number
        return replace(found, state=replace(found.state, next_number=number))

    original = startup.recover
    patch.setattr(startup, "recover", recover)


def the_kill_waits_for_an_hour(patch: pytest.MonkeyPatch) -> None:
    def rung_timeout_s(rung: Rung, config: PolicyConfig) -> float:
        return original(rung, config) * (3600.0 if rung == "abort" else 1.0)

    original = recovery_ladder.rung_timeout_s
    patch.setattr(recovery_ladder, "rung_timeout_s", rung_timeout_s)


def a_start_may_take_a_day(patch: pytest.MonkeyPatch) -> None:
    born = child.born
    patch.setattr(
        child,
        "born",
        lambda one, pid, now, timing: born(one, pid, now, replace(timing, start_timeout_s=86400.0)),
    )


def what_was_not_acknowledged_is_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "rewind", lambda self: None)


def a_lost_message_is_never_missed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "awaits_acknowledgement", property(lambda self: False))


def the_server_calls_expired_what_it_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server, "may_expire_unsent", lambda _state, remaining_s: remaining_s <= 0.0)


def a_deadline_falls_due_and_nothing_is_done(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(policy._WORKER_OVERDUE, Stage.BACKOFF, lambda _draft: None)


def a_nanny_without_its_journal_takes_every_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "_may_have_been_taken", lambda _state, _command: False)


def what_no_disk_has_is_told_as_accepted(patch: pytest.MonkeyPatch) -> None:
    def report(self: ControlRequests, action: ReportAccepted) -> None:
        told = {"command_id": action.command_id, "state": "accepted", "durable": True}
        for client, request_id in self._waiting.pop(action.command_id, []):
            self._control.answer(client, request_id, told)

    patch.setattr(ControlRequests, "_report_accepted", report)


def a_machine_in_suspend_is_awake(patch: pytest.MonkeyPatch) -> None:
    """The world's own bug: what was overdue at its nanny ran, and no time passed in which it could be done."""
    patch.setattr(Machine, "is_awake", property(lambda self: self.world.now >= self._held_until))


CASES: list[tuple[Callable[[pytest.MonkeyPatch], None], str, dict[str, float]]] = [
    (
        effects_do_not_wait_for_the_disk,
        "its end was told before the disk had it",
        only(order=60.0, **{"power-lost": 60.0}),
    ),
    (a_new_nanny_does_not_look_for_living_workers, "two workers own the node", {}),
    (orders_found_open_stay_open, "nothing will ever end the pending", {}),
    (an_order_sent_twice_is_taken_twice, "a command is in the ledger twice", {}),
    (the_ledger_does_not_survive_the_nanny, "is still", {}),
    (numbers_left_of_a_block_are_used, "incarnations do not grow", {}),
    (the_kill_waits_for_an_hour, "dark beyond its bound", {}),
    (a_start_may_take_a_day, "dark beyond its bound", {}),
    (what_was_not_acknowledged_is_not_sent_again, "is still", only(order=10.0, **{"frames-lost": 10.0})),
    (a_lost_message_is_never_missed, "is still", only(order=10.0, **{"frames-lost": 10.0})),
    (the_server_calls_expired_what_it_sent, "two outcomes at the server", only(order=20.0, partition=10.0)),
    (a_deadline_falls_due_and_nothing_is_done, "the shell would spin", {}),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("plant", "rule", "rates"), CASES, ids=[plant.__name__ for plant, _, _ in CASES])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    rule: str,
    rates: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    told = hunt(rates)
    assert told is not None
    assert rule in told.violation


@pytest.mark.parametrize(
    ("plant", "case", "rule"),
    [
        (
            lives_without_a_journal_are_forgotten,
            "worker_began_and_ended_without_a_journal",
            "incarnations do not grow",
        ),
        (a_lost_message_is_never_missed, "a_proxy_lost_the_last_messages", "is still sent"),
        (
            a_nanny_without_its_journal_takes_every_order,
            "order_repeated_to_a_nanny_without_its_journal",
            "ends twice: done, and now expired",
        ),
        (
            a_nanny_without_its_journal_takes_every_order,
            "restart_repeated_to_a_nanny_without_its_journal",
            "acts twice",
        ),
        (
            what_no_disk_has_is_told_as_accepted,
            "accepted_by_no_disk_and_then_the_power_failed",
            "is still accepted",
        ),
        (a_machine_in_suspend_is_awake, "suspended_before_what_starved_was_done", "a live lock"),
    ],
)
def test_a_case_breaks_a_rule_without_its_mend(
    plant: Callable[[pytest.MonkeyPatch], None], case: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    kept = case_file.read(Path(__file__).parent / "cases" / f"{case}.json")
    assert rule in Fleet(kept.nodes).run(kept.faults).violation


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failure_shrinks_to_the_faults_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    a_new_nanny_does_not_look_for_living_workers(monkeypatch)
    faults = drawn(1, NODES, DAYS)
    told = Fleet(range(NODES)).run(faults, DAYS)
    fewest = shrunk(faults, told)
    assert len(fewest) == 1
    again = Fleet(sorted({fault.node for fault in fewest})).run(fewest)
    assert rule_of(again.violation) == rule_of(told.violation)
