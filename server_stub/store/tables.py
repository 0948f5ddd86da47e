"""The tables: nodes and their sightings, commands and rollouts, events, evidence, repairs, brakes, sinks' cursors.

Wall-clock columns (`_wall_at`, seconds since 1970, the server's own clock) are for people and for what must
outlive the process; no decision about a node is made from them. `version_id` counts the changes of a row:
whoever writes says which version he read. Types are those that SQLite and PostgreSQL share. Holds no
queries.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from server_stub.store.columns import String, Text

_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER aliases SQLite's rowid


class Base(DeclarativeBase):
    """All tables of the server."""


class NodeRow(Base):
    """One node: who it is, where its worker can be reached, and its state as last judged."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    """Minted on the node at its first start."""
    name: Mapped[str] = mapped_column(String(256), index=True)
    machine_id: Mapped[str] = mapped_column(String(128))
    """Invariant: never changes. A second machine that claims the same id is a clone and is refused."""
    has_link: Mapped[bool] = mapped_column(default=False)
    first_seen_wall_at: Mapped[float]

    address: Mapped[str | None] = mapped_column(String(128), default=None)
    """Chosen by the worker; None until it has registered."""
    healthz_port: Mapped[int] = mapped_column(default=0)
    """0: it has none."""
    incarnation: Mapped[str | None] = mapped_column(String(160), default=None)
    software_version: Mapped[str] = mapped_column(String(64), default="")
    labels: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    """As the worker registered them."""
    labels_set: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    """As people set them: these stand before the node's own, and no registration touches them."""
    capacity: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    registered_wall_at: Mapped[float | None] = mapped_column(default=None)

    lifecycle: Mapped[str] = mapped_column(String(32))
    unreachable: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(32), index=True)
    state_reason: Mapped[str] = mapped_column(String(64))
    state_detail: Mapped[str] = mapped_column(Text, default="")
    state_message: Mapped[str] = mapped_column(Text, default="")
    """For people; holds since-times, never running durations."""
    state_since_wall_at: Mapped[float]
    maintenance_reason: Mapped[str | None] = mapped_column(Text, default=None)
    """None: it is not in maintenance, or was put there before reasons were kept."""
    maintenance_by: Mapped[str | None] = mapped_column(String(256), default=None)
    maintenance_since_wall_at: Mapped[float | None] = mapped_column(default=None)
    maintenance_until_wall_at: Mapped[float | None] = mapped_column(default=None)
    """None: until people end it."""
    shard: Mapped[int] = mapped_column(default=0, index=True)
    """`core.shards.shard_of(id)`: which part of the fleet it belongs to. Never changes."""
    version_id: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version_id}  # noqa: RUF012 (SQLAlchemy's way to say it)


class SightingRow(Base):
    """When a node was last seen, by each way; written in batches, and never a reason to change the node's row."""

    __tablename__ = "sightings"

    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True)
    probe_wall_at: Mapped[float | None] = mapped_column(default=None)
    """Arrival of its last answer to a probe, by the server's clock, as are the others."""
    worker_wall_at: Mapped[float | None] = mapped_column(default=None)
    link_wall_at: Mapped[float | None] = mapped_column(default=None)


class CommandRow(Base):
    """One command and where it stands."""

    __tablename__ = "commands"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """UUIDv7: sorts by time of creation."""
    node_id: Mapped[str] = mapped_column(String(128))
    """No foreign key: the story of a deleted node stays."""
    rollout_id: Mapped[str | None] = mapped_column(String(36), default=None, index=True)
    """Of the rollout that made it."""
    batch_id: Mapped[str | None] = mapped_column(String(36), default=None, index=True)
    """Of the first command that the same request made, if it named a selection of nodes."""
    kind: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(256))
    target_incarnation: Mapped[str | None] = mapped_column(String(160), default=None)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    time_to_live_s: Mapped[float]
    idempotency_key: Mapped[str | None] = mapped_column(String(256), unique=True, default=None)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """Of the request: the same key with another request is refused."""

    state: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text, default="")
    incarnation_after: Mapped[str | None] = mapped_column(String(160), default=None)
    created_wall_at: Mapped[float]
    expires_wall_at: Mapped[float]
    """Used only by a server process that was not there at the creation."""
    sent_wall_at: Mapped[float | None] = mapped_column(default=None)
    accepted_wall_at: Mapped[float | None] = mapped_column(default=None)
    finished_wall_at: Mapped[float | None] = mapped_column(default=None)
    version_id: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version_id}  # noqa: RUF012 (SQLAlchemy's way to say it)
    __table_args__ = (
        Index("commands_by_node", "node_id", "id"),
        Index("commands_by_node_and_state", "node_id", "state"),
        Index("commands_by_state", "state"),
    )


