"""Scenarios read as documentation: commands, and under each what the nanny does about it.

``pytest tests/scenarios --rewrite-scenarios`` writes the reactions anew; commit only what you understand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.stage import played

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_the_nanny_does_what_the_scenario_says(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text(encoding="utf-8")
    actual = played(written)
    if request.config.getoption("--rewrite-scenarios"):
        path.write_text(actual, encoding="utf-8")
    else:
        assert actual == written


def test_a_changed_reaction_is_noticed() -> None:
    scenario = played("start\nparked\nready\n")
    assert played(scenario) == scenario
    assert played(scenario.replace("A/1", "A/2")) == scenario
