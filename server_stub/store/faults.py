"""What went wrong with the database, in the two kinds that the server treats apart.

*Unavailable*: it does not answer, has no room, is shutting down; nothing of ours is at fault, the same work
may succeed later, and whether a commit that was under way has happened is not known. *Conflict*: another
writer was first, the transaction was undone whole and may be run again. All else is a bug and stays what it
was raised as. PostgreSQL's documentation, appendix A; https://sqlite.org/rescode.html
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError

_UNAVAILABLE_CLASSES: Final = frozenset({"08", "53", "57", "58"})
"""Connection, resources, operator's intervention (shutdown, cancel by a time-out), the server's own I/O."""
_UNAVAILABLE_STATES: Final = frozenset({"25P03", "25006", "28000", "28P01", "3D000", "55P03"})
"""Ended while idle in a transaction, read-only (a standby), credentials or the database gone, lock time-out."""
_CONFLICT_STATES: Final = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock."""
_UNAVAILABLE_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


class DatabaseUnavailable(Exception):  # noqa: N818 (what it is, not what it does)
    """The database does not answer now: log it, count it, go on, and try again later."""


def is_conflict(error: BaseException) -> bool:
    """Tell whether another writer was first, so that the transaction may be run again."""
    if isinstance(error, StaleDataError | IntegrityError):
        return True
    return isinstance(error, DBAPIError) and _sqlstate(error.orig) in _CONFLICT_STATES


def is_unavailable(error: BaseException | None) -> bool:
    """Tell whether this, as the driver raised it, is the database's state and not our request's fault."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or is_unavailable(error.orig)
    if isinstance(error, OSError | PoolTimeoutError):
        return True  # a TimeoutError is an OSError
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code; errors of the Python module itself carry none.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNAVAILABLE_CODES
    state = _sqlstate(error)
    return state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE_STATES


def in_one_line(error: BaseException) -> str:
    """Give what a person reads of it: what the driver said, without statement and parameters."""
    told: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        told = error.orig
    words = str(told).strip().splitlines()
    return f"{type(told).__name__}: {words[0]}" if words else type(told).__name__


def _sqlstate(error: BaseException | None) -> str:
    """Give PostgreSQL's code; SQLAlchemy's adapter keeps the driver's error as the cause of its own."""
    for one in (error, getattr(error, "__cause__", None)):
        state = getattr(one, "sqlstate", None)
        if isinstance(state, str):
            return state
    return ""
