"""What a node's /healthz said, as a class: the reading of one answer, and of one failure to get one.

An answer is ours if it is 200 or 503 with a JSON object that names a status. A status that we don't know, from
a body that has our shape (it names an incarnation, as all of ours do), is that of another version: a node that
lives and speaks, and isn't to be called unreachable. Anything else is a stranger at the node's address.
Knows no sockets.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import Any, Final

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from server_stub.core.node_facts import ProbeClass

WHERE_LIMIT: Final = 200

_OUR_FAULT: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)
_NO_ROUTE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one try came to."""

    result: ProbeClass
    status: str | None = None
    incarnation: Incarnation | None = None
    where: str | None = None


BAD_ANSWER: Final = Answer(ProbeClass.BAD_ANSWER)
TIMEOUT: Final = Answer(ProbeClass.TIMEOUT)
RESET: Final = Answer(ProbeClass.RESET)
DNS: Final = Answer(ProbeClass.DNS)


def classify(status_code: int, body: bytes, node_id: str) -> Answer:
    """Read an answer of /healthz: 200 or 503 with a JSON object that has a `status`."""
    try:
        content: Any = json.loads(body.decode())  # UTF-8 is all that JSON may be
    except (ValueError, RecursionError):
        return BAD_ANSWER
    if not isinstance(content, dict) or content.get("node_id", node_id) != node_id:
        return BAD_ANSWER
    incarnation = _incarnation(content.get("incarnation"))
    match status_code, content.get("status"):
        case 200, ("ok" | "starting" | "degraded") as status:
            return Answer(ProbeClass.OK, status, incarnation)
        case 503, "stalled":
            where = content.get("stalled_at")
            where = where[:WHERE_LIMIT] if isinstance(where, str) else None
            return Answer(ProbeClass.STALLED, "stalled", incarnation, where)
        case 503, "fallback":
            return Answer(ProbeClass.FALLBACK, "fallback", incarnation)
        case ((200 | 503), str(word)) if word not in _WORDS and incarnation is not None:
            return Answer(ProbeClass.VERSION, incarnation=incarnation, where=f"status {word[:50]!r}")
        case _:
            return BAD_ANSWER


_WORDS: Final = frozenset({"ok", "starting", "degraded", "stalled", "fallback"})


def _incarnation(told: object) -> Incarnation | None:
    if not isinstance(told, str):
        return None
    try:
        return Incarnation.parse(told)
    except ProtocolViolation:
        return None


def classify_error(number: int) -> Answer:
    """Read the error number with which a connection failed."""
    if number in _OUR_FAULT:
        return Answer(ProbeClass.SERVER_FAULT, where=errno.errorcode[number])
    if number in _NO_ROUTE:
        return Answer(ProbeClass.NO_ROUTE)
    if number == errno.ECONNREFUSED:
        return Answer(ProbeClass.REFUSED)
    return TIMEOUT if number == errno.ETIMEDOUT else RESET
