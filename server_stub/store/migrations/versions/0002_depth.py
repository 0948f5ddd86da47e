"""The server's depth: maintenance, shards and labels of nodes; rollouts, evidence, repairs, brakes, sightings, sinks.

Commands lose their foreign key, so that the story of a deleted node stays. SQLite cannot change columns in
place: its tables are made anew and copied (`batch_alter_table`), which is safe with foreign keys on only
because no row refers to `nodes` at that moment; the order of the steps is that.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from server_stub.core.shards import shard_of

revision = "0002"
down_revision = "0001"

_NAMES = {"fk": "%(table_name)s_%(column_0_name)s_fkey"}
"""As PostgreSQL names what has no name; SQLite doesn't name them at all."""


def upgrade() -> None:
    """Change the tables of 0.1.0, then make the new ones."""
    _change_commands()
    _change_nodes()
    op.create_index("events_by_time", "events", ["wall_at"])
    _make_tables()


def _change_commands() -> None:
    with op.batch_alter_table("commands", naming_convention=_NAMES) as commands:
        commands.drop_constraint("commands_node_id_fkey", type_="foreignkey")
        commands.add_column(sa.Column("rollout_id", sa.String(36)))
        commands.add_column(sa.Column("batch_id", sa.String(36)))
    op.create_index("commands_by_node_and_state", "commands", ["node_id", "state"])
    op.create_index("ix_commands_rollout_id", "commands", ["rollout_id"])
    op.create_index("ix_commands_batch_id", "commands", ["batch_id"])


def _change_nodes() -> None:
    for column in (
        sa.Column("labels_set", sa.JSON()),
        sa.Column("maintenance_reason", sa.Text()),
        sa.Column("maintenance_by", sa.String(256)),
        sa.Column("maintenance_since_wall_at", sa.Double()),
        sa.Column("maintenance_until_wall_at", sa.Double()),
        sa.Column("shard", sa.Integer()),
    ):
        op.add_column("nodes", column)
    connection = op.get_bind()
    nodes = sa.table("nodes", sa.column("id"), sa.column("labels_set", sa.JSON), sa.column("shard"))
    for node_id in connection.scalars(sa.select(nodes.c.id)).all():
        changed = sa.update(nodes).where(nodes.c.id == node_id)
        connection.execute(changed.values(shard=shard_of(node_id), labels_set={}))
    with op.batch_alter_table("nodes") as table:
        table.alter_column("labels_set", existing_type=sa.JSON(), nullable=False)
        table.alter_column("shard", existing_type=sa.Integer(), nullable=False)
    op.create_index("ix_nodes_shard", "nodes", ["shard"])


def _make_tables() -> None:
    op.create_table(
        "brakes",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("since_wall_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("lifted_by", sa.String(length=256), nullable=True),
        sa.Column("lifted_until_wall_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "evidence",
        sa.Column("bundle_id", sa.String(length=128), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("wall_at", sa.Double(), nullable=False),
        sa.Column("incarnation", sa.String(length=160), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stalled_at", sa.Text(), nullable=False),
        sa.Column("signature", sa.String(length=64), nullable=False),
        sa.Column("stack", sa.JSON(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("wanted_wall_at", sa.Double(), nullable=True),
        sa.Column("file", sa.String(length=256), nullable=True),
        sa.PrimaryKeyConstraint("bundle_id", "node_id"),
    )
    op.create_index("evidence_by_node", "evidence", ["node_id", "wall_at"], unique=False)
    op.create_index("ix_evidence_signature", "evidence", ["signature"], unique=False)
    op.create_index("ix_evidence_wall_at", "evidence", ["wall_at"], unique=False)

    op.create_table(
        "repairs",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("wall_at", sa.Double(), nullable=False),
        sa.Column("incarnation", sa.String(length=160), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("is_dry_run", sa.Boolean(), nullable=False),
        sa.Column("command_id", sa.String(length=36), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_repairs_node_id", "repairs", ["node_id"], unique=False)
    op.create_index("ix_repairs_wall_at", "repairs", ["wall_at"], unique=False)

    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("time_to_live_s", sa.Double(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("failures_allowed", sa.Integer(), nullable=False),
        sa.Column("health_timeout_s", sa.Double(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=256), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_wall_at", sa.Double(), nullable=False),
        sa.Column("finished_wall_at", sa.Double(), nullable=True),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_rollouts_state", "rollouts", ["state"], unique=False)

    op.create_table(
        "sinks",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("delivered_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "rollout_steps",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("command_id", sa.String(length=36), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("began_wall_at", sa.Double(), nullable=True),
        sa.Column("finished_wall_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rollout_id", "position"),
    )
    op.create_table(
        "sightings",
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("probe_wall_at", sa.Double(), nullable=True),
        sa.Column("worker_wall_at", sa.Double(), nullable=True),
        sa.Column("link_wall_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id"),
    )
