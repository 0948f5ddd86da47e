"""A real node's journal cut at every byte, and dirtied at every byte of its end, read by the start of a nanny.

In this process: the file's parser, the records' reader and the fold of the core are called as a start calls them. Of
a cut file exactly the whole lines count, of a dirty one at most those before the dirt; no content makes a start fail,
and no order that was told twice, or told and done, is done again. Real writers and nannies: test_journal_disk.py.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from nanny import adoption
from nanny.core import startup
from nanny.core.config import PolicyConfig
from nanny.journal.records_file import Parsed, parse
from tests.faults.ordered import Ordered
from tests.support.real_nanny import real_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanny.core.state import NannyState

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KINDS = (
    "drain",
    "restart",
    "hold",
    "collect-evidence",
    "stop",
    "start",
    "release",
    "undrain",
    "clear",
    "reload",
)


@pytest.fixture(scope="module")
def journal() -> Iterator[bytes]:
    """The journal of a node that was ordered everything once."""
    with real_node() as node:
        node.start()
        node.wait_for_phase("running")
        for kind in KINDS:
            fields = {"for_s": 600} if kind == "hold" else {}
            assert Ordered(kind, fields).send(node)
        node.stop()
        yield max(node.state_dir.glob("journal.0*.jsonl")).read_bytes()


def folded(parsed: Parsed) -> NannyState:
    """The state that a start on another boot would begin with."""
    records, problems = adoption.parse_records(parsed.records, "another-boot")
    assert problems == []
    return startup.recover(records, (), 1000.0, ("epoch-a", "epoch-b"), PolicyConfig(node_id="n")).state


def test_cut_at_every_byte_the_whole_lines_count_and_nothing_else(journal: bytes) -> None:
    header_end = journal.index(b"\n") + 1
    states: dict[int, NannyState] = {}
    for length in range(len(journal) + 1):
        parsed = parse(journal[:length])
        if length < header_end:
            # A file gets its name only when its header is synced: no crash leaves less.
            assert parsed.header is None
            assert parsed.is_damaged
            continue
        lines = journal[header_end:length].count(b"\n")
        assert (len(parsed.records), parsed.is_damaged) == (lines, False), length
        assert parsed.torn_bytes == length - (journal.rindex(b"\n", 0, length) + 1), length
        if lines not in states:
            states[lines] = folded(parsed)
    # With each line more is known, and never less: what was finished stays finished.
    counts = [len(state.ledger.finished) for _, state in sorted(states.items())]
    assert counts == sorted(counts)
    assert counts[-1] == len(KINDS)
    assert states[max(states)].ledger.pending == ()


def test_a_byte_changed_anywhere_in_the_last_records_costs_them_at_most(journal: bytes) -> None:
    whole = parse(journal)
    last = journal.rindex(b"\n", 0, journal.rindex(b"\n", 0, -1)) + 1
    for at in range(last, len(journal)):
        for bit in (0x01, 0x80):
            dirty = bytearray(journal)
            dirty[at] ^= bit
            parsed = parse(bytes(dirty))
            assert parsed.records == whole.records[: len(parsed.records)], at
            assert len(parsed.records) >= len(whole.records) - 2, at
            folded(parsed)


def test_a_tail_that_is_there_again_changes_nothing(journal: bytes) -> None:
    lines = journal.splitlines(keepends=True)
    before = folded(parse(journal))
    for count in range(1, len(lines)):
        parsed = parse(journal + b"".join(lines[-count:]))
        assert (parsed.duplicates, parsed.is_damaged) == (count, False)
        assert folded(parsed) == before


def test_garbage_of_any_kind_behind_the_last_record_is_cut_or_reported(journal: bytes) -> None:
    whole = parse(journal)
    dice = random.Random(4)
    for _ in range(300):
        garbage = dice.randbytes(dice.randrange(1, 200))
        parsed = parse(journal + garbage)
        assert parsed.records == whole.records
        assert parsed.torn_bytes + parsed.damaged_bytes == len(garbage)
