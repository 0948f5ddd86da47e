"""How Alembic reaches the database: by the connection that `store.schema` hands over, in its transaction.

There is no ini file. For a new revision, from the repository's root:
`python -m server_stub.store.migrations NAME` writes the draft of one from what tables.py has and the newest
revision has not.
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
