"""The facts for adoption: the old ones or the new ones, never something between, never made up."""

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.facts import FactsRead, read_facts, write_facts

FACTS = {"incarnation": ["e", 7], "pid": 4711, "start_time_ticks": 123, "boot": "5f7c", "text": "\u00fc"}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "facts")

    write_facts(path, {"pid": 1})
    write_facts(path, FACTS)

    assert read_facts(path) == FactsRead(FACTS, None)
    assert os.listdir(tmp_path) == ["facts"]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_no_file_is_no_facts(tmp_path: Path) -> None:
    found = read_facts(str(tmp_path / "facts"))

    assert found.facts is None
    assert found.reason is not None
    assert "No such file" in found.reason


def test_facts_cut_off_or_changed_at_any_byte_are_none(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    write_facts(str(path), FACTS)
    whole = path.read_bytes()

    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert read_facts(str(path)).facts is None
        path.write_bytes(whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :])
        assert read_facts(str(path)).facts is None


@settings(deadline=None)
@given(text=st.binary(max_size=50) | st.sampled_from([b"[]", b"1", b"{", b"[" * 50_000]))
def test_any_content_gives_an_answer(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "facts-any"
    path.write_bytes(b"%08x %b\n" % (zlib.crc32(text), text))

    assert (read_facts(str(path)).facts is None) != (read_facts(str(path)).reason is None)


def test_a_draft_left_by_a_crash_does_not_stop_the_next_one(tmp_path: Path) -> None:
    path = str(tmp_path / "facts")
    (tmp_path / "facts.draft").symlink_to(tmp_path / "elsewhere")

    write_facts(path, FACTS)

    assert read_facts(path).facts == FACTS
    assert not (tmp_path / "elsewhere").exists()


def test_a_failed_write_leaves_the_old_facts_and_no_draft(tmp_path: Path) -> None:
    path = str(tmp_path / "facts")
    write_facts(path, FACTS)

    with pytest.raises(TypeError):
        write_facts(path, {"x": b"bytes"})
    with pytest.raises(ValueError):
        write_facts(path, {"x": "y" * (4 << 20)})
    with pytest.raises(FileNotFoundError):
        write_facts(str(tmp_path / "missing" / "facts"), FACTS)

    assert read_facts(path).facts == FACTS
    assert os.listdir(tmp_path) == ["facts"]


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink", "huge"])
def test_something_else_in_the_place_of_the_facts_is_none_and_does_not_block(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "facts"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        write_facts(str(tmp_path / "other"), FACTS)
        path.symlink_to(tmp_path / "other")
    else:
        path.write_bytes(b"x" * ((4 << 20) + 5))

    found = read_facts(str(path))

    assert found.facts is None
    assert found.reason
