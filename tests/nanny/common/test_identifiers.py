import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.common.identifiers import check_identifier, check_node_name, is_uuid7, parse_uuid7, uuid7

TIMES_MS = st.integers(0, (1 << 48) - 1)
RANDOM = st.binary(min_size=10, max_size=16)
ZEROS, ONES = bytes(10), b"\xff" * 10


def test_the_example_of_the_standard_is_reproduced() -> None:
    # RFC 9562 A.6: unix_ts_ms 0x017F22E279B0, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    random_bits = 0xCC3 << 62 | 0x18C4DC0C0C07398F

    minted = uuid7(0x017F22E279B0, (random_bits << 6).to_bytes(10))

    assert minted == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(wall_ms=TIMES_MS, random_bytes=RANDOM)
def test_what_is_minted_is_a_version_7_of_its_time(wall_ms: int, random_bytes: bytes) -> None:
    minted = uuid7(wall_ms, random_bytes)

    assert is_uuid7(minted)
    assert parse_uuid7(minted) == wall_ms
    assert (uuid.UUID(minted).version, uuid.UUID(minted).variant) == (7, uuid.RFC_4122)
    assert str(uuid.UUID(minted)) == minted


@given(st.lists(st.tuples(st.integers(0, 3), RANDOM), min_size=2, max_size=50))
def test_order_as_text_is_order_of_minting_even_when_the_clock_goes_back(
    moments: list[tuple[int, bytes]],
) -> None:
    minted: list[str] = []
    for wall_ms, random_bytes in moments:
        minted.append(uuid7(wall_ms, random_bytes, minted[-1] if minted else None))

    assert minted == sorted(set(minted))


def test_a_used_up_millisecond_borrows_from_the_next() -> None:
    last_of_its_time = uuid7(5, ONES)

    assert parse_uuid7(uuid7(5, ZEROS, last_of_its_time)) == 6


@pytest.mark.parametrize(("wall_ms", "random_bytes"), [(-1, ZEROS), (1 << 48, ZEROS), (0, bytes(9))])
def test_what_does_not_fit_is_refused(wall_ms: int, random_bytes: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        uuid7(wall_ms, random_bytes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
        "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-c8c4-dc0c0c07398f",
        "017f22e279b07cc398c4dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
        "017f22e2-79b0-7cc3-98c4-dc0c0c0739٣f",
    ],
)
def test_only_the_canonical_form_is_taken(text: str) -> None:
    assert not is_uuid7(text)
    with pytest.raises(ValueError, match="expected a UUIDv7"):
        parse_uuid7(text)


@pytest.mark.parametrize(
    "name", ["a", "gpu-0417", "gpu-0417.rack3.example", "1", "a" * 63, ".".join(["a" * 50] * 4)]
)
def test_host_names_are_node_names(name: str) -> None:
    assert check_node_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "-a", "a-", "A", "a_b", "a b", "ä", "a\n", "a" * 64, ".".join(["a" * 63] * 4), "a."],
)
def test_other_node_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected at most 253 characters"):
        check_node_name(name)


@pytest.mark.parametrize("text", ["a", "A:b_c-d.e", "0" * 8])
def test_identifiers_within_the_limit_are_taken(text: str) -> None:
    assert check_identifier(text, 9) == text


@pytest.mark.parametrize("text", ["", "0" * 10, "../etc", "a/b", "a b", "-rf", "a\x00", "é"])
def test_other_identifiers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 9 of"):
        check_identifier(text, 9)
