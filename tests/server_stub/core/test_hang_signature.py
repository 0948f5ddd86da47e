"""Which hangs count as the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_stub.core.hang_signature import hang_signature

FRAMES = st.lists(st.from_regex(r"[a-z_.]{1,12}:[a-z_<>]{1,12}", fullmatch=True), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pool:acquire < app:read", "pool:acquire < app:read"),
        ("pool:acquire < task-17:run", "pool:acquire < task-4:run"),
        ("lib:call_0x7f3a < app:read", "lib:call_0xdeadbeef < app:read"),
        (
            "pool:acquire < app:read < asyncio.events:_run",
            "pool:acquire < app:read < uvloop:run < runpy:_run",
        ),
    ],
)
def test_what_differs_between_nodes_makes_no_other_hang(one: str, other: str) -> None:
    assert hang_signature(one, None) == hang_signature(other, None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pool:acquire < app:read", "pool:release < app:read"),
        ("pool:acquire < app:read", "app:read < pool:acquire"),
        ("Segmentation fault: pool:acquire", "pool:acquire"),
        ("libfoo2:call", "libfoo3:call"),
    ],
)
def test_another_stack_is_another_hang(one: str, other: str) -> None:
    assert hang_signature(one, None) != hang_signature(other, None)


def test_without_a_signature_the_place_counts_and_its_line_does_not() -> None:
    assert hang_signature(None, "pool:acquire:88") == hang_signature("", "pool:acquire:91")
    assert hang_signature(None, "kernel:nvidia_ioctl") is not None


def test_a_summary_that_tells_no_place_has_no_signature() -> None:
    assert hang_signature(None, None) is None
    assert hang_signature("", "") is None
    assert hang_signature("  <  ", None) is None


@given(FRAMES)
def test_the_key_is_short_and_the_frames_are_in_their_order(frames: list[str]) -> None:
    found = hang_signature(" < ".join(frames), None)

    assert found is not None
    assert len(found.key) == 16
    assert list(found.frames) == frames[: len(found.frames)]
