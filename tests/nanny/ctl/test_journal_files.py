"""The journal read from outside: whatever generation, compaction, damage or writer in the middle of a line."""

import os
from pathlib import Path
from typing import Any

import pytest

from nanny.ctl.journal_files import read_journal
from nanny.errors import HostError
from nanny.journal.records_file import Header, render_body, render_file, render_line


def line(n: int, what: str) -> bytes:
    return render_line(n, render_body({"type": what, "wall": f"2026-05-01T12:00:{n:02d}.000Z"}))


def write(path: Path, header: Header, *lines: bytes) -> None:
    path.write_bytes(render_file(header, lines))


def kinds(records: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(one["n"], one["type"]) for one in records]


def test_the_highest_generation_is_read(tmp_path: Path) -> None:
    write(tmp_path / "journal.000001.jsonl", Header("e", 1), line(1, "old"))
    write(tmp_path / "journal.000002.jsonl", Header("e", 2, reason="takeover"), line(1, "a"), line(2, "b"))
    journal = read_journal(str(tmp_path))
    assert kinds(journal.records) == [(1, "a"), (2, "b")]
    assert (journal.notes, journal.last_n) == ([], 2)


def test_a_line_in_the_making_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.000001.jsonl"
    write(path, Header("e", 1), line(1, "a"))
    with path.open("ab") as file:
        file.write(line(2, "b")[:20])
    journal = read_journal(str(tmp_path))
    assert kinds(journal.records) == [(1, "a")]
    assert journal.notes == []


def test_what_was_compacted_is_read_from_the_file_before(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl.1", Header("e", 1), line(1, "a"), line(2, "b"), line(3, "c"))
    compacted = Header("e", 2, base=3, snapshot=1, replaces=1, reason="compaction")
    write(tmp_path / "journal.000002.jsonl", compacted, line(3, "snapshot-of-c"), line(4, "d"))
    journal = read_journal(str(tmp_path))
    assert kinds(journal.records) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert journal.notes == []


def test_what_was_compacted_and_is_gone_is_said(tmp_path: Path) -> None:
    compacted = Header("e", 2, base=3, snapshot=2, replaces=1, reason="compaction")
    write(tmp_path / "journal.000002.jsonl", compacted, line(3, "x"), line(3, "y"), line(4, "d"))
    journal = read_journal(str(tmp_path))
    assert kinds(journal.records) == [(3, "x"), (3, "y"), (4, "d")]
    assert "records up to 3 were compacted" in journal.notes[0]


def test_damage_is_said_and_what_is_good_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "journal.000001.jsonl"
    write(path, Header("e", 1), line(1, "a"), b"garbage\n", line(2, "b"))
    (tmp_path / "journal.jsonl.damaged-1").write_bytes(b"")
    journal = read_journal(str(tmp_path))
    assert kinds(journal.records) == [(1, "a")]
    assert [note.partition(":")[0] for note in journal.notes] == [
        "a damaged journal was put aside",
        "the journal is damaged",
    ]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "journal.000001.jsonl", Header("e", 1), line(1, "a"))
    before = {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)}
    read_journal(str(tmp_path))
    assert {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("place", ["", "missing"])
def test_where_there_is_no_journal_the_directory_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(HostError, match=tmp_path.name):
        read_journal(str(tmp_path / place))
