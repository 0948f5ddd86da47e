"""The budgets of automatic repairs: never exceeded over any course of time, never closed for ever."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_stub.core.repair_budget import DAY_S, BudgetSettings, RepairBudget, age_of_stored, fleet_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = BudgetSettings()


@pytest.mark.parametrize(("size", "limit"), [(0, 1), (1, 1), (199, 1), (200, 2), (10_000, 100)])
def test_the_fleet_may_have_its_share_and_one_at_least(size: int, limit: int) -> None:
    assert fleet_limit(size, LIMITS) == limit


def test_a_node_has_one_in_its_interval_and_three_a_day() -> None:
    budget = RepairBudget(LIMITS)
    allowed = []
    for minute in range(24 * 60):
        if budget.refuses_node("a", minute * 60.0) is None:
            allowed.append(minute)
            budget.spend("a", minute * 60.0)

    assert allowed == [0, 15, 30]
    assert budget.refuses_node("a", DAY_S - 1.0) is not None
    assert budget.refuses_node("a", DAY_S) is None
    assert budget.refuses_node("b", 0.0) is None


def test_a_refusal_says_when_it_ends() -> None:
    budget = RepairBudget(LIMITS)
    budget.spend("a", 100.0)
    first = budget.refuses_node("a", 200.0)
    budget.spend("a", 1000.0)
    budget.spend("a", 1900.0)
    last = budget.refuses_node("a", 2000.0)
    fleet = budget.refuses_fleet(50, 2000.0)

    assert first is not None
    assert (first.until_at, first.detail) == (1000.0, "one repair in 900 s")
    assert last is not None
    assert (last.until_at, last.detail) == (100.0 + DAY_S, "3 of 3 repairs a day made")
    assert fleet is not None
    assert (fleet.until_at, fleet.detail) == (2500.0, "1 of 1 repairs of the fleet within 600 s made")
    assert budget.refuses_fleet(50, 2500.0) is None


def test_a_budget_of_nothing_is_never_open() -> None:
    refusal = RepairBudget(BudgetSettings(node_daily=0)).refuses_node("a", 0.0)

    assert refusal is not None
    assert refusal.until_at is None


@pytest.mark.parametrize(
    ("wall_at", "wall_now", "age_s"), [(100.0, 160.0, 60.0), (1e12, 100.0, 0.0), (100.0, 1e12, 1e12 - 100.0)]
)
def test_a_stored_repair_of_the_future_was_made_now(wall_at: float, wall_now: float, age_s: float) -> None:
    assert age_of_stored(wall_at, wall_now) == age_s


TRIES = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 60.0, 599.5, 600.0, 899.5, 900.0, 86399.0]),
        st.sampled_from("abcde"),
        st.sampled_from([1, 50, 250, 400]),
    ),
    max_size=80,
)


@given(TRIES)
@settings(max_examples=150, deadline=None)
def test_no_course_of_tries_exceeds_a_budget_and_a_refusal_ends_when_it_says(
    tries: Sequence[tuple[float, str, int]],
) -> None:
    budget, now = RepairBudget(LIMITS), 0.0
    made: list[tuple[float, str]] = []
    for passed_s, node_id, size in tries:
        now += passed_s
        of_node, of_fleet = budget.refuses_node(node_id, now), budget.refuses_fleet(size, now)
        if of_node is None and of_fleet is None:
            made.append((now, node_id))
            budget.spend(node_id, now)
            assert sum(at > now - LIMITS.fleet_window_s for at, _ in made) <= fleet_limit(size, LIMITS)
        for refusal in (of_node, of_fleet):
            assert refusal is None or (refusal.detail and refusal.until_at is not None)
            assert refusal is None or now < (refusal.until_at or 0.0) <= now + DAY_S
        if of_node is not None:
            assert of_node.until_at is not None
            assert budget_after(made).refuses_node(node_id, of_node.until_at) is None
    for node_id in "abcde":
        instants = [at for at, owner in made if owner == node_id]
        assert all(b - a >= LIMITS.node_interval_s for a, b in pairwise(instants))
        assert all(b - a >= DAY_S for a, b in zip(instants, instants[3:], strict=False))


def budget_after(made: Sequence[tuple[float, str]]) -> RepairBudget:
    budget = RepairBudget(LIMITS)
    for at, node_id in made:
        budget.spend(node_id, at)
    return budget
