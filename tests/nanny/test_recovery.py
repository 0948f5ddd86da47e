"""What a starting nanny makes of journal and /run: lives that only /run knows are not forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from nanny import facts, recovery
from nanny.common.log_lines import LogLines
from nanny.core import startup
from nanny.core.config import PolicyConfig
from nanny.core.records import EpochMinted, IncarnationEnded, IncarnationStarted, NumbersReserved
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from pathlib import Path

    from nanny import adoption

FIRST = Incarnation("a", 1)
SPARE = Incarnation("b", 1)
JOURNAL: list[adoption.Dated] = [
    (EpochMinted("a"), 1.0),
    (NumbersReserved(64), 1.0),
    (IncarnationStarted(FIRST, 101, 1), 2.0),
    (IncarnationEnded(FIRST, "exited", "SIGSEGV", 1), 3.0),
]


def test_a_life_without_a_journal_is_journaled_by_the_next_nanny_even_if_it_is_over() -> None:
    records = list(JOURNAL)
    begun: adoption.Dated = (IncarnationStarted(SPARE, 102, 1), 9.0)
    assert recovery.add_unknown_lives(records, [begun]) == [begun[0]]
    assert records == [*JOURNAL, begun]


def test_the_life_after_one_without_a_journal_is_a_later_one() -> None:
    records = list(JOURNAL)
    recovery.add_unknown_lives(records, [(IncarnationStarted(SPARE, 102, 1), 9.0)])
    recovered = startup.recover(records, (), 10.0, ("c", "d"), PolicyConfig())
    assert recovered.dead_unrecorded == (SPARE,)
    assert Incarnation(recovered.state.epoch, recovered.state.next_number) > SPARE


def test_a_life_that_the_journal_knows_is_left_alone() -> None:
    records = list(JOURNAL)
    assert recovery.add_unknown_lives(records, [(IncarnationStarted(FIRST, 101, 1), 2.0)]) == []
    assert records == JOURNAL


@pytest.mark.parametrize(
    ("left", "is_open", "is_forgetful"),
    [
        (None, False, True),
        ({"boot": "of today", "records": []}, False, False),
        ({"boot": "of today", "records": [], "forgetful": False}, False, False),
        ({"boot": "of today", "records": [], "forgetful": True}, False, True),
        ({"boot": "of yesterday", "records": []}, False, True),
        (None, True, False),
        ({"boot": "of today", "records": [], "forgetful": True}, True, False),
    ],
)
def test_only_a_nanny_with_neither_journal_nor_what_its_boot_remembers_is_forgetful(
    tmp_path: Path, left: dict[str, Any] | None, is_open: bool, is_forgetful: bool
) -> None:
    path = str(tmp_path / "facts")
    if left is not None:
        facts.write_facts(path, left)
    opened = SimpleNamespace(records=(), torn_bytes=0, damaged=None, epoch="") if is_open else None
    durability = SimpleNamespace(opened=opened, degraded="" if is_open else "silent")
    log = LogLines(lambda _line: None, "test", lambda: 0.0)
    epochs = iter(("c", "d"))
    found = recovery.recover(
        cast("Any", durability), path, "of today", 10.0, PolicyConfig(), lambda: next(epochs), log
    )
    assert found.recovered.state.is_forgetful is is_forgetful
