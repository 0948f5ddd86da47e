"""The schema: made, upgraded from every version that was ever released, and refused where it is not ours to touch."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import inspect, text

from server_stub.core.shards import shard_of
from server_stub.store import commands, nodes, schema
from server_stub.store.engine import Database
from server_stub.store.schema import HEAD, SchemaRefused
from server_stub.store.tables import Base
from tests.support.postgres import BARE

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from tests.support.postgres import Cluster

GOLDEN = Path(__file__).parents[2] / "golden" / "server" / "0.1.0.sql"


@pytest.fixture
async def empty_url(cluster: Cluster | None, tmp_path: Path) -> str:
    """A database without any table."""
    return f"sqlite:///{tmp_path}/empty.sqlite3" if cluster is None else await cluster.stripped(BARE)


@pytest.fixture
async def url_of_0_1_0(cluster: Cluster | None, empty_url: str, tmp_path: Path) -> str:
    """A database as 0.1.0 left it. It knew SQLite alone; on PostgreSQL the same rows stand in the same schema."""
    dump = GOLDEN.read_text(encoding="utf-8")
    if cluster is None:
        connection = sqlite3.connect(tmp_path / "empty.sqlite3")
        connection.execute("PRAGMA journal_mode=WAL")  # as that server did; a dump doesn't say it
        connection.executescript(dump)
        connection.close()
        return empty_url
    for statement in as_postgresql(dump):
        await cluster.execute(statement, BARE)
    return empty_url


def as_postgresql(dump: str) -> list[str]:
    """Translate what sqlite3 dumps: parents before children, booleans and types by their names there."""
    dump = dump.replace("seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "seq BIGSERIAL PRIMARY KEY")
    dump = dump.replace(" DOUBLE", " DOUBLE PRECISION")
    statements = [part.strip() for part in re.split(r";\n", dump) if "sqlite_sequence" not in part]
    by_kind: dict[str, list[str]] = {"CREATE TABLE": [], "INSERT": [], "CREATE INDEX": []}
    for statement in statements:
        kind = next((kind for kind in by_kind if statement.startswith(kind)), None)
        if kind is not None:
            by_kind[kind].append(statement)
    order = ["nodes", "commands", "events"]
    by_kind["CREATE TABLE"].sort(key=lambda one: order.index(one.split()[2]))
    by_kind["INSERT"].sort(key=lambda one: order.index(one.split('"')[1]))
    booleans = [
        re.sub(r"^(INSERT INTO \"nodes\" VALUES\('[^']*','[^']*','[^']*',)([01])", r"\1\2::boolean", one)
        for one in by_kind["INSERT"]
    ]
    inserts = [re.sub(r",'(active|maintenance)',([01]),", r",'\1',\2::boolean,", one) for one in booleans]
    renumber = "SELECT setval('events_seq_seq', (SELECT max(seq) FROM events))"
    return [*by_kind["CREATE TABLE"], *inserts, *by_kind["CREATE INDEX"], renumber]


async def look(database: Database, see: Any) -> Any:
    async with database.engine.connect() as connection:
        return await connection.run_sync(see)


def differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))


async def test_the_migrations_make_what_the_models_say(empty_url: str) -> None:
    database = await Database.open(empty_url)

    assert await look(database, differences) == []
    await database.close()


async def test_the_golden_database_of_0_1_0_becomes_what_the_models_say_and_keeps_its_rows(
    url_of_0_1_0: str,
) -> None:
    database = await Database.open(url_of_0_1_0)

    assert await look(database, differences) == []
    async with database.reading() as session:
        records = {record.id: record for record in await nodes.read(session)}
        restart = await commands.find(session, "0199-1")
        drain = await commands.find(session, "0199-2")
        told = (await session.execute(text("SELECT seq, type, node_id FROM events ORDER BY seq"))).all()
        shards = {row.id: row.shard for row in await session.execute(text("SELECT id, shard FROM nodes"))}
    a = records["node-a"]
    assert (a.labels, a.capacity, a.healthz, a.version_id) == (
        {"zone": "ä 1"},
        {"gpus": 8},
        ("10.0.0.1", 8000),
        3,
    )
    assert {node_id: record.state for node_id, record in records.items()} == {
        "node-a": "READY",
        "node-b": "MAINTENANCE",
        "node-c": "UNREACHABLE",
    }
    assert (records["node-b"].lifecycle, records["node-c"].unreachable) == ("maintenance", True)
    assert restart is not None
    assert drain is not None
    assert (restart.state, restart.idempotency_key, restart.parameters) == ("done", "key-1", {"grace_s": 3})
    assert (drain.state, drain.kind, drain.node_id) == ("queued", "drain", "node-b")
    assert [seq for seq, _, _ in told] == list(range(1, 12))
    assert told[-1] == (11, "command.done", "node-a")
    assert shards == {node_id: shard_of(node_id) for node_id in records}

    # New events go on after the old ones, and the story of a deleted node stays.
    async with database.writing() as session:
        await session.execute(text("DELETE FROM nodes WHERE id = 'node-b'"))
        await session.execute(text("INSERT INTO events (wall_at, type, detail) VALUES (1, 'x', '{}')"))
    async with database.reading() as session:
        assert await session.scalar(text("SELECT max(seq) FROM events")) == 12
        assert await commands.find(session, "0199-2") == drain
    await database.close()


async def test_an_upgrade_that_fails_leaves_all_as_it_was(
    url_of_0_1_0: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    make_table = op.create_table

    def fail_late(name: str, *rest: Any, **more: Any) -> Any:
        if name == "sightings":
            raise ZeroDivisionError
        return make_table(name, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(op, "create_table", fail_late)
        with pytest.raises(ZeroDivisionError):
            await Database.open(url_of_0_1_0)

    with monkeypatch.context() as patched:
        patched.setattr(schema, "upgrade", lambda _connection: None)
        as_before = await Database.open(url_of_0_1_0)
    tables = await look(as_before, lambda connection: set(inspect(connection).get_table_names()))
    await as_before.close()
    assert tables == {"nodes", "commands", "events"}

    upgraded = await Database.open(url_of_0_1_0)
    assert await look(upgraded, differences) == []
    await upgraded.close()


async def test_two_servers_that_start_at_once_upgrade_it_once(url_of_0_1_0: str) -> None:
    opened = await asyncio.gather(*(Database.open(url_of_0_1_0) for _ in range(4)))

    async with opened[-1].reading() as session:
        assert (await session.scalars(text("SELECT version_num FROM alembic_version"))).all() == [HEAD]
    for database in opened:
        await database.close()


async def test_a_schema_of_a_newer_server_is_refused_and_left_alone(empty_url: str) -> None:
    database = await Database.open(empty_url)
    async with database.writing() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaRefused, match=rf"revision 9999.*newer server.*up to {HEAD}"):
        await Database.open(empty_url)

    async with database.reading() as session:
        assert await session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    await database.close()


async def test_tables_of_our_names_without_a_version_are_refused_unless_they_are_those_of_0_1_0(
    empty_url: str,
) -> None:
    database = await Database.open(empty_url)
    async with database.writing() as session:
        await session.execute(text("DROP TABLE alembic_version"))
    await database.close()

    with pytest.raises(SchemaRefused, match="no schema revision: brakes, commands"):
        await Database.open(empty_url)


def test_the_head_that_the_server_knows_is_the_newest_script() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(schema.SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_numbers_of_events_and_repairs_are_never_used_again_on_sqlite(tmp_path: Path) -> None:
    asyncio.run(open_and_close(f"sqlite:///{tmp_path}/x.sqlite3"))

    with sqlite3.connect(tmp_path / "x.sqlite3") as connection:
        made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    connection.close()
    assert {name for name, sql in made.items() if "AUTOINCREMENT" in (sql or "")} == {"events", "repairs"}


async def open_and_close(url: str) -> None:
    await (await Database.open(url)).close()


def test_alembic_is_imported_only_when_there_is_something_to_do(tmp_path: Path) -> None:
    program = (
        "import asyncio, json, sys\n"
        "from server_stub.store.engine import Database\n"
        "async def main():\n"
        "    await (await Database.open(sys.argv[1])).close()\n"
        "asyncio.run(main())\n"
        "print(json.dumps('alembic' in sys.modules))\n"
    )

    def imports_alembic() -> bool:
        ended = subprocess.run(
            [sys.executable, "-c", program, f"sqlite:///{tmp_path}/x.sqlite3"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        return bool(json.loads(ended.stdout))

    assert [imports_alembic(), imports_alembic()] == [True, False]
