"""What /run adds to the journal at a start: the journal gets each step first, so what is younger there is true."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nanny import adoption
from nanny.core.records import HoldSet, IncarnationStarted
from nanny.linux import procfs
from nanny.protocol.incarnation import Incarnation
from tests.support.processes import belongings

if TYPE_CHECKING:
    from nanny.adoption import Dated

_HELD = HoldSet(600.0, "somebody", "debugger")
_RELEASED = HoldSet(None, "somebody", "done")


def test_a_hold_that_was_released_after_the_facts_were_written_does_not_come_back() -> None:
    journal: list[Dated] = [(_HELD, 10.0), (_RELEASED, 20.0)]
    assert adoption.add_unknown_orders(journal, [(_HELD, 10.0)]) == []
    assert journal[-1] == (_RELEASED, 20.0)


def test_a_hold_that_a_degraded_journal_never_got_is_taken_from_run() -> None:
    journal: list[Dated] = [(_RELEASED, 10.0)]
    assert adoption.add_unknown_orders(journal, [(_HELD, 20.0)]) == [_HELD]


def test_a_hold_of_another_boot_is_older_than_anything_in_run() -> None:
    journal: list[Dated] = [(_RELEASED, None)]
    assert adoption.add_unknown_orders(journal, [(_HELD, 20.0)]) == [_HELD]


def test_looking_for_the_living_keeps_no_descriptor() -> None:
    pid = os.getpid()
    me = IncarnationStarted(Incarnation("epoch", 1), pid, procfs.read_stat(pid).start_time_ticks)
    before = belongings().descriptors
    for known in ([], [(me, 1.0)]):
        adoption.add_unknown_living(list(known), [(me, 1.0)])
    assert belongings().descriptors == before
