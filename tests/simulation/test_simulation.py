"""A hundred thousand faults, and no rule is broken: the lane of the continuous integration.

The figures are printed (`pytest -s`). A failure names the seed; `python -m tests.simulation --seed N --nodes 50 --days 2`
replays it, shrinks it and writes it down.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.simulation import case_file, table
from tests.simulation.campaign import Plan, campaign
from tests.simulation.draw import drawn
from tests.simulation.faults import KINDS
from tests.simulation.fleet import Fleet

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
FAULTS = 100_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_faults_break_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    total = campaign(Plan(seed=1, nodes=50, days=2.0), FAULTS, processes=min(os.cpu_count() or 1, 2))
    with capsys.disabled():
        print(f"\n{table.text(total.told)}")
    assert (total.told.violation, total.broken) == ("", None)
    assert total.told.faults.total() >= FAULTS
    assert set(total.told.faults) == set(KINDS)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_what_once_broke_a_rule_breaks_none(path: Path) -> None:
    case = case_file.read(path)
    assert Fleet(case.nodes).run(case.faults, case.days).violation == ""


def test_a_world_in_which_time_does_not_pass_ends_as_a_violation() -> None:
    fleet = Fleet([0])

    def again() -> None:
        fleet.world.after(0.0, again)

    fleet.world.at(50.0, again)
    told = fleet.run([])
    assert told.violation.startswith("a live lock of the world")
    assert told.virtual_s == 50.0


def test_the_same_seed_is_the_same_run() -> None:
    plan = Plan(seed=7, nodes=3, days=1.0)
    first, second = plan.run(), plan.run()
    first.wall_s = second.wall_s = 0.0
    assert first == second
    assert first.faults.total() > 100


def test_a_case_in_a_file_is_the_same_case(tmp_path: Path) -> None:
    case = case_file.Case("an example", tuple(drawn(3, 2, 1.0)), 1.0)
    case_file.write(tmp_path / "case.json", case)
    assert case_file.read(tmp_path / "case.json") == case


def test_a_node_is_the_same_one_in_a_larger_fleet() -> None:
    alone = [fault for fault in drawn(5, 1, 2.0) if fault.node == 0]
    assert alone == [fault for fault in drawn(5, 9, 2.0) if fault.node == 0]


def test_nothing_happens_in_a_year_without_faults() -> None:
    told = Fleet(range(10)).run([], days=365.0)
    assert told.violation == ""
    assert told.virtual_s > 365 * 86400
    assert told.events < 1000
