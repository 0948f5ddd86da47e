"""docs/failure-modes.md speaks of every fault of the campaign and of every condition that a node can show."""

import re
from pathlib import Path

from agent.core.conditions import ConditionType as OfAgent
from nanny.core.state import ConditionType as OfNanny

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8")


def numbers_of(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"\d+", text)}


def faults_done() -> set[int]:
    found = set()
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        for numbers in re.findall(r'@fault\(\s*"([\d, ]+)"', path.read_text(encoding="utf-8")):
            found |= numbers_of(numbers)
    return found


def test_the_page_has_the_faults_of_the_campaign_and_no_others() -> None:
    told = set().union(*(numbers_of(one) for one in re.findall(r"\*\* \[([\d, ]+)\]", PAGE)))
    assert told == faults_done()


def test_every_condition_is_on_the_page() -> None:
    assert [one for one in [*OfNanny, *OfAgent] if f"`{one}`" not in PAGE] == []
