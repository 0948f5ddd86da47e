"""The API's description, made from the route table: OpenAPI 3.1, served at `/openapi.json`.

Whatever a route declares is here, and nothing else: parameters, bodies, answers, and each problem with its
status. WebSocket endpoints are not of its world. Knows no request.
https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from server_stub.event_stream import MEDIA_TYPE as EVENT_STREAM
from server_stub.problems import STATUS
from server_stub.request_schemas import NO_NUL, REQUEST_SCHEMAS
from server_stub.schemas import SCHEMAS, Schema, ref

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from server_stub.routing import Parameter, Route

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PROBLEM_TYPE: Final = "application/problem+json"

_PATH_NAME: Final = re.compile(r"\{(\w+)\}")
_PATH_PARAMETERS: Final[Mapping[str, str]] = {
    "node": "A node's name or id.",
    "command": "A command's id.",
    "rollout": "A rollout's id.",
    "brake": "`demotions` or `commands`.",
    "bundle": "An evidence bundle's name.",
}
_NOT_FOUND: Final[Mapping[str, str]] = {
    "node": "no-such-node",
    "command": "no-such-command",
    "rollout": "no-such-rollout",
    "brake": "no-such-brake",
    "bundle": "no-such-bundle",
}
ALWAYS: Final = ("malformed", "forbidden", "internal", "database-unavailable")
"""Problems that any route may meet."""


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    """Give the document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not is_websocket(route):
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "nodenanny server",
            "summary": "Nodes, their workers' lives, commands and events.",
            "version": _version(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": {**SCHEMAS, **REQUEST_SCHEMAS}},
    }


def is_websocket(route: Route) -> bool:
    """Tell whether the route answers by an upgrade."""
    return route.statuses == (101,)


def problem_codes(route: Route) -> tuple[str, ...]:
    """Give the codes of all problems that the route may answer with, each once."""
    codes = [*ALWAYS, *(_NOT_FOUND[name] for name in _PATH_NAME.findall(route.path)), *route.problems]
    if route.query is not None or route.headers or route.body is not None:
        codes.append("invalid")
    if any(parameter.name == "wait_s" for parameter in route.query or ()):
        codes.append("too-many-waiters")
    if route.body is not None:
        codes.append("body-too-large")
    return tuple(dict.fromkeys(codes))


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler,
        "summary": route.answers,
        "parameters": [
            *(
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "description": _PATH_PARAMETERS[name],
                    "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": NO_NUL},
                }
                for name in _PATH_NAME.findall(route.path)
            ),
            *(_parameter(one, "query") for one in route.query or ()),
            *(_parameter(one, "header") for one in route.headers),
        ],
        "responses": _responses(route),
    }
    if route.body is not None:
        content = {"application/json": {"schema": ref(route.body)}}
        if route.body_type != "application/json":
            content = {route.body_type: {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    schema = dict(parameter.schema)
    if where == "query" and schema.get("type") == "string" and "format" not in schema:
        schema.setdefault("pattern", NO_NUL)
    return {
        "name": parameter.name,
        "in": where,
        "required": False,
        "description": parameter.description,
        "schema": schema,
    }


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": route.answers, "content": _content(route)} for status in route.statuses
    }
    by_status: dict[int, list[str]] = {}
    for code in problem_codes(route):
        by_status.setdefault(STATUS[code][0], []).append(code)
    for status, codes in sorted(by_status.items()):
        said = "; ".join(f"`{code}`: {STATUS[code][1]}" for code in codes)
        responses[str(status)] = {
            "description": said,
            "content": {PROBLEM_TYPE: {"schema": ref("Problem")}},
        }
    return responses


def _content(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media_type in route.content_types:
        schema: Schema = {"type": "string"}
        if media_type == "application/json":
            schema = {} if route.response is None else ref(route.response)
        elif media_type != EVENT_STREAM and not media_type.startswith("text/"):
            schema = {"type": "string", "format": "binary"}
        content[media_type] = {"schema": schema}
    return content


def _version() -> str:
    try:
        return version("nodenanny")
    except PackageNotFoundError:
        return "0"
