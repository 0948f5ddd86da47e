"""What /run adds to the journal at a start: the journal gets each step first, so what is younger there is true."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

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


@pytest.mark.parametrize("at", ["9" * 400, "1e999", "NaN", "-1", "true", '"1"', "null"])
def test_an_instant_that_cannot_be_makes_a_record_of_another_boot_and_stops_no_start(at: str) -> None:
    plain = {"type": "epoch-minted", "epoch": "e", "boot": "b", "at": json.loads(at)}
    records, problems = adoption.parse_records([plain], "b")
    instants = [instant for _, instant in records]
    assert (instants, problems) == ([1.0 if at == "true" else None], [])


def test_a_process_id_that_cannot_be_is_nobody_living() -> None:
    plain = {
        "type": "incarnation-started",
        "incarnation": "e/1",
        "pid": 2**40,
        "start_time_ticks": 1,
        "boot": "b",
        "at": 1.0,
    }
    assert adoption.find_living(adoption.parse_records([plain], "b")[0]) == []
