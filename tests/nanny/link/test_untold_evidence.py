"""Evidence of the time without a server is told once there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from nanny.link.bridge import Bridge
from nanny.link.config import LinkConfig
from nanny.link.counters import Counters


class Log:
    def info(self, *_: Any, **__: Any) -> None: ...

    warning = error = info


def push(number: int) -> dict[str, Any]:
    return {
        "push": "evidence",
        "bundle": f"20260501T120000.{number:06d}Z-7-stalled",
        "incarnation": "0190e09f-0000-7000-8000-00000000000a/7",
        "reason": "stalled",
        "size_bytes": 1,
    }


async def test_what_was_saved_while_the_server_was_away_is_told_when_it_is_back() -> None:
    sent: list[Any] = []
    bridge = Bridge(LinkConfig(), "machine", "1", Counters(), Log())  # type: ignore[arg-type]
    bridge.server = cast("Any", SimpleNamespace(send=sent.append, is_open=False))
    for number in range(100):
        bridge.nanny_pushed(push(number))
    before = len(sent)

    bridge.server = cast("Any", SimpleNamespace(send=sent.append, is_open=True))
    bridge.server_established(resumed=False)
    bridge.nanny_pushed(push(100))

    assert before == 0
    assert [one.bundle_id[16:22] for one in sent] == [f"{number:06d}" for number in (*range(36, 100), 100)]
