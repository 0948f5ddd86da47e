"""When each node is probed: a fixed place in the interval, spread over the fleet by a hash of the node's id.

The place doesn't move when nodes come and go or the server restarts, so a fleet that returns at once is
probed evenly. A check that overran its turn is followed at its next place: late, never doubled. Knows no
clock.
"""

from __future__ import annotations

from hashlib import blake2b
from math import floor


def offset_s(node_id: str, interval_s: float) -> float:
    """Give the node's place in the interval, in [0, interval_s)."""
    fraction = int.from_bytes(blake2b(node_id.encode(), digest_size=6).digest(), "big") / 2**48
    return fraction * interval_s


def next_probe_at(node_id: str, interval_s: float, now: float) -> float:
    """Give the first instant after now that is the node's place."""
    offset = offset_s(node_id, interval_s)
    turn = floor((now - offset) / interval_s) + 1
    at = turn * interval_s + offset
    return at if at > now else at + interval_s
