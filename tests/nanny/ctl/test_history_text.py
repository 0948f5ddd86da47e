"""The journal as a story: every record has a line of its own, and any JSON object has one."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.core import records as r
from nanny.core.actions import Outcome
from nanny.core.events import Command, CommandKind, Source
from nanny.ctl.history_text import _TELLERS, boot_line, story_line
from nanny.ctl.terminal import PLAIN
from nanny.protocol.incarnation import Incarnation

ONE = Incarnation("01a1fc84-ddba-7c97-bb1e-c7c9a9f1af77", 7)
AIMED = Command("id-1", CommandKind.RESTART, 60.0, "stuck", "alice", Source.SERVER, ONE, None)

STORIES: list[tuple[r.Record, str]] = [
    (r.EpochMinted("e-1"), "epoch       incarnations count anew in e-1"),
    (r.NumbersReserved(64), "reserved    numbers up to 64"),
    (r.IncarnationStarted(ONE, 4711, 99), "started     worker …af77/7, pid 4711"),
    (r.IncarnationReady(ONE, 0.031), "ready       worker …af77/7, 31 ms after its birth"),
    (
        r.StopDecided(ONE, "stalled", "loop lag 31 s", "restart"),
        "ending      worker …af77/7 (stalled): loop lag 31 s; the next one follows",
    ),
    (
        r.IncarnationEnded(ONE, "stalled", "SIGKILL", 2),
        "ended       worker …af77/7 (stalled): SIGKILL; failure 2 in a row",
    ),
    (
        r.IncarnationEnded(ONE, "stop-ordered", "SIGTERM", 0),
        "ended       worker …af77/7 (stop-ordered): SIGTERM",
    ),
    (
        r.IncarnationFenced(ONE, "lost"),
        "fenced      worker …af77/7 would not die (lost); it is replaced",
    ),
    (r.EvidenceSaved(ONE, "b-1", "at m:f"), "evidence    worker …af77/7: b-1 (at m:f)"),
    (r.EvidenceSaved(ONE, "", "the disk hangs"), "evidence    worker …af77/7: none (the disk hangs)"),
    (r.DesiredSet(r.Desired.DOWN, "bob", "bad DIMM"), "wanted      DOWN by bob: bad DIMM"),
    (r.DrainSet(True, "bob", "rack"), "drain       no new work, by bob: rack"),
    (r.DrainSet(False, "bob", "rack"), "undrain     new work is welcome again, by bob: rack"),
    (r.HoldSet(1900.0, "al", "gdb"), "held        no involuntary kills for 30 min, by al: gdb"),
    (r.HoldSet(None, "al", "gdb"), "released    involuntary kills are possible again, by al: gdb"),
    (
        r.CommandAccepted(AIMED),
        "ordered     restart of …af77/7 by the server's alice: stuck  [id-1]",
    ),
    (
        r.CommandFinished("id-1", CommandKind.RESTART, Outcome.DONE, "ready", ONE, False),
        "outcome     restart done: ready  [id-1]",
    ),
    (r.OutcomeDelivered("id-1"), "delivered   the server has the outcome of id-1"),
    (
        r.ConditionChanged("CrashLooping", True, "TooMany", "6 failures"),
        "condition   CrashLooping began (TooMany): 6 failures",
    ),
    (
        r.ConditionChanged("CrashLooping", False, "Recovered", ""),
        "condition   CrashLooping is over (Recovered)",
    ),
]


@pytest.mark.parametrize(("record", "expected"), STORIES, ids=lambda one: type(one).__name__)
def test_a_record_is_told_with_its_time(record: r.Record, expected: str) -> None:
    plain = {"n": 1, **r.to_json(record), "at": 100.0, "wall": "2026-05-01T12:00:00.123Z", "boot": "b"}
    assert story_line(plain, PLAIN) == f"2026-05-01 12:00:00.123Z  {expected}"


def test_every_type_of_record_has_a_story_and_an_example_here() -> None:
    assert {type(record) for record, _ in STORIES} == set(get_args(r.Record))
    assert {str(r.to_json(record)["type"]) for record, _ in STORIES} == set(_TELLERS)


def test_every_record_is_itself_again_after_json() -> None:
    for record, _ in STORIES:
        assert r.from_json(r.to_json(record)) == record


def test_a_record_of_another_version_is_shown_as_it_is() -> None:
    future = {"n": 9, "type": "worker-cloned", "wall": "2026-05-01T12:00:00.123Z", "copies": 2}
    assert story_line(future, PLAIN) == '2026-05-01 12:00:00.123Z  worker-cloned  {"copies": 2}'
    broken = {"type": "incarnation-ready", "after_s": "soon", "incarnation": "e/1"}
    assert story_line(broken, PLAIN).endswith('incarnation-ready  {"after_s": "soon", "incarnation": "e/1"}')


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted({key for record, _ in STORIES for key in r.to_json(record)} | {"wall", "at", "boot", "n"})


@given(
    kind=st.sampled_from(sorted(_TELLERS)) | st.text(),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8),
)
def test_any_object_gives_one_printable_line(kind: str, fields: dict[str, Any]) -> None:
    line = story_line({**fields, "type": kind}, PLAIN)
    assert line.isprintable()


def test_a_boot_is_marked() -> None:
    assert "booted" in boot_line(PLAIN)
