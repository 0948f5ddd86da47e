"""Label selectors: what each form selects, and what a wrong one is told."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_stub.core.selector import (
    Operator,
    Requirement,
    SelectorError,
    is_key,
    is_value,
    parse,
)

NODE = {"rack": "r1", "gpu": "h200", "zone": "", "example.com/tier": "2"}
WORDS = st.text("abcdefghij0123456789-_./", min_size=1, max_size=12)
LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)


@pytest.mark.parametrize(
    "text",
    [
        "*",
        " * ",
        "rack=r1",
        "rack == r1",
        "rack!=r2",
        "no-such!=r1",
        "rack in (r1,r2)",
        " rack in ( r2 , r1 ) ",
        "rack notin (r2)",
        "no-such notin (r1)",
        "rack",
        "!no-such",
        "! no-such",
        "zone=",
        "zone in ()",
        "rack!=",
        "example.com/tier=2",
        "rack=r1,gpu=h200,!old,zone",
        "gpu notin (a100),rack in (r1)",
    ],
)
def test_selects_the_node(text: str) -> None:
    assert parse(text).matches(NODE)


@pytest.mark.parametrize(
    "text",
    [
        "rack=r2",
        "rack!=r1",
        "rack in (r2,r3)",
        "no-such in (r1)",
        "no-such=",
        "rack notin (r1,r2)",
        "no-such",
        "!rack",
        "rack=",
        "rack=r1,gpu=a100",
        "RACK=r1",
    ],
)
def test_does_not_select_the_node(text: str) -> None:
    assert not parse(text).matches(NODE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty; expected key, !key, key=value"),
        ("  ", "it is empty"),
        (",", "at character 1: expected the key of a label, found ','"),
        ("rack=r1,", "at character 9: expected the key of a label, found the end"),
        ("rack r1", "at character 6: expected one of =, !=, in, notin, a comma, or the end, found 'r1'"),
        ("rack=r1 gpu=a", "at character 9: expected a comma between requirements, or the end, found 'gpu'"),
        ("rack in r1", r"at character 9: expected values in parentheses, such as (a,b), found 'r1'"),
        ("rack in (r1", "at character 12: expected a comma or ), found the end"),
        ("rack in (r1 r2)", "at character 13: expected a comma or ), found 'r2'"),
        ("rack>1", "at character 5: expected one of =, !=, in, notin, a comma, or the end, found '>'"),
        ("rack=(a)", "at character 6: expected a value, found '('"),
        ("!!rack", "at character 2: expected the key of a label, found '!'"),
        ("*,rack", "at character 1: expected the key of a label (* stands alone), found '*'"),
        ("rack=r1)", "at character 8: expected a comma between requirements, or the end, found ')'"),
        ("a" * 5000, "5000 characters, at most 4096 can be"),
        (",".join("a" * 65), "65 requirements, at most 64 can be"),
    ],
)
def test_what_is_no_selector_says_where_and_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(SelectorError) as raised:
        parse(text)

    assert str(raised.value).startswith(said)


@given(st.text(max_size=60))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    parsed = None
    with suppress(SelectorError):
        parsed = parse(text)

    assert parsed is None or isinstance(parsed.matches(NODE), bool)


@given(WORDS, st.sets(WORDS, min_size=1, max_size=4), st.sampled_from(["in", "notin"]))
def test_sets_are_read_as_written(key: str, values: set[str], word: str) -> None:
    parsed = parse(f"{key} {word} ({', '.join(sorted(values))})")

    assert parsed.requirements == (Requirement(key, Operator(word), frozenset(values)),)


@given(LABELS, st.sampled_from("abc"), st.sampled_from("xyz"))
def test_each_form_and_its_opposite_divide_the_fleet(labels: dict[str, str], key: str, value: str) -> None:
    for form, opposite in (
        (f"{key}={value}", f"{key}!={value}"),
        (f"{key} in ({value})", f"{key} notin ({value})"),
        (key, f"!{key}"),
    ):
        assert parse(form).matches(labels) != parse(opposite).matches(labels)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("rack", True),
        ("example.com/rack", True),
        ("a_b.c-D9", True),
        ("", False),
        ("-rack", False),
        ("rack-", False),
        ("a/b/c", False),
        ("Example.com/rack", False),
        ("r ck", False),
        ("rack=1", False),
        ("*", False),
        ("a" * 64, False),
        ("ä", False),
        ("a\n", False),
    ],
)
def test_keys_that_people_may_set(key: str, expected: bool) -> None:
    assert is_key(key) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("", True), ("r-1_a.b", True), ("a b", False), ("-", False), ("x" * 64, False)]
)
def test_values_that_people_may_set(value: str, expected: bool) -> None:
    assert is_value(value) == expected
