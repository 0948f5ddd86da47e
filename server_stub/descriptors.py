"""Whether the process may open as many descriptors as its fleet needs.

Each node takes one for its probe, each connection one, and some are for the rest: database, logs, clients of
the API. A server that finds out at night, node by node, that it has none left calls healthy nodes unknown;
so the arithmetic is done at the start. getrlimit(2), sysctl fs.nr_open.
"""

from __future__ import annotations

import resource
from typing import Final

RESERVE: Final = 256
"""For database, log, DNS, clients of the API."""


class TooFewDescriptors(Exception):  # noqa: N818 (what it is, not what it does)
    """The fleet does not fit into the limit; the message has the arithmetic."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and give it. Where even that is refused, what there is stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def places_for_nodes(limit: int, connections_limit: int) -> int:
    """Give how many nodes can be probed beside so many connections."""
    return max(0, limit - connections_limit - RESERVE)


def check(limit: int, nodes: int, connections_limit: int) -> None:
    """See whether a fleet fits.

    Raises:
        TooFewDescriptors: it doesn't.
    """
    needed = nodes + connections_limit + RESERVE
    if needed > limit:
        raise TooFewDescriptors(
            f"{nodes} known nodes to probe + {connections_limit} connections (connections_limit) + {RESERVE} for "
            f"the rest = {needed} descriptors, but this process may open {limit}: raise LimitNOFILE (ulimit -n) "
            f"to {needed}, or lower connections_limit to {max(0, limit - nodes - RESERVE)}"
        )
