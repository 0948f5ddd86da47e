"""The API against its own description: schemathesis sends what the description allows and what it forbids.

Every check of schemathesis is on: no 500, only documented statuses and content types, answers of their schema, bad
requests refused, good ones taken, methods that aren't there refused. The examples are the same in each run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig

from server_stub.api import ROUTES
from server_stub.openapi import openapi
from tests.support.served_api import ServedApi, served_api

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

EXAMPLES = 8
LONGEST_WAIT_S = 0.02

NOTHING_LEARNT = {"responses": False}

CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 8470,
        "generation": {
            "max-examples": EXAMPLES,
            "deterministic": True,
            "no-shrink": True,
            "database": "none",
        },
        "checks": {
            # What a schema cannot know: that there is no such node or event, or that all of it is too much.
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "404", "409", "410", "413", "422", "429"]
            },
            "negative_data_rejection": {"expected-statuses": ["400", "404", "405", "409", "413", "422"]},
        },
        "phases": {
            "stateful": {"enabled": False},
            # What was answered would go into the next examples: ids that are others in each run.
            "examples": {"extra-data-sources": NOTHING_LEARNT},
            "coverage": {
                "extra-data-sources": NOTHING_LEARNT,
                "generate-duplicate-query-parameters": True,
            },
            "fuzzing": {"extra-data-sources": NOTHING_LEARNT, "error-feedback": {"enabled": False}},
        },
    }
)
SCHEMA = schemathesis.openapi.from_dict(openapi(ROUTES), config=CONFIG)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    with served_api(tmp_path_factory.mktemp("api")) as served:
        yield served


@schemathesis.serializer("application/gzip")
def as_it_is(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@SCHEMA.parametrize()
def test_the_server_does_as_it_says(case: Any, api: ServedApi) -> None:
    do_not_wait(case)
    if case.meta.generation.mode.is_positive:
        ask_for_what_is_there(case, api)
    case.call_and_validate(base_url=api.url, timeout=60)


def do_not_wait(case: Any) -> None:
    """A wait that the server would grant is cut short; one that it has to refuse is asked for as it came."""
    wanted = str((case.query or {}).get("wait_s"))
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", wanted) and LONGEST_WAIT_S < float(wanted) <= 60:
        case.query["wait_s"] = LONGEST_WAIT_S


def ask_for_what_is_there(case: Any, api: ServedApi) -> None:
    """Each second allowed request names a node, command and brake that there are: else all would be 404."""
    names = case.path_parameters or {}
    there = {
        "node": "spare" if case.method == "DELETE" else "node-1",
        "command": api.command,
        "brake": "commands",
    }
    for name in names:
        if name in there and len(str(names[name])) % 2:
            names[name] = there[name]
