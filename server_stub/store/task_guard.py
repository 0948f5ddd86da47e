"""Two rules of sessions, held at run time: one task each, and no network inside.

A session that two tasks share interleaves their statements in one transaction; a network call inside a
transaction holds the one writer's turn for as long as the slowest node likes. Neither fails by itself, so
both are asked about where it costs nothing: every statement asks whether it runs in the task that opened
its session, and what speaks to nodes calls `outside_transactions` first. Both are bugs: AssertionError.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN_IN: Final[ContextVar[asyncio.Task[Any] | None]] = ContextVar("task with an open session", default=None)
"""A context is copied to the tasks that it starts, so the task is named: its children are outside."""


def outside_transactions(what: str) -> None:
    """Call before any wait for the network.

    Raises:
        AssertionError: this task has a session open.
    """
    opened_in = _OPEN_IN.get()
    if opened_in is not None and opened_in is asyncio.current_task():
        raise AssertionError(f"{what} inside a database session")


@contextmanager
def session_open() -> Iterator[None]:
    """Mark that the running task has a session for as long as the block lasts.

    Raises:
        AssertionError: it has one already. The second would wait for the first one's transaction for ever.
    """
    outside_transactions("a second session")
    before = _OPEN_IN.set(asyncio.current_task())
    try:
        yield
    finally:
        _OPEN_IN.reset(before)


class OwnedSession(Session):
    """A session that only the task that made it may use."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.owner = asyncio.current_task()


def _check_owner(session: OwnedSession, *_: object) -> None:
    if asyncio.current_task() is not session.owner:
        raise AssertionError("a database session is used by a task that did not open it")


def _check_statement(state: Any) -> None:
    _check_owner(state.session)


event.listen(OwnedSession, "do_orm_execute", _check_statement)
event.listen(OwnedSession, "before_flush", _check_owner)
event.listen(OwnedSession, "before_commit", _check_owner)
