"""How Alembic reaches the database: by the connection that `store.schema` hands over, in its transaction.

There is no ini file and no command line: servers upgrade at their start. A revision is written by hand, and
tests/server_stub/store/test_migrations.py prints what tables.py has that the revisions have not.
https://alembic.sqlalchemy.org/en/latest/api/runtime.html
"""

from __future__ import annotations

from alembic import context

from server_stub.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
