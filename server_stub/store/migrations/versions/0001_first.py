"""The schema of 0.1.0: nodes, commands, events. Frozen: databases with rows in it exist.

A change of tables.py goes into the newest revision that is not released, or a new one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables as 0.1.0 did."""
    op.create_table(
        "events",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("wall_at", sa.Double(), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_node_id"), "events", ["node_id"], unique=False)
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("machine_id", sa.String(length=128), nullable=False),
        sa.Column("has_link", sa.Boolean(), nullable=False),
        sa.Column("first_seen_wall_at", sa.Double(), nullable=False),
        sa.Column("address", sa.String(length=128), nullable=True),
        sa.Column("healthz_port", sa.Integer(), nullable=False),
        sa.Column("incarnation", sa.String(length=160), nullable=True),
        sa.Column("software_version", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("capacity", sa.JSON(), nullable=False),
        sa.Column("registered_wall_at", sa.Double(), nullable=True),
        sa.Column("lifecycle", sa.String(length=32), nullable=False),
        sa.Column("unreachable", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("state_reason", sa.String(length=64), nullable=False),
        sa.Column("state_detail", sa.Text(), nullable=False),
        sa.Column("state_message", sa.Text(), nullable=False),
        sa.Column("state_since_wall_at", sa.Double(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_nodes_name"), "nodes", ["name"], unique=False)
    op.create_index(op.f("ix_nodes_state"), "nodes", ["state"], unique=False)
    op.create_table(
        "commands",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("target_incarnation", sa.String(length=160), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("time_to_live_s", sa.Double(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=256), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("incarnation_after", sa.String(length=160), nullable=True),
        sa.Column("created_wall_at", sa.Double(), nullable=False),
        sa.Column("expires_wall_at", sa.Double(), nullable=False),
        sa.Column("sent_wall_at", sa.Double(), nullable=True),
        sa.Column("accepted_wall_at", sa.Double(), nullable=True),
        sa.Column("finished_wall_at", sa.Double(), nullable=True),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("commands_by_node", "commands", ["node_id", "id"], unique=False)
    op.create_index("commands_by_state", "commands", ["state"], unique=False)
