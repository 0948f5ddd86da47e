"""The JSON that the API takes, as JSON Schema 2020-12: no field beside these, no value beyond these bounds.

What a schema cannot say, the request's own parser says in its problem document. Answers are in `schemas.py`.
https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.messages import CommandKind
from server_stub.brakes import LONGEST_LIFT_S
from server_stub.command_request import (
    MAX_ACTOR,
    MAX_INTEGER,
    MAX_NAME,
    MAX_NAMES,
    MAX_PARAMETER_TEXT,
    MAX_PARAMETERS,
    MAX_REASON,
    MAX_TIME_TO_LIVE_S,
)
from server_stub.maintenance import MAX_INSTANT
from server_stub.rollout_request import KINDS, MAX_HEALTH_TIMEOUT_S, MAX_NODES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Schema = dict[str, Any]

NO_NUL: Final = r"^[^\x00]*$"
"""PostgreSQL stores none."""


def text(limit: int) -> Schema:
    """Give the schema of a text that says something."""
    return {"type": "string", "minLength": 1, "maxLength": limit, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}


def above_zero(limit: float) -> Schema:
    """Give the schema of a duration in seconds."""
    return {"type": "number", "exclusiveMinimum": 0, "maximum": limit}


def closed(fields: Mapping[str, Schema], required: Collection[str] = ()) -> Schema:
    """Give the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": dict(fields),
        "required": list(required),
        "additionalProperties": False,
    }


_ORDER: Final[Mapping[str, Schema]] = {
    "kind": {"type": "string", "enum": [str(kind) for kind in CommandKind]},
    "reason": text(MAX_REASON),
    "actor": text(MAX_ACTOR),
    "time_to_live_s": above_zero(MAX_TIME_TO_LIVE_S),
    "target_incarnation": {
        "anyOf": [
            {"type": "null"},
            {
                "type": "string",
                "pattern": r"^(current|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[1-9][0-9]{0,9})$",
            },
        ],
        "description": "`current`, an incarnation as epoch/number, or null for any.",
    },
    "parameters": {
        "type": "object",
        "maxProperties": MAX_PARAMETERS,
        "propertyNames": {"minLength": 1, "maxLength": 128, "pattern": NO_NUL},
        "additionalProperties": {
            "anyOf": [
                {"type": ["null", "boolean"]},
                {"type": "string", "maxLength": MAX_PARAMETER_TEXT, "pattern": NO_NUL},
                {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
                {"type": "number"},
            ]
        },
    },
}
_SELECTION: Final[Mapping[str, Schema]] = {
    "nodes": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": NO_NUL},
        "minItems": 1,
        "maxItems": MAX_NAMES,
        "uniqueItems": True,
        "description": "Names or ids; this or `selector`.",
    },
    "selector": {
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "description": "Of labels, such as `rack=r1,gpu in (h200,b200)`; `*` is every node. This or `nodes`.",
    },
}
_NAME: Final = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_MAINTENANCE: Final[Mapping[str, Schema]] = {
    "on": {"type": "boolean", "default": True},
    "reason": text(MAX_REASON),
    "until": {
        "type": ["string", "null"],
        "format": "date-time",
        "maxLength": MAX_INSTANT,
        "description": "When it ends by itself, after now; null or absent: when somebody ends it.",
    },
    "actor": text(MAX_ACTOR),
}
_REASON_IF_ON: Final = {
    "anyOf": [{"required": ["reason"]}, {"required": ["on"], "properties": {"on": {"const": False}}}]
}
_EXACTLY_ONE: Final = {"oneOf": [{"required": ["nodes"]}, {"required": ["selector"]}]}

REQUEST_SCHEMAS: Final[Mapping[str, Schema]] = {
    "CommandOrder": closed(_ORDER, required=("kind", "reason")),
    "CommandsOrder": closed(
        {**_ORDER, **_SELECTION, "dry_run": {"type": "boolean"}}, required=("kind", "reason")
    )
    | _EXACTLY_ONE,
    "RolloutOrder": closed(
        {
            **{name: _ORDER[name] for name in ("reason", "actor", "time_to_live_s", "parameters")},
            **_SELECTION,
            "kind": {"type": "string", "enum": [str(kind) for kind in KINDS]},
            "concurrency": {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": MAX_NODES},
                    {"type": "string", "pattern": "^([1-9][0-9]?|100)%$"},
                ],
                "description": "A number of nodes, or a share of them.",
            },
            "failures_allowed": {"type": "integer", "minimum": 0, "maximum": MAX_NODES},
            "health_timeout_s": above_zero(MAX_HEALTH_TIMEOUT_S),
            "dry_run": {"type": "boolean"},
        },
        required=("reason",),
    )
    | _EXACTLY_ONE,
    "Abort": closed({"reason": text(MAX_REASON), "actor": text(MAX_ACTOR)}, required=("reason",)),
    "BrakeLift": closed(
        {"reason": text(MAX_REASON), "actor": text(MAX_ACTOR), "for_s": above_zero(LONGEST_LIFT_S)},
        required=("reason",),
    ),
    "MaintenanceOrder": closed(_MAINTENANCE) | _REASON_IF_ON,
    "MaintenanceOrderForMany": closed({**_MAINTENANCE, **_SELECTION}) | _REASON_IF_ON | _EXACTLY_ONE,
    "LabelsPatch": {
        "type": "object",
        "maxProperties": 128,
        "propertyNames": {
            "maxLength": 317,
            "pattern": f"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}$",
        },
        "additionalProperties": {"type": ["string", "null"], "maxLength": 63, "pattern": f"^({_NAME})?$"},
    },
}
"""By name."""
