"""The rows of a fleet that a server knows from before: written before it starts, as a restart would find them.

For simulations that are about probing: to register ten thousand nodes one by one takes minutes, and is a load
of its own. The rows say READY, since that is what a quiet fleet is; the server finds out for itself.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from server_stub.core.node_facts import Lifecycle, Word
from server_stub.core.shards import shard_of
from server_stub.fleet.node import CAPACITY, VERSION, identity, incarnation_of, labels
from server_stub.fleet.plan import Behaviour, address, share_of
from server_stub.store.engine import Database
from server_stub.store.tables import NodeRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from server_stub.fleet.plan import FleetPlan

ROWS_AT_A_TIME: Final = 2000


async def write(database_url: str, plan: FleetPlan, ports: Mapping[int, Mapping[str, int]]) -> None:
    """Write all nodes of a plan.

    Args:
        database_url: of a server that is not running.
        plan: the fleet.
        ports: the doors' ports by the process's number.
    """
    database = await Database.open(database_url)
    try:
        rows = list(_rows(plan, ports))
        for at in range(0, len(rows), ROWS_AT_A_TIME):
            async with database.writing() as session:
                session.add_all(rows[at : at + ROWS_AT_A_TIME])
    finally:
        await database.close()


def _rows(plan: FleetPlan, ports: Mapping[int, Mapping[str, int]]) -> Iterator[NodeRow]:
    wall_at = time.time()
    for number in range(plan.processes):
        for one in share_of(plan, number):
            door = "refusing" if one.behaviour is Behaviour.REFUSING else "failing" if one.fails else "steady"
            yield NodeRow(
                id=identity(one.index),
                name=identity(one.index),
                machine_id=f"machine-of-{identity(one.index)}",
                has_link=one.is_connected,
                first_seen_wall_at=wall_at,
                address=address(one.index),
                healthz_port=ports[number][door],
                incarnation=str(incarnation_of(plan.run, one.index, 1)),
                software_version=VERSION,
                labels=labels(one.index),
                capacity=dict(CAPACITY),
                registered_wall_at=wall_at,
                lifecycle=Lifecycle.ACTIVE,
                state=Word.READY,
                state_reason="Ready",
                state_message="was READY before this server started",
                state_since_wall_at=wall_at,
                shard=shard_of(identity(one.index)),
            )
