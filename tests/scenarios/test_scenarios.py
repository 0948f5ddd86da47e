"""Every ``*.txt`` beside this file is a story that the core must go on telling in the same words.

``pytest tests/scenarios --rewrite-scenarios`` renews the reactions: commit only those that you understand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.teller import told

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_story_is_told_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text()

    now_told = told(written)

    if request.config.getoption("--rewrite-scenarios"):
        path.write_text(now_told)
        return
    assert now_told == written


def test_there_are_stories() -> None:
    assert len(SCENARIOS) >= 19
