"""PostgreSQL by asyncpg: bounded in connections, in time, and in what a lost peer can hold.

Readers get REPEATABLE READ, READ ONLY: one state for as long as the session lasts, as on SQLite. A writer's
transaction begins with an advisory lock that all servers on this database share, so there is one writer at a
time:

- Event numbers then grow in the order of the commits, and whoever reads "all after seq" misses nothing.
  (Numbers drawn by overlapping transactions become visible out of order. The alternatives: number events
  after the commit, which needs a second pass and a crash between; or hide events younger than the oldest
  running transaction, which lets one long transaction stop all readers.)
- No deadlocks and no serialization failures among our own writers, hence one behaviour on both databases.
- It costs the overlap of commits: one fsync at a time, a few hundred to a few thousand small transactions a
  second. Rounds and sightings are one statement each, so the bound is far away (docs/scaling.md).

A writer that fell silent within its transaction (a frozen process, a lost network) would hold that lock for
ever: the database ends it after IDLE_IN_TRANSACTION_S, and TCP keepalives find a vanished peer. Client-side
time-outs bound what the server-side ones can't: a database that no longer answers at all.
https://www.postgresql.org/docs/current/runtime-config-client.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

POOL_SIZE: Final = 5
POOL_OVERFLOW: Final = 10
POOL_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 10.0
"""Of one statement, the wait for the writers' lock too."""
ANSWER_TIMEOUT_S: Final = 12.0
"""Without any answer for so long the connection is given up; above STATEMENT_TIMEOUT_S, which is gentler."""
IDLE_IN_TRANSACTION_S: Final = 10.0
MIGRATION_TIMEOUT_S: Final = 3600.0
APPLICATION_NAME: Final = "nodenanny-server"
WRITERS_LOCK: Final = 0x6E6F64656E6E7901
"""Advisory lock "nodenny", 1: whoever writes, and whoever changes the schema."""

_KEEPALIVE: Final = {
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def make_engine(url: URL, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> AsyncEngine:
    """Give an engine for the server's work; its connections are asked for a sign of life before each use."""
    return _make_engine(
        url,
        statement_timeout_s,
        statement_timeout_s + ANSWER_TIMEOUT_S - STATEMENT_TIMEOUT_S,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
    )


def make_migration_engine(url: URL) -> AsyncEngine:
    """Give an engine for a change of the schema, which may take its time, on one connection."""
    return _make_engine(url, MIGRATION_TIMEOUT_S, MIGRATION_TIMEOUT_S, poolclass=NullPool)


def _make_engine(url: URL, statement_timeout_s: float, answer_timeout_s: float, **pool: Any) -> AsyncEngine:
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": answer_timeout_s,
            "server_settings": {
                "application_name": APPLICATION_NAME,
                "statement_timeout": str(int(statement_timeout_s * 1000)),
                "idle_in_transaction_session_timeout": str(int(IDLE_IN_TRANSACTION_S * 1000)),
                "timezone": "UTC",
                **_KEEPALIVE,
            },
        },
        isolation_level="READ COMMITTED",
        **pool,
    )
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


READING: Final = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("nodenanny_writes", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")
