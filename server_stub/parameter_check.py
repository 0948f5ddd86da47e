"""What a request says in path and query, held against what its route declares: the same words that clients read.

A parameter that the route doesn't know is refused, and so is one that comes twice: a misspelt filter must not
give the unfiltered answer. Understands the part of JSON Schema that declarations of `Parameter` use. What only a
route knows (is there such a node?) it checks itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from server_stub.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from server_stub.routing import Parameter, Route

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?")


def check(request: web.Request, route: Route) -> None:
    """Return if path and query are such as the route declares.

    Raises:
        Problem: `malformed`: there is a NUL, or what is no Unicode; `invalid`, naming the parameter.
    """
    for name, text in [*request.match_info.items(), *request.query.items()]:
        if not _is_text(name) or not _is_text(text):
            raise Problem("malformed", "path and query are UTF-8 without NUL")
    if route.query is None:
        return
    known = {parameter.name: parameter for parameter in route.query}
    for name in request.query:
        if name not in known:
            there_are = f"there are {', '.join(known)}" if known else "there are none"
            raise Problem("invalid", f"{name[:64]}: no such parameter; {there_are}", field=name[:64])
        if len(request.query.getall(name)) > 1:
            raise Problem("invalid", f"{name}: it came more than once", field=name)
        _check_one(known[name], request.query[name])
    for parameter in route.headers:
        if parameter.name in request.headers:
            _check_one(parameter, request.headers[parameter.name])


def _check_one(parameter: Parameter, text: str) -> None:
    expected = expectation(parameter.schema, text)
    if expected is not None:
        raise Problem("invalid", f"{parameter.name}: expected {expected}", field=parameter.name)


def expectation(schema: Mapping[str, Any], text: str) -> str | None:
    """Give what was expected in the place of this text, None if it is as the schema says."""
    if "enum" in schema:
        return None if text in schema["enum"] else f"one of {', '.join(schema['enum'])}"
    match schema.get("type"):
        case "integer" | "number":
            return _expected_number(schema, text)
        case _:
            low, high = schema.get("minLength", 0), schema.get("maxLength", 8192)
            if not low <= len(text) <= high:
                return f"{low} to {high} characters"
            if "pattern" in schema and not re.search(schema["pattern"], text):
                return f"text that matches {schema['pattern']}"
            return None


def _expected_number(schema: Mapping[str, Any], text: str) -> str | None:
    is_whole = schema["type"] == "integer"
    low, high = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
    shape = _INTEGER if is_whole else _NUMBER
    value = (int if is_whole else float)(text) if shape.fullmatch(text) else None
    if value is not None and low <= value <= high:
        return None
    return f"a {'whole number' if is_whole else 'number'} from {low} to {high}"


def _is_text(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
