"""docs/nannyctl.md says what the code does."""

from pathlib import Path

import pytest

from nanny.ctl.arguments import VERBS
from nanny.ctl.reference import BEGIN, END, renewed

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "nannyctl.md"


def test_the_generated_part_of_the_document_is_not_stale() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renewed(text) == text, "run: python -m nanny.ctl.reference docs/nannyctl.md"


def test_every_verb_is_spoken_of_outside_the_generated_part_too() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    told = text.partition(BEGIN)[0] + text.partition(END)[2]
    assert [verb.name for verb in VERBS if f"nannyctl {verb.name}" not in told] == []


def test_only_what_is_between_the_marks_is_renewed() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    fresh = renewed(document)
    assert fresh.startswith(f"before\n{BEGIN}\n\n| verb |")
    assert fresh.endswith(f"|\n\n{END}\nafter\n")
    with pytest.raises(ValueError, match="begin"):
        renewed("no marks")
