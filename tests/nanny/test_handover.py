"""What an ordered end leaves in /run: nothing, unless the journal is degraded and /run is all that there is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from nanny.handover import Handover

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("degraded", "stays"), [("", False), ("records are not written within 1 s", True)])
def test_the_facts_outlive_an_ordered_end_only_while_the_journal_is_degraded(
    degraded: str, stays: bool, tmp_path: Path
) -> None:
    facts = tmp_path / "facts"
    facts.write_text("what the journal never got")
    ended = SimpleNamespace(facts_path=str(facts), durability=SimpleNamespace(degraded=degraded))
    Handover.remove_facts(cast("Any", ended))
    assert facts.exists() is stays
