"""An event as others read it: CloudEvents 1.0 in JSON, with the number in the log as the extension `seq`.

Source and id together name an event for ever: the id holds the number and the time at which it was appended,
so that a log begun anew repeats none. Knows neither HTTP nor the database.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from server_stub.events import TYPE_PREFIX

if TYPE_CHECKING:
    from server_stub.store.events import LoggedEvent

SOURCE: Final = "urn:nodenanny:server"

CloudEvent = dict[str, Any]


def cloud_event(event: LoggedEvent) -> CloudEvent:
    """Give the event as a JSON object; subject is the node's id, and there is none for events of the fleet."""
    rendered: CloudEvent = {
        "specversion": "1.0",
        "id": f"{int(event.wall_at * 1000):x}-{event.seq}",
        "source": SOURCE,
        "type": TYPE_PREFIX + event.type,
        "time": _rfc3339(event.wall_at),
        "datacontenttype": "application/json",
        "data": event.detail,
        "seq": event.seq,
    }
    if event.node_id is not None:
        rendered["subject"] = event.node_id
    if event.node_name is not None:
        rendered["nodename"] = event.node_name
    return rendered


def short_type(type_: str) -> str:
    """Give a type, or the beginning of one, without the prefix that it may have."""
    return type_.removeprefix(TYPE_PREFIX)


def _rfc3339(wall_at: float) -> str:
    at = datetime.fromtimestamp(wall_at, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
