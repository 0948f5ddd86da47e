"""What every route is made of: its line in the table, what it may use, and how it reads a request.

A subject's routes are a class in `server_stub/routes/` with its lines in `ROUTES` and a method for each. Bad
input is a problem document that names the field, the value's bounds and nothing else of the server.
RFC 9110, RFC 9457.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from server_stub.core.node_facts import Word
from server_stub.problems import Problem
from server_stub.store import nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aiohttp import web
    from structlog.typing import FilteringBoundLogger

    from server_stub.arrivals import ArrivalsByNode
    from server_stub.authorisation import Authorisation, Permission
    from server_stub.brakes import Brakes
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.commands import Commands
    from server_stub.evidence import Evidence
    from server_stub.links import Links
    from server_stub.metrics import Metrics
    from server_stub.repairs import Repairs
    from server_stub.rollouts import Rollouts
    from server_stub.store.engine import Database
    from server_stub.store.nodes import NodeRecord
    from server_stub.syncer import Syncer
    from server_stub.views import Views

BODY_TIMEOUT_S: Final = 10.0
LONGEST_WAIT_S: Final = 60.0
LIST_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that a request may say beside its path and body."""

    name: str
    schema: Mapping[str, Any]
    """JSON Schema of its value."""
    description: str


LIMIT: Final = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT, "default": 100},
    "How many entries at most.",
)
WAIT_S: Final = Parameter(
    "wait_s",
    {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT_S, "default": 0},
    "Wait so many seconds for what is asked for, then answer in any case.",
)
REVISION: Final = Parameter(
    "revision",
    {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    "With `wait_s`: until the revision is another than this one, which an answer gave.",
)


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the API, described as far as `/openapi.json` says it to clients."""

    method: str
    path: str
    permission: Permission
    answers: str
    """For the documentation."""
    handler: str
    """Name of the method of the class that has this line."""
    query: tuple[Parameter, ...] | None = None
    """All that it knows: a request with another, or with one twice, is refused. None: not described."""
    headers: tuple[Parameter, ...] = ()
    body: str | None = None
    """Name of the schema of the JSON that it takes, in `schemas.SCHEMAS`; None: it takes no body."""
    body_type: str = "application/json"
    response: str | None = None
    """Name of the schema of its answer, in `schemas.SCHEMAS`; None: not JSON."""
    statuses: tuple[int, ...] = (200,)
    """With which it answers what it was asked."""
    problems: tuple[str, ...] = ()
    """Codes of `problems.STATUS` that are its own; those that any route may meet are not named."""
    content_types: tuple[str, ...] = ("application/json",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What routes may use; each takes what it needs."""

    database: Database
    arrivals: ArrivalsByNode
    syncer: Syncer
    brakes: Brakes
    repairs: Repairs
    commands: Commands
    rollouts: Rollouts
    evidence: Evidence
    links: Links
    changes: Changes
    views: Views
    authorisation: Authorisation
    clock: Clock
    log: FilteringBoundLogger
    metrics: Metrics


class Routes:
    """The routes of one subject."""

    ROUTES: ClassVar[tuple[Route, ...]] = ()

    def __init__(self, services: Services) -> None:
        self.services = services

    async def find_node(self, request: web.Request) -> NodeRecord:
        """Give the node that the path names by name or id.

        Raises:
            Problem: `no-such-node`.
        """
        name = request.match_info["node"]
        async with self.services.database.reading() as session:
            record = await nodes.find(session, name)
        if record is None:
            raise Problem("no-such-node", f"no node, or more than one, is called {name[:128]!r}")
        return record


async def json_body(request: web.Request, *also: str) -> Any:
    """Give the body's JSON; `also` are media types that it may have beside application/json.

    Raises:
        Problem: `malformed`: it isn't JSON, came too slowly, or says a name twice.
    """
    if request.content_type not in {"application/json", *also}:
        raise Problem("malformed", "expected a body of Content-Type application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise Problem("malformed", f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    try:
        return json.loads(body, object_pairs_hook=_without_repeated_names)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed", f"the body is not JSON: {str(error)[:200]}") from None


def _without_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what readers of JSON read differently: an order must not be one thing here and another in a log."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def wait_s_of(request: web.Request) -> float:
    """Give the seconds that the client would wait, 0 if it does not say.

    Raises:
        Problem: `invalid`.
    """
    text = request.query.get("wait_s", "0")
    is_number = text.isascii() and text.replace(".", "", 1).isdecimal() and len(text) <= 20
    wait_s = float(text) if is_number else -1.0
    if not 0.0 <= wait_s <= LONGEST_WAIT_S:
        raise Problem("invalid", f"wait_s: expected seconds from 0 to {LONGEST_WAIT_S:g}", field="wait_s")
    return wait_s


def integer_of(
    request: web.Request, name: str, default: int | None, low: int, high: int = 2**63 - 1
) -> int | None:
    """Give a whole number of the query.

    Raises:
        Problem: `invalid`.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or not low <= int(text) <= high:
        raise Problem("invalid", f"{name}: expected a whole number from {low} to {high}", field=name)
    return int(text)


def limit_of(request: web.Request) -> int:
    """Give how many entries of a list the client wants, 100 if it does not say.

    Raises:
        Problem: `invalid`.
    """
    return integer_of(request, "limit", 100, 1, LIST_LIMIT) or LIST_LIMIT


def choice_of(request: web.Request, name: str, choices: Collection[str], default: str) -> str:
    """Give a word of the query that is one of several.

    Raises:
        Problem: `invalid`.
    """
    text = request.query.get(name, default)
    if text not in choices:
        raise Problem("invalid", f"{name}: expected one of {', '.join(choices)}", field=name)
    return text


def instant_of(request: web.Request, name: str) -> float | None:
    """Give an instant of the query as seconds since 1970; RFC 3339, so it names its offset.

    Raises:
        Problem: `invalid`.
    """
    text = request.query.get(name)
    if text is None:
        return None
    try:
        # A bare "+" of an offset arrives as a space: RFC 3339 has no other use for one here.
        at = datetime.fromisoformat(text.replace(" ", "+")) if len(text) <= 40 else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        example = "2026-11-21T14:02:11Z"
        raise Problem("invalid", f"{name}: expected an instant such as {example}", field=name)
    return at.timestamp()


def words_of(request: web.Request) -> frozenset[str]:
    """Give the node states that the client waits for.

    Raises:
        Problem: `invalid`.
    """
    words = frozenset(filter(None, request.query.get("until", "").split(",")))
    if not words <= set(Word):
        raise Problem("invalid", f"until: expected words of {', '.join(Word)}", field="until")
    return words
