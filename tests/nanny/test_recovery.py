"""What a starting nanny makes of journal and /run: lives that only /run knows are not forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanny import recovery
from nanny.core import startup
from nanny.core.config import PolicyConfig
from nanny.core.records import EpochMinted, IncarnationEnded, IncarnationStarted, NumbersReserved
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
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
