"""Which part of the fleet a node belongs to: a fixed number from its id.

Replicas take shards, not nodes, so that a fleet is divided without a list. One server has them all. Knows no
replica.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

SHARDS: Final = 64
"""So many parts; never changes, since rows carry their part."""
ALL_SHARDS: Final = frozenset(range(SHARDS))


def shard_of(node_id: str) -> int:
    """Give the node's shard, in [0, SHARDS)."""
    return int.from_bytes(blake2b(node_id.encode(), digest_size=4).digest(), "big") % SHARDS
