"""Places in the interval: fixed, spread, never doubled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server_stub.core.probe_schedule import next_probe_at, offset_s

NODE_IDS = st.text(min_size=1, max_size=40)
INTERVALS = st.floats(0.05, 3600.0)
INSTANTS = st.floats(0.0, 1e9)


@given(NODE_IDS, INTERVALS)
def test_a_nodes_place_lies_in_the_interval(node_id: str, interval_s: float) -> None:
    assert 0.0 <= offset_s(node_id, interval_s) <= interval_s


@given(NODE_IDS, INTERVALS, INSTANTS)
def test_the_next_turn_is_later_than_now_and_within_one_interval(
    node_id: str, interval_s: float, now: float
) -> None:
    at = next_probe_at(node_id, interval_s, now)

    assert now < at <= now + interval_s * (1 + 1e-6) + 1e-6


@given(NODE_IDS, INSTANTS)
def test_turns_follow_each_other_by_one_interval(node_id: str, now: float) -> None:
    first = next_probe_at(node_id, 15.0, now)

    assert abs(next_probe_at(node_id, 15.0, first) - first - 15.0) < 1e-5


def test_ten_thousand_nodes_are_spread_evenly() -> None:
    slots = [0] * 15
    for number in range(10_000):
        slots[int(offset_s(f"node-{number:05}", 15.0))] += 1

    assert min(slots) > 550
    assert max(slots) < 790
