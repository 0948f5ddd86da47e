from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nanny.core.policy import TABLE
from nanny.core.state import Phase
from tests.architecture.generated_docs import DOCUMENTS, renewed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_generated_parts_are_fresh(document: Path) -> None:
    text = document.read_text()

    assert renewed(text) == text, f"stale: python -m tests.architecture.generated_docs renews {document.name}"


def test_the_table_is_total_and_every_decision_says_what_it_is() -> None:
    for event, row in TABLE.items():
        assert set(row) == set(Phase), event.__name__
        for phase, cell in row.items():
            assert cell if isinstance(cell, str) else cell.__doc__, f"{event.__name__} in {phase}"
