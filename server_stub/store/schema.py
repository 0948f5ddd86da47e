"""The schema's version, and the way there from any earlier one.

At each start the database is brought up to `HEAD` within one transaction of the one writer, so two servers
that start at once do it once, and a failure leaves what was there. A database of 0.1.0, which kept no
version, is known by its tables. One that a newer server has changed is refused: old code would write rows
that the new one cannot read. Alembic is imported only when there is something to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

HEAD: Final = "0002"
"""Invariant: the newest file in `migrations/versions`."""
FIRST: Final = "0001"
SCRIPTS: Final = Path(__file__).parent / "migrations"

_VERSION_TABLE: Final = "alembic_version"
_TABLES_OF_FIRST: Final = frozenset({"nodes", "commands", "events"})
_OURS: Final = _TABLES_OF_FIRST | {"sightings", "rollouts", "evidence", "repairs", "brakes", "sinks"}


class SchemaRefused(Exception):  # noqa: N818 (what it is, not what it does)
    """This database is not this server's to work on: the message says why and what helps."""


def upgrade(connection: Connection) -> None:
    """Bring the schema up to date, within the connection's transaction.

    Raises:
        SchemaRefused: a newer server has changed it, or its tables are not ours.
    """
    tables = set(inspect(connection).get_table_names())
    versions = _versions(connection) if _VERSION_TABLE in tables else set()
    if versions == {HEAD}:
        return
    from alembic import command  # noqa: PLC0415 (only when there is something to do)
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if versions - known:
        newer = ", ".join(sorted(versions - known))
        raise SchemaRefused(
            f"its schema is of revision {newer}, made by a newer server; this one knows up to {HEAD}: "
            "start the newer one, or restore the copy from before its upgrade"
        )
    if not versions and tables & _OURS:
        if tables & _OURS != _TABLES_OF_FIRST:
            unexpected = ", ".join(sorted(tables & _OURS))
            raise SchemaRefused(f"it has tables of these names and no schema revision: {unexpected}")
        command.stamp(config, FIRST)
    command.upgrade(config, "head")


def _versions(connection: Connection) -> set[str]:
    return set(connection.scalars(text(f"SELECT version_num FROM {_VERSION_TABLE}")))  # noqa: S608 (a constant)
