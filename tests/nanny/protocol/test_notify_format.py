"""sd_notify's text: what we write we read again, what strangers write never hurts."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.notify_format import (
    DATAGRAM_LIMIT_BYTES,
    NAME_LIMIT_BYTES,
    PROGRESS_LIMIT,
    SECONDS_LIMIT,
    STACK_LIMIT_BYTES,
    TEXT_LIMIT_BYTES,
    Beat,
    ProgressAge,
    parse,
    render,
)


def _lines(limit_bytes: int) -> st.SearchStrategy[str]:
    return st.text(max_size=limit_bytes // 4).filter(str.isprintable)


_MICROSECONDS = st.integers(0, 10**15).map(lambda us: us / 10**6)
_MILLISECONDS = st.integers(0, 10**12).map(lambda ms: ms / 10**3)
_NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,48}", fullmatch=True)
_POINTS = st.builds(ProgressAge, _NAMES, _MILLISECONDS, _MILLISECONDS, st.booleans())
_BEATS = st.builds(
    Beat,
    ready=st.booleans(),
    stopping=st.booleans(),
    reloading=st.booleans(),
    watchdog=st.booleans(),
    status=st.none() | _lines(TEXT_LIMIT_BYTES),
    extend_timeout_s=st.none() | _MICROSECONDS,
    errno=st.none() | st.integers(0, 4095),
    mainpid=st.none() | st.integers(1, 2**22),
    seq=st.none() | st.integers(0, 2**53),
    sent_at_s=st.none() | _MICROSECONDS,
    loop_lag_s=st.none() | _MICROSECONDS,
    progress=st.lists(_POINTS, max_size=8, unique_by=lambda point: point.name).map(tuple),
    vitals_tid=st.none() | st.integers(1, 2**22),
    stalled_at=st.none() | _lines(TEXT_LIMIT_BYTES),
    stall_stack=st.none()
    | st.lists(_lines(256) | st.sampled_from(["\\", "\\n", "\\\\n"]), max_size=8).map("\n".join),
    stuck_probes=st.none() | st.integers(0, 1000),
    phase=st.none() | _lines(NAME_LIMIT_BYTES),
)


@given(_BEATS, st.none() | st.tuples(_MILLISECONDS, _lines(TEXT_LIMIT_BYTES)))
def test_what_is_rendered_is_parsed_back(beat: Beat, expected: tuple[float, str] | None) -> None:
    if expected is not None:
        beat = replace(beat, expected_until=expected[0], expected_why=expected[1])

    assert parse(render(beat)) == beat


_ANY_FLOATS = st.floats(allow_nan=True, allow_infinity=True)
_ANY_BEATS = st.builds(
    Beat,
    watchdog=st.booleans(),
    trigger=st.booleans(),
    status=st.text(),
    errno=st.integers(),
    seq=st.integers(),
    sent_at_s=_ANY_FLOATS,
    progress=st.lists(st.builds(ProgressAge, st.text(), _ANY_FLOATS, _ANY_FLOATS, st.booleans())).map(tuple),
    expected_until=_ANY_FLOATS,
    expected_why=st.text(),
    stalled_at=st.text(),
    stall_stack=st.text(),
    phase=st.text(),
)


@given(_ANY_BEATS)
def test_any_beat_at_all_is_rendered_as_one_that_the_nanny_accepts(beat: Beat) -> None:
    heard = parse(render(beat))

    assert heard.trigger == beat.trigger
    assert heard.watchdog == (beat.watchdog and not beat.trigger)


def test_the_fullest_beat_fits_into_a_datagram() -> None:
    wide = "\N{GRINNING FACE}" * 1000
    points = tuple(ProgressAge(f"{i:02}{wide}", 1e99, 1e99, critical=True) for i in range(PROGRESS_LIMIT + 1))
    beat = Beat(
        *(True,) * 4,
        status=wide,
        extend_timeout_s=1e99,
        errno=2**99,
        mainpid=2**99,
        seq=2**99,
        sent_at_s=1e99,
        loop_lag_s=1e99,
        progress=points,
        expected_until=1e99,
        expected_why=wide,
        vitals_tid=2**99,
        stalled_at=wide,
        stall_stack="\\" * 10**6,
        stuck_probes=2**99,
        phase=wide,
    )

    datagram = render(beat)
    heard = parse(datagram)

    assert len(datagram) <= DATAGRAM_LIMIT_BYTES
    assert len(heard.progress) == PROGRESS_LIMIT
    assert heard.stall_stack == "\\" * STACK_LIMIT_BYTES
    assert heard.sent_at_s == SECONDS_LIMIT
    assert len((heard.status or "").encode()) == TEXT_LIMIT_BYTES


@given(st.binary(max_size=300))
def test_garbage_is_a_beat_that_says_nothing_or_a_violation(datagram: bytes) -> None:
    try:
        beat = parse(datagram)
    except ProtocolViolation:
        return
    assert not beat.watchdog


_NAMES_AND_VALUES = st.tuples(
    st.sampled_from(
        [
            "READY",
            "WATCHDOG",
            "STATUS",
            "MAINPID",
            "ERRNO",
            "FDSTORE",
            "X_SEQ",
            "X_PROGRESS",
            "X_EXPECT",
            "X_STALL_STACK",
            "X_LOOP_LAG_US",
            "X_NEW",
        ]
    ),
    st.text()
    | st.sampled_from(["1", "-1", "1e9", "nan", "", "trigger", "9" * 400, "a:1:2:c", "a:1:2:c,a:1:2:n"]),
)


@given(st.lists(_NAMES_AND_VALUES))
def test_hostile_assignments_raise_nothing_but_violations(assignments: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name}={value}" for name, value in assignments)
    try:
        beat = parse(text.encode(errors="surrogatepass"))
    except ProtocolViolation:
        return
    for seconds in (beat.loop_lag_s, beat.expected_until, *(point.age_s for point in beat.progress)):
        assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= SECONDS_LIMIT)


@pytest.mark.parametrize(
    ("datagram", "named"),
    [
        (b"WATCHDOG=1\n" + b"A" * DATAGRAM_LIMIT_BYTES, "16384 allowed"),
        (b"STATUS=a\0b", "NUL"),
        (b"STATUS=\xff", "UTF-8"),
        (b"READY=1\nREADY=1", "READY twice"),
        (b"X_LOOP_LAG_US=-1", "not a number"),
        (b"X_LOOP_LAG_US=1000000000000001", "over"),
        (b"X_SENT_US=" + b"1" * 10_000, "over"),
        ("X_SEQ=\N{ARABIC-INDIC DIGIT ONE}".encode(), "not a number"),
        (b"MAINPID=abc", "MAINPID"),
        (b"EXTEND_TIMEOUT_USEC=", "not a number"),
        (b"X_PROGRESS=a:1:2", "name:age_ms:deadline_ms"),
        (b"X_PROGRESS=:1:2:c", "name:age_ms:deadline_ms"),
        (b"X_PROGRESS=a:1:2:x", "name:age_ms:deadline_ms"),
        (b"X_PROGRESS=a:1:2:c,a:1:2:c", "twice"),
        (b"X_PROGRESS=" + b",".join(b"p%d:1:2:c" % i for i in range(65)), "more than 64"),
        (b"X_EXPECT=soon", "X_EXPECT"),
    ],
)
def test_what_is_beyond_the_contract_is_refused_by_name(datagram: bytes, named: str) -> None:
    with pytest.raises(ProtocolViolation, match=named):
        parse(datagram)


def test_programs_that_know_only_systemd_are_understood() -> None:
    datagram = (
        b"READY=1\nSTATUS=Serving 3 models\nMAINPID=77\nFDSTORE=1\nFDNAME=a\nFDNAME=b\nMONOTONIC_USEC=1\n"
        b"NOTIFYACCESS=all\nWATCHDOG_USEC=5\nX_VENDOR=-\nBARRIER=1\nno assignment\n=\n\n"
    )

    assert parse(datagram) == Beat(ready=True, status="Serving 3 models", mainpid=77)


@pytest.mark.parametrize("datagram", [b"", b"\n", b"READY=0", b"WATCHDOG=yes", b"ready=1", b" READY=1"])
def test_what_systemd_would_ignore_counts_for_nothing(datagram: bytes) -> None:
    assert parse(datagram) == Beat()


def test_the_text_on_the_wire_is_the_one_documented() -> None:
    beat = Beat(
        watchdog=True,
        seq=7,
        sent_at_s=12.5,
        loop_lag_s=0.25,
        progress=(
            ProgressAge("reconcile", 1.5, 30, critical=True),
            ProgressAge("gpu", 0, 60, critical=False),
        ),
        expected_until=9.5,
        expected_why="loading",
        stall_stack="a\nb\\",
    )

    assert render(beat).decode().split("\n") == [
        "WATCHDOG=1",
        "X_SENT_US=12500000",
        "X_LOOP_LAG_US=250000",
        "X_SEQ=7",
        "X_PROGRESS=reconcile:1500:30000:c,gpu:0:60000:n",
        "X_EXPECT=9500:loading",
        "X_STALL_STACK=a\\nb\\\\",
    ]


def test_a_point_is_overdue_only_past_its_deadline() -> None:
    assert ProgressAge("a", 30.001, 30, critical=True).is_overdue
    assert not ProgressAge("a", 30, 30, critical=True).is_overdue
