"""Rollouts: what follows from what is known, and what never happens whatever comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.protocol.incarnation import Incarnation
from server_stub.core.command_lifecycle import OUTCOMES, CommandState
from server_stub.core.node_facts import Lifecycle
from server_stub.core.rollout import (
    ENDED,
    IN_FLIGHT,
    NOT_BEGUN,
    CommandFact,
    Rollout,
    RolloutState,
    Step,
    StepFacts,
    StepState,
    abort,
    apply,
    concurrency_of,
    decide,
    percent_done,
)

EPOCH = "01900000-0000-7000-8000-000000000001"
OLD, NEW = Incarnation(EPOCH, 1), Incarnation(EPOCH, 2)
WELL = StepFacts(Lifecycle.ACTIVE, is_ready=True, word="READY", incarnation=OLD)


def rollout(nodes: int = 3, **changed: Any) -> Rollout:
    steps = tuple(Step(position, f"node-{position}") for position in range(nodes))
    made = Rollout(concurrency=1, failures_allowed=0, health_timeout_s=60.0, steps=steps)
    return replace(made, **changed)


def everywhere(of: Rollout, known: StepFacts) -> dict[str, StepFacts]:
    return {step.node_id: known for step in of.steps}


def ended(state: CommandState, incarnation: Incarnation = NEW, *, is_ready: bool = True) -> StepFacts:
    return replace(
        WELL,
        is_ready=is_ready,
        word="READY" if is_ready else "PENDING",
        incarnation=incarnation,
        command=CommandFact(state, "said so", OLD),
    )


def with_first(state: StepState, **changed: Any) -> Rollout:
    made = rollout(**changed)
    return replace(made, steps=(replace(made.steps[0], state=state, since_at=100.0), *made.steps[1:]))


def test_as_many_are_ordered_as_may_be_at_a_time() -> None:
    made = rollout(5, concurrency=2)

    assert decide(made, everywhere(made, WELL), 0.0).orders == (0, 1)


@pytest.mark.parametrize(
    ("lifecycle", "why"),
    [
        (Lifecycle.MAINTENANCE, "in maintenance"),
        (Lifecycle.DRAINING, "draining"),
        (Lifecycle.STOPPED, "stopped on purpose"),
        (None, "deleted"),
    ],
)
def test_a_node_that_is_not_to_be_touched_is_skipped_and_takes_no_room(
    lifecycle: Lifecycle | None, why: str
) -> None:
    made = rollout()
    facts = everywhere(made, WELL) | {"node-0": replace(WELL, lifecycle=lifecycle)}

    decision = decide(made, facts, 0.0)

    assert [(change.state, change.detail) for change in decision.changes] == [
        (StepState.SKIPPED, why),
        (StepState.ORDERED, ""),
    ]


def test_a_step_waits_for_its_node_to_be_well_in_a_newer_life() -> None:
    made = with_first(StepState.ORDERED)
    stages = [
        (WELL, None),
        (ended(CommandState.ACCEPTED), None),
        (ended(CommandState.DONE, is_ready=False), StepState.SETTLING),
        (ended(CommandState.DONE, OLD), StepState.SETTLING),
        (ended(CommandState.DONE), StepState.DONE),
        (ended(CommandState.ALREADY_SATISFIED), StepState.DONE),
        (ended(CommandState.DONE, Incarnation(EPOCH.replace("1", "0"), 1)), StepState.DONE),
    ]
    for told, expected in stages:
        known = replace(told, command=told.command or CommandFact(CommandState.SENT, "", OLD))
        changes = {change.position: change.state for change in decide(made, {"node-0": known}, 100.0).changes}
        assert changes.get(0) == expected, known


@pytest.mark.parametrize("outcome", sorted(OUTCOMES - {CommandState.DONE, CommandState.ALREADY_SATISFIED}))
def test_a_command_that_ends_otherwise_is_a_failure_and_aborts(outcome: CommandState) -> None:
    made = with_first(StepState.ORDERED)

    decision = decide(made, everywhere(made, WELL) | {"node-0": ended(outcome)}, 100.0)

    assert decision.changes[0].state is StepState.FAILED
    assert decision.changes[0].detail == f"command {outcome}: said so"
    assert decision.orders == ()
    assert decision.state is RolloutState.ABORTED
    assert decision.detail == f"1 failed, 0 may: node-0 (command {outcome}: said so)"
    assert [change.detail for change in decision.changes[1:]] == [NOT_BEGUN, NOT_BEGUN]


@pytest.mark.parametrize(("now", "expected"), [(159.9, None), (160.0, StepState.FAILED)])
def test_a_node_has_its_time_to_be_well_again(now: float, expected: StepState | None) -> None:
    made = with_first(StepState.SETTLING)

    changes = decide(made, {"node-0": ended(CommandState.DONE, is_ready=False)}, now).changes

    assert (changes[0].state if changes else None) == expected


def test_a_failure_that_is_allowed_is_followed_by_the_next_node() -> None:
    made = with_first(StepState.ORDERED, failures_allowed=1)

    decision = decide(made, everywhere(made, WELL) | {"node-0": ended(CommandState.FAILED)}, 100.0)

    assert decision.orders == (1,)
    assert decision.state is RolloutState.RUNNING


@pytest.mark.parametrize("state", [CommandState.SENT, CommandState.ACCEPTED])
def test_a_node_that_dies_with_its_order_holds_the_others_up_for_so_long_and_no_longer(
    state: CommandState,
) -> None:
    """A command that was sent is never called expired by the server: the machine may have gone for ever."""
    made = with_first(StepState.ORDERED, time_to_live_s=300.0, health_timeout_s=60.0)
    gone = ended(state, OLD, is_ready=False)

    early, late = (decide(made, everywhere(made, gone), 100.0 + after_s) for after_s in (359.0, 360.0))
    aborting = replace(made, state=RolloutState.ABORTING)

    assert (early.changes, early.state) == ((), RolloutState.RUNNING)
    assert late.changes[0].state is StepState.FAILED
    assert "no outcome within 360 s" in late.changes[0].detail
    assert late.state is not RolloutState.RUNNING
    assert decide(aborting, everywhere(made, gone), 460.0).state is RolloutState.ABORTED


def test_an_abort_follows_what_is_in_flight_to_its_end() -> None:
    made = abort(with_first(StepState.ORDERED), "aborted by a person")

    still = decide(made, everywhere(made, WELL) | {"node-0": ended(CommandState.SENT)}, 100.0)
    then = decide(made, everywhere(made, WELL) | {"node-0": ended(CommandState.DONE)}, 100.0)

    assert (still.state, still.changes) == (RolloutState.ABORTING, ())
    assert (then.state, then.detail) == (RolloutState.ABORTED, "aborted by a person")
    assert [change.state for change in then.changes] == [
        StepState.DONE,
        StepState.SKIPPED,
        StepState.SKIPPED,
    ]


def test_a_rollout_that_has_ended_cannot_be_aborted() -> None:
    made = rollout(state=RolloutState.DONE)

    assert abort(made, "too late") is made


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [(3, 100, 3), ("10%", 100, 10), ("10%", 19, 1), ("1%", 3, 1), ("100%", 7, 7)],
)
def test_how_many_at_a_time(wanted: int | str, nodes: int, expected: int) -> None:
    assert concurrency_of(wanted, nodes) == expected


@pytest.mark.parametrize("wanted", [0, -1, True, "0%", "101%", "ten", "10", "%", "5%%", "٣%"])
def test_what_is_no_limit_is_refused(wanted: int | str) -> None:
    with pytest.raises(ValueError, match="expected a whole number from 1, or a share"):
        concurrency_of(wanted, 10)


FACTS = st.builds(
    StepFacts,
    lifecycle=st.sampled_from([Lifecycle.ACTIVE] * 5 + [*Lifecycle, None]),
    is_ready=st.booleans(),
    word=st.just("word"),
    incarnation=st.sampled_from([OLD, NEW, None]),
)
OUTCOME = st.sampled_from([*CommandState, CommandState.DONE, CommandState.DONE])


@settings(deadline=None)
@given(st.data())
def test_never_more_at_a_time_never_on_after_an_abort_and_each_node_once(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, 8), "nodes")
    now = 0.0
    standing = rollout(
        nodes,
        concurrency=data.draw(st.integers(1, 4), "concurrency"),
        failures_allowed=data.draw(st.integers(0, 2), "failures allowed"),
    )
    commands: dict[str, CommandFact] = {}
    for _ in range(data.draw(st.integers(1, 40), "rounds")):
        if data.draw(st.integers(0, 20), "a person") == 20:
            standing = abort(standing, "aborted by a person")
        facts = {}
        for step in standing.steps:
            command = commands.get(step.node_id)
            if command is not None:
                command = commands[step.node_id] = replace(command, state=data.draw(OUTCOME))
            if data.draw(st.integers(0, 9), "is known"):
                facts[step.node_id] = replace(data.draw(FACTS), command=command)
        before = standing
        decision = decide(standing, facts, now)
        standing = apply(standing, decision, now)
        for position in decision.orders:
            node_id = standing.steps[position].node_id
            assert node_id not in commands, "each node at most once"
            commands[node_id] = CommandFact(CommandState.QUEUED, "", OLD)
        assert len(standing.in_flight()) <= standing.concurrency
        if before.state is not RolloutState.RUNNING:
            assert decision.orders == (), "never on after an abort"
        failed = sum(step.state is StepState.FAILED for step in standing.steps)
        assert failed <= standing.failures_allowed or not decision.orders
        for was, step in zip(before.steps, standing.steps, strict=True):
            if was.state not in IN_FLIGHT | {StepState.WAITING}:
                assert step == was, "an end is an end"
        if standing.state in ENDED:
            assert standing.in_flight() == []
            assert percent_done(standing) == 100
            assert decide(standing, facts, now).changes == ()
        else:
            assert percent_done(standing) < 100 or standing.state is RolloutState.ABORTING
        now += data.draw(st.sampled_from([1.0, 30.0, 61.0]), "time")


def test_a_rollout_whose_nodes_all_come_back_is_done() -> None:
    orders: list[int] = []
    standing, now = rollout(7, concurrency=3), 0.0
    facts = everywhere(standing, WELL)
    while standing.state not in ENDED:
        decision = decide(standing, facts, now)
        standing = apply(standing, decision, now)
        orders += decision.orders
        facts |= {standing.steps[position].node_id: ended(CommandState.DONE) for position in decision.orders}
        now += 1.0

    assert orders == list(range(7))
    assert standing.counts()["done"] == 7
    assert standing.state is RolloutState.DONE
