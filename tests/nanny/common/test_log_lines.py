import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.common.log_lines import LINE_LIMIT, LogLines, RateLimit, is_journal, render, with_priority

NOON = 1_777_636_800.25  # 2026-05-01T12:00:00.250Z


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


class Paper:
    """A log that keeps its lines, and a clock that stands until it is set."""

    def __init__(self, limit: RateLimit | None = None, *, priorities: bool = False) -> None:
        self.now = NOON
        self.lines: list[bytes] = []
        self.log = LogLines(self.lines.append, "nanny", lambda: self.now, priorities=priorities, limit=limit)

    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def test_a_line_says_time_level_program_event_and_fields_in_this_order() -> None:
    paper = Paper()

    paper.log.warning("worker-lost", incarnation=7, silent_s=6.1)

    assert b"".join(paper.lines) == (
        b'{"time":"2026-05-01T12:00:00.250Z","level":"warning","program":"nanny","event":"worker-lost",'
        b'"incarnation":7,"silent_s":6.1}\n'
    )


def test_journal_priorities_precede_the_line() -> None:
    paper = Paper(priorities=True)

    paper.log.info("a")
    paper.log.warning("b")
    paper.log.error("c")

    assert [line[:4] for line in paper.lines] == [b"<6>{", b"<4>{", b"<3>{"]


def circular() -> list[object]:
    ring: list[object] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x00\n", "b'\\x00\\n'"),
        (float("nan"), "nan"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (circular(), "[[...]]"),
        (Unprintable(), "<Unprintable without repr>"),
        ("two\nlines\r\u2028", "two\nlines\r\u2028"),
        ("\udc80", "\udc80"),
    ],
)
def test_any_value_makes_one_valid_line(value: object, expected: str) -> None:
    paper = Paper()

    paper.log.info("odd", value=value)

    assert paper.parsed()[0]["value"] == expected
    assert paper.lines[0].count(b"\n") == 1


FIELDS = st.dictionaries(
    st.text(max_size=300),
    st.one_of(
        st.none(), st.floats(), st.text(), st.binary(), st.lists(st.text()), st.text().map(lambda t: t * 999)
    ),
    max_size=60,
)


@given(event=st.text(), fields=FIELDS)
def test_every_line_is_one_json_object_within_the_limit(event: str, fields: dict[str, object]) -> None:
    line = b"<6>" + render(NOON, "info", "nanny", event, fields)

    assert len(line) <= LINE_LIMIT
    assert line.count(b"\n") == 1
    assert json.loads(line[3:])["program"] == "nanny"


@pytest.mark.parametrize("unit", ["x", "\n", "\x00", "\U0001f525"])
def test_a_hostile_value_is_cut_and_says_how_much_is_missing(unit: str) -> None:
    paper = Paper()

    paper.log.error("odd", value=unit * 100_000, after=1)

    assert len(paper.lines[0]) <= LINE_LIMIT
    assert paper.parsed()[0]["value"].endswith(" more)")
    assert paper.parsed()[0]["after"] == 1


def test_fields_that_no_longer_fit_are_counted() -> None:
    paper = Paper()

    paper.log.info("many", **{f"field_{number}": "x" * 1000 for number in range(20)})

    line = paper.parsed()[0]
    assert line["fields_left_out"] == 20 - sum(key.startswith("field_") for key in line)
    assert line["fields_left_out"] > 0


def test_a_field_cannot_pass_for_the_event() -> None:
    paper = Paper()

    paper.log.info("real", event="forged", time=0)

    line = paper.parsed()[0]
    assert (line["event"], line["event_"], line["time_"]) == ("real", "forged", 0)


def test_a_writer_that_fails_is_counted_and_never_felt() -> None:
    def full(_line: bytes) -> None:
        raise BlockingIOError

    log = LogLines(full, "nanny", lambda: NOON)

    log.error("worker-lost")

    assert log.lost_total == 1


def test_a_flood_is_held_back_and_counted_in_the_next_line_of_any_event() -> None:
    paper = Paper(RateLimit(rate_per_s=1, burst=3))

    for _ in range(1000):
        paper.log.warning("bad-datagram")
    paper.log.error("worker-lost")
    paper.log.info("worker-spawned")

    events = [(line["event"], line.get("suppressed")) for line in paper.parsed()]
    assert events == [("bad-datagram", None)] * 3 + [
        ("worker-lost", {"bad-datagram": 997}),
        ("worker-spawned", None),
    ]


def test_a_count_survives_a_line_that_was_not_written() -> None:
    paper = Paper(RateLimit(rate_per_s=0, burst=1))
    paper.log.info("a")
    paper.log.info("a")
    kept, paper.log.write = paper.log.write, None  # type: ignore[assignment]
    paper.log.info("b")
    paper.log.write = kept

    paper.log.info("c")

    assert paper.parsed()[-1]["suppressed"] == {"a": 1}


def test_many_event_names_share_one_bucket_in_the_end() -> None:
    paper = Paper(RateLimit(rate_per_s=0, burst=1))

    for number in range(1000):
        event = f"event-{number}"
        paper.log.info(event)

    assert len(paper.lines) == 256 + 1


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    bucket, given_at = RateLimit(rate_per_s=0.5, burst=2), []
    for now in (0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 100.0, 100.0, 100.0):
        bucket, allowed = bucket.take(now)
        given_at += [now] if allowed else []

    assert given_at == [0.0, 0.0, 2.0, 100.0, 100.0]


def test_a_clock_set_back_does_not_close_a_bucket_for_ever() -> None:
    bucket, _ = RateLimit(rate_per_s=1, burst=1).take(10**9)
    bucket, at_once = bucket.take(0.0)
    assert bucket.tokens == 0
    bucket, later = bucket.take(1.0)

    assert (at_once, later) == (False, True)


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.touch()
    status = path.stat()
    with path.open() as file:
        assert is_journal(file.fileno(), f"{status.st_dev}:{status.st_ino}")
        assert not is_journal(file.fileno(), f"{status.st_dev}:{status.st_ino + 1}")
        assert not is_journal(file.fileno(), None)
        closed = os.dup(file.fileno())
        os.close(closed)
    assert not is_journal(closed, f"{status.st_dev}:{status.st_ino}")


@pytest.mark.parametrize(
    ("line", "priority"),
    [
        (b'{"event":"e","level":"warning","x":1}', b"<4>"),
        (b'{"level": "ERROR"}', b"<3>"),
        (b'{"level":"critical"}', b"<2>"),
        (b'{"level":"debug"}', b"<7>"),
        (b'{"level":"info"}', b""),
        (b'{"level":"warn', b""),
        (b'{"level":4}', b""),
        (b'{"event":"said \\"level\\":\\"error\\""}', b""),
        (b'level "level":"error"', b""),
        (b"<3>as systemd wants it", b""),
        (b"", b""),
    ],
)
def test_a_line_of_json_that_names_its_level_gets_the_journals_priority(line: bytes, priority: bytes) -> None:
    assert with_priority(line) == priority + line
