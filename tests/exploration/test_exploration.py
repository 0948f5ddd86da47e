"""Every state that can be reached keeps the rules, and leads home. Sides: see ``projections``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from nanny.core import child, invariants, worker_life
from nanny.core import events as e
from nanny.core.actions import Action, ConfirmNumbers, SpawnWorker
from nanny.core.child import Stage
from nanny.core.policy import TABLE, step
from nanny.core.state import NannyState, Phase
from tests.exploration.benign_world import way_to_rest
from tests.exploration.explorer import Found, explore, normalised
from tests.exploration.projections import CONFIG, PROJECTIONS, one_of_each

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

START = (NannyState(epoch="a", spare_epoch="b"), 0.0)


@pytest.fixture(scope="module", autouse=True)
def simple_numbers() -> Iterator[None]:
    """No jitter."""
    with mock.patch.object(child, "crc32", return_value=0):
        yield


def explored(name: str, problems_limit: int = 3) -> Found:
    side = PROJECTIONS[name]
    block = 2 if side.numbers else 64
    with (
        mock.patch.object(worker_life, "NUMBERS_PER_BLOCK", block),
        mock.patch.object(worker_life, "RESERVE_AHEAD", block // 2),
    ):
        return explore(
            [START],
            side.stimuli,
            side.config,
            numbers=side.numbers,
            prune=side.prune,
            problems_limit=problems_limit,
        )


@pytest.fixture(scope="module")
def all_found() -> dict[str, Found]:
    found = {}
    began = time.perf_counter()
    for name in PROJECTIONS:
        side_began = time.perf_counter()
        found[name] = explored(name)
        took_s = time.perf_counter() - side_began
        print(
            f"{name}: {len(found[name].states)} states, {found[name].transitions} transitions, {took_s:.2f} s"
        )
    states, transitions = (
        sum(len(one.states) for one in found.values()),
        sum(one.transitions for one in found.values()),
    )
    print(f"all: {states} states, {transitions} transitions, {time.perf_counter() - began:.1f} s")
    return found


def test_no_reachable_step_breaks_a_rule(all_found: dict[str, Found]) -> None:
    problems = {name: one.problems for name, one in all_found.items() if one.problems}
    assert not problems, "\n".join(problem for many in problems.values() for problem in many)
    assert not any(one.cut_off for one in all_found.values())


def test_the_table_is_total() -> None:
    events = set(e.Event.__args__)
    assert set(TABLE) == events
    assert all(set(row) == set(Phase) for row in TABLE.values())


def test_every_event_in_every_phase_keeps_the_rules(all_found: dict[str, Found]) -> None:
    entered = set()
    for name, found in all_found.items():
        side, samples = PROJECTIONS[name], dict.fromkeys(Phase, 0)
        for state, now in found.states.values():
            samples[state.phase] += 1
            if samples[state.phase] > 40 or state.incarnation is None:
                continue
            for event in one_of_each(state):
                result = step(state, event, now, side.config)
                assert invariants.violations(state, event, result, now, side.config) == [], (event, state)
                entered.add((type(event), state.phase))
    assert entered == {(event, phase) for event in TABLE for phase in Phase if event is not e.NannyStarted}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_state_leads_home_in_a_world_that_means_well(all_found: dict[str, Found], name: str) -> None:
    side = PROJECTIONS[name]
    good: set[Hashable] = set()
    for key, (state, now) in all_found[name].states.items():
        if key in good:
            continue
        way = way_to_rest(state, now, side.config)
        assert way is not None, state
        good.update(normalised(side.prune(one), now, numbers=side.numbers) for one in way[:2])


def test_the_second_third_and_hundredth_failure_are_decided_like_the_first(
    all_found: dict[str, Found],
) -> None:
    compared = 0
    for name in ("busy", "starving", "held"):
        for state, now in all_found[name].states.values():
            for event, at in PROJECTIONS[name].stimuli(state, now, CONFIG):
                if event is None or isinstance(event, e.TimePassed | e.CommandReceived):
                    continue  # The one forgets failures in time, the other is no failure.
                first, *others = (_decision(state, failures, event, at) for failures in (0, 1, 2, 99))
                assert others == [first] * 3, (event, state)
                compared += 1
    assert compared > 10_000


def _decision(state: NannyState, failures: int, event: e.Event, at: float) -> tuple[object, ...]:
    """What was decided, except how long to wait for the next try."""
    before = replace(state, worker=replace(state.worker, failures=failures), conditions=())
    after = step(before, event, at, CONFIG)
    comes_again = after.state.worker.stage in {Stage.SPAWNING, Stage.BACKOFF} and state.worker.stage not in {
        Stage.SPAWNING,
        Stage.BACKOFF,
    }
    actions: list[Action] = [
        one for one in after.actions if not isinstance(one, SpawnWorker | ConfirmNumbers)
    ]
    worker = (
        None
        if comes_again or state.worker.stage is Stage.SPAWNING
        else (after.state.worker.stage, after.state.worker.deadline)
    )
    return comes_again, worker, after.state.stopping, after.state.vitals, actions
