"""1,000 of 10,000 nodes change their state in one round: until it is durable, on SQLite and on PostgreSQL.

Ours is the round's own statement with its events in one transaction; the plain design commits each node by itself.
PostgreSQL is a private cluster with its defaults of durability, SQLite has `synchronous=FULL`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from benchmarks.figures import Effort, Figure, measured, most
from server_stub.core.node_facts import Word
from server_stub.fleet import known_nodes
from server_stub.fleet.plan import FleetPlan
from server_stub.store import nodes, sightings
from server_stub.store.engine import Database, sqlite_url
from server_stub.store.nodes import StateChange
from server_stub.store.sightings import Sighting
from server_stub.store.tables import NodeRow
from tests.support import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_stub.store.nodes import NodeRecord

NODES: Final = 10_000
FLIPPED: Final = 1_000
DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"}
PORTS: Final = {0: {"steady": 1, "failing": 1, "refusing": 1}}


def measure(effort: Effort) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="nodenanny-flips-") as folder:
        yield from _on("SQLite", sqlite_url(str(Path(folder) / "flips.sqlite3")), effort)
    line = "1,000 of 10,000 nodes flip in one round, PostgreSQL"
    if postgres.installed() is None:
        yield Figure(line, "ms", words="PostgreSQL is not installed")
        return
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.running_cluster(**DURABLE))
        yield from _on("PostgreSQL", cluster.url("postgres"), effort)


def _on(database: str, url: str, effort: Effort) -> Iterator[Figure]:
    effort.tell(database)
    ours, plain, reading, seen = uvloop.run(_times(url, effort.count(15, 5), effort.count(3, 1)))
    line = f"{FLIPPED:,} of {NODES:,} nodes flip in one round, {database}"
    yield measured(line, "ms", ours, 1e3, limits=(most(200),), words="none lost")
    yield measured(line, "ms", plain, 1e3, whose="plain design", words="one transaction a node")
    yield measured(f"reading {NODES:,} nodes, {database}", "ms", reading, 1e3)
    yield measured(f"last-seen times of {NODES:,} nodes in one batch, {database}", "ms", seen, 1e3)


async def _times(url: str, rounds: int, plain_rounds: int) -> tuple[list[float], ...]:
    await known_nodes.write(url, FleetPlan(nodes=NODES, are_known=True), PORTS)
    database = await Database.open(url)
    try:
        ours: list[float] = []
        plain: list[float] = []
        reading: list[float] = []
        seen: list[float] = []
        for number in range(rounds):
            began_at = time.perf_counter()
            async with database.reading() as session:
                records = await nodes.read(session)
            reading.append(time.perf_counter() - began_at)
            changes = [_flipped(record, number) for record in records[:: NODES // FLIPPED]]
            began_at = time.perf_counter()
            async with database.writing() as session:
                won = await nodes.store_verdicts(session, changes, time.time())
            ours.append(time.perf_counter() - began_at)
            assert len(won) == FLIPPED, f"{FLIPPED - len(won)} updates were lost"
            began_at = time.perf_counter()
            wall_at = time.time()
            async with database.writing() as session:
                await sightings.store(
                    session, [Sighting(one.id, wall_at, wall_at, wall_at) for one in records]
                )
            seen.append(time.perf_counter() - began_at)
            await asyncio.sleep(0.05)
        for number in range(plain_rounds):
            began_at = time.perf_counter()
            for record in records[:: NODES // FLIPPED]:
                async with database.writing() as session:
                    row = await session.get_one(NodeRow, record.id)
                    row.state, row.state_message = _word(number), f"flipped {number}"
            plain.append(time.perf_counter() - began_at)
        return ours, plain, reading, seen
    finally:
        await database.close()


def _word(number: int) -> str:
    return (Word.UNREACHABLE, Word.READY)[number % 2]


def _flipped(record: NodeRecord, number: int) -> StateChange:
    """The change to the other word, whatever columns a change has."""
    known: dict[str, Any] = {
        "state": _word(number),
        "state_reason": "ProbeFailed" if number % 2 == 0 else "Ready",
        "state_detail": "probe: refused" if number % 2 == 0 else "",
        "state_message": f"probe: refused (since 2026-01-01T00:00:{number:02d}Z)",
        "state_since_wall_at": time.time(),
        "unreachable": number % 2 == 0,
        "state_before": record.state,
    }
    names = [one.name for one in fields(StateChange)]
    return StateChange(**{name: known[name] if name in known else getattr(record, name) for name in names})