class RolloutRow(Base):
    """One command for many nodes, a few at a time."""

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(256))
    selector: Mapped[str] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    time_to_live_s: Mapped[float]
    concurrency: Mapped[int]
    failures_allowed: Mapped[int] = mapped_column(default=0)
    health_timeout_s: Mapped[float]
    """So long a node may take to be READY again after its command is done."""
    idempotency_key: Mapped[str | None] = mapped_column(String(256), unique=True, default=None)
    fingerprint: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(32), index=True)
    detail: Mapped[str] = mapped_column(Text, default="")
    created_wall_at: Mapped[float]
    finished_wall_at: Mapped[float | None] = mapped_column(default=None)
    version_id: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version_id}  # noqa: RUF012 (SQLAlchemy's way to say it)


class RolloutStepRow(Base):
    """One node's turn in a rollout."""

    __tablename__ = "rollout_steps"

    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    node_id: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(32))
    command_id: Mapped[str | None] = mapped_column(String(36), default=None)
    detail: Mapped[str] = mapped_column(Text, default="")
    began_wall_at: Mapped[float | None] = mapped_column(default=None)
    finished_wall_at: Mapped[float | None] = mapped_column(default=None)


class EvidenceRow(Base):
    """The summary of one evidence bundle of a node, and whether the bundle itself is here."""

    __tablename__ = "evidence"

    bundle_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    wall_at: Mapped[float] = mapped_column(index=True)
    """When its summary arrived."""
    incarnation: Mapped[str] = mapped_column(String(160))
    reason: Mapped[str] = mapped_column(Text)
    stalled_at: Mapped[str] = mapped_column(Text, default="")
    signature: Mapped[str] = mapped_column(String(64), default="", index=True)
    """Of the stack that hung, normalised; empty if there is none."""
    stack: Mapped[list[str]] = mapped_column(JSON, default=list)
    """Innermost frame first, as `module:function`."""
    size_bytes: Mapped[int]
    wanted_wall_at: Mapped[float | None] = mapped_column(default=None)
    """Since when somebody has asked for the bundle."""
    file: Mapped[str | None] = mapped_column(String(256), default=None)
    """Name in the evidence directory, once it is here whole."""

    __table_args__ = (Index("evidence_by_node", "node_id", "wall_at"),)


class RepairRow(Base):
    """One repair that was ordered, or would have been; what the budgets count."""

    __tablename__ = "repairs"

    id: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True, autoincrement=True)
    node_id: Mapped[str] = mapped_column(String(128), index=True)
    wall_at: Mapped[float] = mapped_column(index=True)
    incarnation: Mapped[str | None] = mapped_column(String(160), default=None)
    reason: Mapped[str] = mapped_column(Text)
    is_dry_run: Mapped[bool] = mapped_column(default=True)
    command_id: Mapped[str | None] = mapped_column(String(36), default=None)

    __table_args__ = ({"sqlite_autoincrement": True},)


class BrakeRow(Base):
    """A brake that is on, or that people have lifted for a while."""

    __tablename__ = "brakes"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    is_on: Mapped[bool] = mapped_column(default=False)
    since_wall_at: Mapped[float]
    reason: Mapped[str] = mapped_column(Text, default="")
    lifted_by: Mapped[str | None] = mapped_column(String(256), default=None)
    lifted_until_wall_at: Mapped[float | None] = mapped_column(default=None)


class SinkRow(Base):
    """How far a sink of events has come."""

    __tablename__ = "sinks"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    delivered_seq: Mapped[int] = mapped_column(BigInteger, default=0)


class EventRow(Base):
    """Something that happened, written in the transaction of the change itself. Never updated."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True, autoincrement=True)
    """Grows in the order of the commits: there is one writer at a time (`postgresql.py` says how)."""
    wall_at: Mapped[float]
    type: Mapped[str] = mapped_column(String(64))
    node_id: Mapped[str | None] = mapped_column(String(128), default=None, index=True)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)

    __table_args__ = (Index("events_by_time", "wall_at"), {"sqlite_autoincrement": True})
