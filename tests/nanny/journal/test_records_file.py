"""The journal's format: what was written is read, what was not written is never made up."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.journal.records_file import (
    MAX_LINE_BYTES,
    Header,
    parse,
    parse_line,
    parse_lines,
    render_body,
    render_file,
    render_line,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "journal" / "v1.jsonl"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
record_fields = st.dictionaries(
    st.text().filter(lambda key: key not in ("n", "type")), json_values, max_size=4
)
headers = st.builds(
    Header,
    epoch=st.text(max_size=20),
    generation=st.integers(0, 10**6),
    base=st.just(0),
    replaces=st.none() | st.integers(0, 10**6),
    reason=st.sampled_from(["created", "takeover", "compaction", "damage"]),
    life=st.text(max_size=20),
)


def lines_of(*numbers: int) -> list[bytes]:
    return [render_line(n, render_body({"type": "t", "wall": "w", "boot": "b"})) for n in numbers]


def numbers(records: tuple[dict[str, Any], ...]) -> list[int]:
    return [record["n"] for record in records]


@settings(deadline=None)
@given(header=headers, bodies=st.lists(record_fields, max_size=6))
def test_what_was_rendered_is_parsed_to_the_same(header: Header, bodies: list[dict[str, Any]]) -> None:
    records = [{"type": "any", **body} for body in bodies]

    content = render_file(header, [render_line(n, render_body(r)) for n, r in enumerate(records, 1)])
    parsed = parse(content)

    assert parsed.header == header
    assert list(parsed.records) == [{"n": n, **record} for n, record in enumerate(records, 1)]
    assert (parsed.valid_bytes, parsed.torn_bytes, parsed.damaged_bytes) == (len(content), 0, 0)
    assert (parsed.reason, parsed.duplicates, parsed.is_damaged) == (None, 0, False)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_give_an_answer_that_accounts_for_each(content: bytes) -> None:
    parsed = parse(content)

    assert parsed.valid_bytes + parsed.torn_bytes + parsed.damaged_bytes == len(content)


@settings(deadline=None)
@given(data=st.data())
def test_a_file_with_bytes_changed_gives_a_prefix_and_never_a_made_up_record(data: st.DataObject) -> None:
    content = bytearray(render_file(Header("e", 1), lines_of(1, 2, 3, 4)))
    whole = parse(bytes(content)).records
    start = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=30))
    content[start : start + len(junk)] = junk

    parsed = parse(bytes(content))

    assert parsed.records == whole[: len(parsed.records)]
    assert parsed.valid_bytes + parsed.torn_bytes + parsed.damaged_bytes == len(content)


def test_a_record_torn_at_any_byte_is_cut_and_reported() -> None:
    whole = render_file(Header("e", 1), lines_of(1, 2, 3))
    before = len(render_file(Header("e", 1), lines_of(1, 2)))

    for end in range(before, len(whole)):
        parsed = parse(whole[:end])

        assert (numbers(parsed.records), parsed.valid_bytes) == ([1, 2], before)
        assert (parsed.torn_bytes, parsed.is_damaged) == (end - before, False)
        assert (parsed.reason is None) == (end == before)


def test_a_bad_line_before_a_good_one_is_damage_with_its_offset() -> None:
    one, two, three = lines_of(1, 2, 3)
    start = render_file(Header("e", 1), [one])

    parsed = parse(start + two[:-5] + b"XXXX\n" + three)

    assert numbers(parsed.records) == [1]
    assert (parsed.torn_bytes, parsed.damaged_bytes) == (0, len(two) + len(three))
    assert parsed.reason == f"offset {len(start)}: the checksum differs"


def test_a_hole_in_the_numbers_is_damage() -> None:
    parsed = parse(render_file(Header("e", 1), lines_of(1, 2, 4, 5)))

    assert numbers(parsed.records) == [1, 2]
    assert parsed.is_damaged
    assert parsed.reason is not None
    assert "number 4 where 3 was due" in parsed.reason


def test_zeros_at_the_end_are_a_torn_tail() -> None:
    content = render_file(Header("e", 1), lines_of(1))

    parsed = parse(content + bytes(4096))

    assert (numbers(parsed.records), parsed.torn_bytes, parsed.is_damaged) == ([1], 4096, False)


def test_resent_records_are_taken_once() -> None:
    parsed = parse(render_file(Header("e", 1), lines_of(1, 2, 3, 2, 3, 4)))

    assert (numbers(parsed.records), parsed.duplicates, parsed.reason) == ([1, 2, 3, 4], 2, None)


def test_a_snapshot_has_one_number_and_what_follows_counts_on() -> None:
    parsed = parse(render_file(Header("e", 2, base=40, snapshot=3), lines_of(40, 40, 40, 41, 42)))

    assert (numbers(parsed.records), parsed.last_n) == ([40, 40, 40, 41, 42], 42)
    assert numbers(parsed.until(41).records) == [40, 40, 40, 41]
    assert numbers(parsed.until(7).records) == [40, 40, 40]


@pytest.mark.parametrize("present", [0, 1, 2])
def test_a_snapshot_with_lines_missing_is_damage_even_at_the_end(present: int) -> None:
    parsed = parse(render_file(Header("e", 2, base=40, snapshot=3), lines_of(*[40] * present)))

    assert (len(parsed.records), parsed.is_damaged) == (present, True)


def test_an_empty_snapshot_keeps_the_count() -> None:
    assert parse(render_file(Header("e", 2, base=40), [])).last_n == 40


def test_an_unknown_type_and_unknown_fields_pass_through() -> None:
    line = render_line(1, render_body({"type": "from-the-future", "new": [1, {"x": None}]}))

    assert parse(render_file(Header("e", 1), [line])).records == (
        {"n": 1, "type": "from-the-future", "new": [1, {"x": None}]},
    )


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        (b"", "no checksum"),
        (b"00000000 {}", "the checksum differs"),
        (lines_of(1)[0][:-1], "the first line is no header"),
        (render_line(0, b'{"type":"journal","format":2}')[:-1], "format 2, and this program reads 1"),
        (render_line(0, b'{"type":"journal","format":1}')[:-1], "the header lacks a field"),
    ],
)
def test_a_file_without_a_header_of_ours_is_damage_as_a_whole(first_line: bytes, reason: str) -> None:
    parsed = parse(first_line + b"\n" + b"".join(lines_of(1, 2)))

    assert (parsed.header, parsed.records, parsed.is_damaged) == (None, (), True)
    assert parsed.reason == f"offset 0: {reason}"


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b"7", b'{"n":true,"type":"t"}', b'{"n":-1,"type":"t"}', b'{"n":1}', b"[" * 50_000]
)
def test_a_line_with_a_right_checksum_and_wrong_content_is_bad(text: bytes) -> None:
    line = b"%08x %b" % (zlib.crc32(text), text)

    assert isinstance(parse_line(line), str)
    with pytest.raises(ValueError):
        parse_lines(line)


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"n": 3, "type": "t"}, TypeError),
        ({"kind": "t"}, TypeError),
        ({"type": "t", "x": b"bytes"}, TypeError),
        ({"type": "t", "x": float("nan")}, ValueError),
        ({"type": "t", "x": "y" * MAX_LINE_BYTES}, ValueError),
    ],
)
def test_what_could_not_be_read_again_is_not_rendered(record: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        render_body(record)


def test_the_longest_record_makes_a_line_within_the_bound() -> None:
    body = render_body({"type": "t", "x": "y" * (MAX_LINE_BYTES - 64 - len('{"type":"t","x":""}'))})

    assert len(render_line(2**63, body)) <= MAX_LINE_BYTES


def test_version_1_is_read_for_ever() -> None:
    parsed = parse(GOLDEN.read_bytes())

    assert parsed.header == Header(
        epoch="01jd",
        generation=7,
        base=12,
        snapshot=2,
        replaces=6,
        reason="compaction",
        life="5f7c-100-1",
        wall="2026-11-20T12:00:00Z",
        boot="5f7c",
    )
    assert parsed.reason is None
    assert list(parsed.records) == [
        {"n": 12, "type": "desired-state-set", "desired": "up", "wall": "w1", "boot": "5f7c"},
        {"n": 12, "type": "numbers-reserved", "until": 64, "wall": "w1", "boot": "5f7c"},
        {"n": 13, "type": "incarnation-started", "number": 3, "pid": 4711, "wall": "w2", "boot": "5f7c"},
        {
            "n": 14,
            "type": "unheard-of",
            "text": "\u00fc\U0001f600\udc80",
            "deep": {"a": [1, 2.5, None, True]},
        },
    ]


def test_version_1_is_written_as_ever() -> None:
    parsed = parse(GOLDEN.read_bytes())
    assert parsed.header is not None
    bodies = [{key: value for key, value in record.items() if key != "n"} for record in parsed.records]

    lines = [render_line(r["n"], render_body(b)) for r, b in zip(parsed.records, bodies, strict=True)]

    assert render_file(parsed.header, lines) == GOLDEN.read_bytes()


def test_each_line_is_plain_ascii_that_other_tools_can_check() -> None:
    for line in GOLDEN.read_text("ascii").splitlines():
        checksum, _, text = line.partition(" ")
        assert zlib.crc32(text.encode()) == int(checksum, 16)
        assert json.loads(text)["type"]
