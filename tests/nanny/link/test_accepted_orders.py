"""What the server is told of an order that the nanny has taken: only what a power failure can't take back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nanny.common.log_lines import LogLines
from nanny.link.bridge import Bridge
from nanny.link.config import LinkConfig
from nanny.link.counters import Counters
from nanny.protocol.messages import CommandAccepted
from tests.support.link_server import order

PATIENCE_S = 30.0


@pytest.mark.parametrize(
    ("told", "is_accepted"), [({"durable": True}, True), ({"durable": False}, False), ({}, True)]
)
async def test_an_order_is_accepted_at_the_server_once_a_disk_has_it(
    told: dict[str, Any], is_accepted: bool
) -> None:
    """A nanny that says nothing of it is an older one."""
    sent: list[object] = []
    is_asked = asyncio.Event()

    async def request(_name: str, _timeout_s: float = 0.0, **fields: Any) -> dict[str, Any]:
        is_asked.set()
        return {"command_id": fields["command_id"], "state": "accepted", **told}

    is_connected = asyncio.Event()
    is_connected.set()
    log = LogLines(lambda _line: None, "link", lambda: 0.0)
    bridge = Bridge(LinkConfig(), "machine", "1", Counters(), log)
    bridge.nanny = cast("Any", SimpleNamespace(request=request, connected=is_connected))
    bridge.server = cast("Any", SimpleNamespace(send=sent.append, read_on=lambda **_: None))
    taken = order("collect-evidence")
    bridge.server_said(taken)
    carrying = asyncio.create_task(bridge._carry_orders())
    async with asyncio.timeout(PATIENCE_S):
        await is_asked.wait()
    for _ in range(10):
        await asyncio.sleep(0)  # the answer is there: nothing is waited for
    assert len(bridge.orders) == 0
    carrying.cancel()
    await asyncio.gather(carrying, return_exceptions=True)

    assert sent == ([CommandAccepted(taken.command_id)] if is_accepted else [])
