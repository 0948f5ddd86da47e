"""The plan of a simulated fleet: every node in one process, every behaviour as often as asked, nothing that cannot be."""

import ipaddress
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from server_stub.fleet.plan import (
    Behaviour,
    FleetPlan,
    MassFailure,
    PlanError,
    Some,
    address,
    check,
    from_json,
    processes_for,
    share_of,
    to_json,
)

PLAN = FleetPlan(
    nodes=1000,
    connected=300,
    processes=3,
    misbehaving={
        Behaviour.SLOW: Some(40, 2.0),
        Behaviour.STALLED: Some(7),
        Behaviour.CHURNING: Some(11, 30.0),
    },
    failure=MassFailure(20.0, 200, Behaviour.SILENT, 40.0),
)


def all_of(plan: FleetPlan) -> list[Any]:
    return [node for number in range(plan.processes) for node in share_of(plan, number)]


def test_every_node_is_in_exactly_one_share() -> None:
    indices = [node.index for node in all_of(PLAN)]
    assert sorted(indices) == list(range(1000))


def test_behaviours_connections_and_failures_are_as_many_as_the_plan_says() -> None:
    found = all_of(PLAN)
    counts = Counter(node.behaviour for node in found)
    assert counts == {
        Behaviour.HEALTHY: 942,
        Behaviour.SLOW: 40,
        Behaviour.STALLED: 7,
        Behaviour.CHURNING: 11,
    }
    assert sum(node.is_connected for node in found) == 300
    assert {node.behaviour for node in found if node.fails} == {Behaviour.HEALTHY}
    assert sum(node.fails for node in found) == 200


def test_the_seed_decides_which_nodes_and_the_number_of_processes_does_not() -> None:
    def by_index(plan: FleetPlan) -> list[Any]:
        return sorted(all_of(plan), key=lambda node: node.index)

    assert by_index(PLAN) == by_index(replace(PLAN, processes=7))
    assert by_index(PLAN) != by_index(replace(PLAN, seed=2))


def test_every_node_has_a_loopback_address_of_its_own() -> None:
    addresses = [address(index) for index in range(0, 200_000, 7)]
    assert len(set(addresses)) == len(addresses)
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network("127.0.0.0/8") for one in addresses)
    assert address(0) == "127.1.0.0"


def test_a_plan_travels_as_json() -> None:
    assert from_json(json.loads(json.dumps(to_json(PLAN)))) == PLAN


@pytest.mark.parametrize(
    ("plan", "limit", "said"),
    [
        (FleetPlan(nodes=0), 20_000, "expected 1 to"),
        (FleetPlan(nodes=10, connected=11), 20_000, "11 connected nodes of 10"),
        (FleetPlan(nodes=10, misbehaving={Behaviour.SLOW: Some(11)}), 20_000, "more than 10"),
        (
            FleetPlan(nodes=10_000, connected=5_000, processes=2),
            20_000,
            r"needs 20512 descriptors \(10000 probes \+ 2 x 5000 connections \+ 256 that .* at most 4744 can",
        ),
        (FleetPlan(nodes=15_000), 20_000, "--processes 2"),
        (FleetPlan(nodes=10, are_known=True, failure=MassFailure(1.0, 1)), 20_000, "not --known"),
        (
            FleetPlan(nodes=10, are_known=True, misbehaving={Behaviour.CHURNING: Some(1)}),
            20_000,
            "not --known",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_arithmetic(plan: FleetPlan, limit: int, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check(plan, limit)


def test_what_can_be_is_not_refused() -> None:
    check(FleetPlan(nodes=10_000, processes=processes_for(10_000, 0)), 20_000)
    check(FleetPlan(nodes=5_000, connected=5_000, processes=processes_for(5_000, 5_000)), 20_000)
    check(PLAN, 20_000)
