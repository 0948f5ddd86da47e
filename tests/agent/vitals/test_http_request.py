"""The request head: what is well formed is read, all else is refused with its status, nothing crashes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.vitals.http_request import HEAD_LIMIT_BYTES, Request, RequestRefused, parse_head

PLAIN = b"GET /healthz?verbose HTTP/1.1\r\nHost: node\r\n\r\n"


def _parsed(buffer: bytes) -> Request:
    parsed = parse_head(buffer)
    assert parsed is not None
    return parsed[0]


def _refused(buffer: bytes) -> int:
    with pytest.raises(RequestRefused) as caught:
        parse_head(buffer)
    return caught.value.status


def test_a_request_and_its_length_are_told() -> None:
    expected = Request("GET", "/healthz", "verbose", keep_alive=True)

    assert parse_head(PLAIN + b"GET /next") == (expected, len(PLAIN))


def test_fields_of_interest_are_read_in_any_case() -> None:
    head = b"HEAD / HTTP/1.1\r\nhOsT:n\r\nAUTHORIZATION:  Bearer x \r\naccept: a/b\r\nAccept: c/d\r\nX-Forwarded-For: 1\r\n\r\n"

    assert _parsed(head) == Request("HEAD", "/", "", True, "Bearer x", "a/b, c/d", forwarded=True)


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"close", False),
        (b"1.1", b"te, Close", False),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_persistence_follows_version_and_connection(
    version: bytes, connection: bytes, keep_alive: bool
) -> None:
    head = b"GET / HTTP/" + version + b"\r\nHost: n\r\nConnection: " + connection + b"\r\n\r\n"

    assert _parsed(head).keep_alive == keep_alive


@pytest.mark.parametrize("cut", range(len(PLAIN)))
def test_every_beginning_of_a_request_is_waited_with(cut: int) -> None:
    assert parse_head(PLAIN[:cut]) is None


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n\r\nHost: m\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n\r\nA: b\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        (b"GET \xff HTTP/1.1\r\nHost: n\r\n\r\n", 400),
        (b"GET healthz HTTP/1.1\r\nHost: n\r\n\r\n", 400),
        (b"GET / HTTP/11\r\nHost: n\r\n\r\n", 400),
        (b"GET /\nHost: n\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"G\0T", 400),
        (b"POST / HTTP/1.1\r\nHost: n\r\n\r\n", 405),
        (b"CONNECT n:1 HTTP/1.1\r\nHost: n\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: n\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET / HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"a" * HEAD_LIMIT_BYTES, 431),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_we_do_not_speak_is_refused_with_its_status(head: bytes, status: int) -> None:
    assert _refused(head) == status


def test_a_body_of_length_zero_is_none() -> None:
    assert _parsed(b"GET / HTTP/1.1\r\nHost: n\r\nContent-Length: 0\r\n\r\n").path == "/"


def test_the_absolute_form_of_a_proxy_is_understood() -> None:
    assert _parsed(b"GET http://node:80/livez?a=1 HTTP/1.1\r\nHost: n\r\n\r\n").path == "/livez"


def test_an_empty_line_before_the_request_is_tolerated() -> None:
    assert parse_head(b"\r\n" + PLAIN) == (_parsed(PLAIN), len(PLAIN) + 2)


@pytest.mark.parametrize(
    ("query", "has"),
    [("verbose", True), ("verbose=0&x", True), ("a&verbose", True), ("", False), ("verbosely", False)],
)
def test_flags_are_whole_names(query: str, has: bool) -> None:
    assert Request("GET", "/", query, keep_alive=True).has_flag("verbose") == has


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: PLAIN[:-2] + tail + b"\r\n\r\n"))
@example(b"\r")
@example(b"\r\n\r\n\r\n")
@example(b" / HTTP/1.1\r\n\r\n")
def test_any_bytes_are_read_waited_with_or_refused(buffer: bytes) -> None:
    status, length = 0, 0
    try:
        parsed = parse_head(buffer)
        length = 0 if parsed is None else parsed[1]
    except RequestRefused as refused:
        status = refused.status

    assert status in {0, 400, 405, 413, 431, 505}
    assert 0 <= length <= len(buffer)
