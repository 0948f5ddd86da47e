"""The JSON that the API answers with, as JSON Schema 2020-12: what `/openapi.json` says and the tests hold it to.

An answer may gain fields between versions, so readers pass over what they do not know; the tests let no field
through that is not here. Requests are in `request_schemas.py`. Knows no route.
https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from server_stub.core.brakes import BrakeName
from server_stub.core.command_lifecycle import CommandState
from server_stub.core.node_facts import Word
from server_stub.core.rollout import RolloutState, StepState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number"}
INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {}
OBJECT: Final[Schema] = {"type": "object"}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
LABELS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}
UUID: Final[Schema] = {"type": "string", "format": "uuid"}


def nullable(schema: Schema) -> Schema:
    """Give a schema that null meets, too."""
    if "$ref" in schema or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def one_of(words: Iterable[str]) -> Schema:
    """Give the schema of a word that is one of these."""
    return {"type": "string", "enum": [str(word) for word in words]}


def ref(name: str) -> Schema:
    """Give a reference to a schema of this table."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(item: Schema) -> Schema:
    """Give the schema of a list."""
    return {"type": "array", "items": item}


def record(fields: Mapping[str, Schema], optional: Collection[str] = ()) -> Schema:
    """Give the schema of an object with these fields, all there but the optional ones."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": dict(fields), "required": required}


_VERDICT_REASON: Final[Mapping[str, Schema]] = {"code": TEXT, "detail": TEXT, "since": nullable(INSTANT)}
_AXIS: Final = record({"state": TEXT, "word": nullable(one_of(Word)), **_VERDICT_REASON})
_MAINTAINED: Final[Mapping[str, Schema]] = {
    "id": TEXT,
    "name": TEXT,
    "state": one_of(Word),
    "maintenance": nullable(ref("Maintenance")),
    "changed": FLAG,
}
_NODE_LINE: Final[Mapping[str, Schema]] = {
    "id": TEXT,
    "name": TEXT,
    "revision": COUNT,
    "state": one_of(Word),
    "state_reason": TEXT,
    "state_message": TEXT,
    "state_since": INSTANT,
    "lifecycle": TEXT,
    "reachability": TEXT,
    "health": TEXT,
    "unreachable": FLAG,
    "withheld": nullable(one_of(Word)),
    "maintenance": nullable(ref("Maintenance")),
    "clock_skew_s": nullable(SECONDS),
    "reasons": list_of(ref("Reason")),
    "incarnation": nullable(TEXT),
    "phase": nullable(TEXT),
    "last_restart": nullable(ref("LastRestart")),
    "loop_lag_s": nullable(SECONDS),
    "cpu": ANYTHING,
    "memory": ANYTHING,
    "gpus": ANYTHING,
    "connections": record({"link": nullable(ref("Connection")), "worker": nullable(ref("Connection"))}),
}

_NODE_PAGE: Final[Mapping[str, Schema]] = {
    **_NODE_LINE,
    "machine_id": TEXT,
    "first_seen": INSTANT,
    "registered": nullable(INSTANT),
    "registered_incarnation": nullable(TEXT),
    "address": nullable(TEXT),
    "healthz_port": COUNT,
    "software_version": TEXT,
    "labels": LABELS,
    "labels_set": LABELS,
    "capacity": OBJECT,
    "version": COUNT,
    "probe": nullable(
        record(
            {
                "result": TEXT,
                "status": nullable(TEXT),
                "at": INSTANT,
                "since": INSTANT,
                "incarnation": nullable(TEXT),
                "stalled_at": nullable(TEXT),
            }
        )
    ),
    "nanny": nullable(ref("NannyReport")),
    "worker": nullable(
        record(
            {
                "reported": nullable(INSTANT),
                "seq": COUNT,
                "loop_lag_s": nullable(SECONDS),
                "observed_generation": nullable(COUNT),
                "conditions": list_of(ref("Condition")),
                "telemetry": OBJECT,
            }
        )
    ),
}

_COMMAND: Final[Mapping[str, Schema]] = {
    "id": UUID,
    "node_id": TEXT,
    "rollout_id": nullable(TEXT),
    "batch_id": nullable(TEXT),
    "kind": TEXT,
    "state": one_of(CommandState),
    "is_finished": FLAG,
    "detail": TEXT,
    "reason": TEXT,
    "actor": TEXT,
    "target_incarnation": nullable(TEXT),
    "incarnation_after": nullable(TEXT),
    "parameters": OBJECT,
    "time_to_live_s": SECONDS,
    "created": INSTANT,
    "expires": INSTANT,
    "sent": nullable(INSTANT),
    "accepted": nullable(INSTANT),
    "finished": nullable(INSTANT),
    "took_s": nullable(SECONDS),
}

_ROLLOUT: Final[Mapping[str, Schema]] = {
    "id": UUID,
    "kind": TEXT,
    "state": one_of(RolloutState),
    "is_finished": FLAG,
    "detail": TEXT,
    "reason": TEXT,
    "actor": TEXT,
    "selector": nullable(TEXT),
    "parameters": OBJECT,
    "time_to_live_s": SECONDS,
    "concurrency": COUNT,
    "failures_allowed": COUNT,
    "health_timeout_s": SECONDS,
    "created": INSTANT,
    "finished": nullable(INSTANT),
    "nodes": COUNT,
    "ended": COUNT,
    "by_state": {"type": "object", "additionalProperties": COUNT},
}

_CHOSEN: Final = record(
    {"id": TEXT, "name": TEXT, "state": one_of(Word), "target_incarnation": nullable(TEXT)},
    optional={"target_incarnation"},
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Problem": record(
        {
            "type": {"type": "string", "format": "uri-reference"},
            "title": TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": TEXT,
        }
    ),
    "LastRestart": record(
        {
            "reason": TEXT,
            "at": INSTANT,
            "incarnation_before": nullable(TEXT),
            "incarnation_after": nullable(TEXT),
        }
    ),
    "Connection": record({"is_open": FLAG, "since": nullable(INSTANT), "heard": nullable(INSTANT)}),
    "Condition": record(
        {"type": TEXT, "status": TEXT, "reason": TEXT, "message": TEXT, "since": nullable(INSTANT)}
    ),
    "NannyReport": record(
        {
            "reported": INSTANT,
            "phase": TEXT,
            "phase_since": nullable(INSTANT),
            "desired": TEXT,
            "desired_by": TEXT,
            "desired_reason": TEXT,
            "desired_since": nullable(INSTANT),
            "incarnation": nullable(TEXT),
            "worker_state": TEXT,
            "loop_lag_s": nullable(SECONDS),
            "beat_age_s": nullable(SECONDS),
            "restarts": {"type": "object", "additionalProperties": COUNT},
            "next_step": TEXT,
            "next_step_at": nullable(INSTANT),
            "hold_until": nullable(INSTANT),
            "draining": FLAG,
            "journal_degraded": FLAG,
            "started": INSTANT,
            "version": TEXT,
            "conditions": list_of(ref("Condition")),
        }
    ),
    "Reason": record(_VERDICT_REASON),
    "Maintenance": record(
        {
            "reason": nullable(TEXT),
            "by": nullable(TEXT),
            "since": nullable(INSTANT),
            "until": nullable(INSTANT),
        }
    ),
    "Maintained": record(_MAINTAINED),
    "MaintainedNodes": record({"nodes": list_of(ref("Maintained"))}),
    "Explanation": record(
        {
            "id": TEXT,
            "name": TEXT,
            "state": one_of(Word),
            "state_message": TEXT,
            "state_since": INSTANT,
            "judged": one_of(Word),
            "reason": ref("Reason"),
            "axes": record(dict.fromkeys(("lifecycle", "reachability", "health"), _AXIS)),
            "evidence": list_of(
                record(
                    {
                        "axis": TEXT,
                        "source": TEXT,
                        "what": TEXT,
                        "at": nullable(INSTANT),
                        "since": nullable(INSTANT),
                    }
                )
            ),
            "would_change": list_of(record({"what": TEXT, "at": nullable(INSTANT)})),
            "next_steps": list_of(record({"what": TEXT, "why": TEXT, "at": nullable(INSTANT)})),
            "maintenance": nullable(ref("Maintenance")),
            "clock_skew_s": nullable(SECONDS),
        }
    ),
    "NodeLine": record(_NODE_LINE),
    "NodeList": record({"nodes": list_of(ref("NodeLine")), "revision": COUNT}),
    "NodePage": record(_NODE_PAGE),
    "NodeLabels": record({"id": TEXT, "name": TEXT, "labels": LABELS, "labels_set": LABELS}),
    "NodeDeleted": record({"deleted": FLAG, "id": TEXT, "name": TEXT}, optional={"deleted"}),
    "ConnectionClosed": record({"closed": FLAG}),
    "Command": record(_COMMAND),
    "CommandList": record({"commands": list_of(ref("Command")), "next": nullable(TEXT)}),
    "CommandsOrdered": {
        "anyOf": [
            record({"batch_id": nullable(TEXT), "count": COUNT, "commands": list_of(ref("Command"))}),
            record({"dry_run": FLAG, "count": COUNT, "nodes": list_of(_CHOSEN)}),
        ]
    },
    "RolloutLine": record(_ROLLOUT),
    "RolloutList": record({"rollouts": list_of(ref("RolloutLine")), "next": nullable(TEXT)}),
    "RolloutStep": record(
        {
            "position": COUNT,
            "node_id": TEXT,
            "node_name": nullable(TEXT),
            "state": one_of(StepState),
            "detail": TEXT,
            "command_id": nullable(TEXT),
            "began": nullable(INSTANT),
            "finished": nullable(INSTANT),
        }
    ),
    "RolloutPage": record(
        {**_ROLLOUT, "steps": list_of(ref("RolloutStep")), "revision": COUNT}, optional={"revision"}
    ),
    "RolloutOrdered": {
        "anyOf": [
            ref("RolloutPage"),
            record({"dry_run": FLAG, "concurrency": COUNT, "count": COUNT, "nodes": list_of(_CHOSEN)}),
        ]
    },
    "Brake": record(
        {
            "name": one_of(BrakeName),
            "is_on": FLAG,
            "since": nullable(INSTANT),
            "reason": TEXT,
            "lifted_by": nullable(TEXT),
            "lifted_until": nullable(INSTANT),
            "fleet": COUNT,
            "in_reach": COUNT,
            "turned": COUNT,
            "withheld": COUNT,
        },
        optional={"fleet", "in_reach", "turned", "withheld"},
    ),
    "BrakeList": record({"brakes": list_of(ref("Brake"))}),
    "Event": record(
        {
            "specversion": {"const": "1.0"},
            "id": TEXT,
            "source": {"type": "string", "format": "uri-reference"},
            "type": TEXT,
            "subject": TEXT,
            "time": INSTANT,
            "datacontenttype": TEXT,
            "data": OBJECT,
            "seq": COUNT,
            "nodename": TEXT,
        },
        optional={"subject", "nodename"},
    ),
    "EventList": record({"events": list_of(ref("Event")), "after": COUNT}),
    "Evidence": record(
        {
            "bundle": TEXT,
            "node_id": TEXT,
            "node": TEXT,
            "time": INSTANT,
            "incarnation": TEXT,
            "reason": TEXT,
            "stalled_at": nullable(TEXT),
            "signature": nullable(TEXT),
            "stack": TEXTS,
            "size_bytes": COUNT,
            "wanted": nullable(INSTANT),
            "is_here": FLAG,
        }
    ),
    "EvidenceList": record({"evidence": list_of(ref("Evidence"))}),
    "Hang": record(
        {
            "signature": TEXT,
            "stack": TEXTS,
            "stalled_at": nullable(TEXT),
            "reasons": TEXTS,
            "nodes": COUNT,
            "bundles": COUNT,
            "first_seen": INSTANT,
            "last_seen": INSTANT,
            "node_names": TEXTS,
        }
    ),
    "HangList": record({"hangs": list_of(ref("Hang"))}),
    "OpenApi": OBJECT,
    "BundleStored": record({"stored": FLAG}),
    "Livez": record({"status": TEXT}),
    "Readyz": record({"status": TEXT, "nodes": COUNT}),
}
"""By name."""
