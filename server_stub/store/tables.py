"""The tables: nodes, commands, events.

Wall-clock columns (`_wall_at`, seconds since 1970, the server's own clock) are for people and for what must
outlive the process; no decision about a node is made from them. `version_id` counts the changes of a row:
whoever writes says which version he read. Types are those that SQLite and PostgreSQL share. Holds no
queries.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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
    version_id: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version_id}  # noqa: RUF012 (SQLAlchemy's way to say it)


class CommandRow(Base):
    """One command and where it stands."""

    __tablename__ = "commands"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """UUIDv7: sorts by time of creation."""
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
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
    __table_args__ = (Index("commands_by_node", "node_id", "id"), Index("commands_by_state", "state"))


class EventRow(Base):
    """Something that happened, written in the transaction of the change itself. Never updated."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True, autoincrement=True)
    """Grows in the order of the commits on SQLite, which has one writer at a time."""
    wall_at: Mapped[float]
    type: Mapped[str] = mapped_column(String(64))
    node_id: Mapped[str | None] = mapped_column(String(128), default=None, index=True)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)

    __table_args__ = ({"sqlite_autoincrement": True},)
