"""Who is let in when a whole fleet dials at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import aiohttp
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.protocol.messages import Registered, Role
from server_stub.admission import LATEST_S, PATIENCE_S, SOONEST_S, Admission
from tests.support.server_peers import Client, Peer, registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer

    Peers = Callable[..., Peer]


def test_as_many_as_there_are_places_are_let_in_and_the_next_one_is_told_when() -> None:
    admission = Admission(3)

    waits = [admission.enter(number, 0.0, lambda: 0.5) for number in range(4)]

    assert waits[:3] == [None, None, None]
    assert waits[3] is not None
    assert SOONEST_S <= waits[3] <= LATEST_S


def test_whoever_has_arrived_or_gone_makes_room_once() -> None:
    admission = Admission(1)
    assert admission.enter("one", 0.0, lambda: 0.5) is None
    admission.arrived("one", 0.1)
    admission.arrived("one", 0.2)
    assert admission.enter("two", 0.3, lambda: 0.5) is None
    assert admission.arriving == 1


def test_whoever_says_nothing_keeps_nobody_out_for_long() -> None:
    admission = Admission(2)
    admission.enter("silent", 0.0, lambda: 0.5)
    admission.enter("mute", 0.0, lambda: 0.5)

    assert admission.enter("late", PATIENCE_S - 0.1, lambda: 0.5) is not None
    assert admission.enter("later", PATIENCE_S + 0.1, lambda: 0.5) is None


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(100, 1000), st.integers(0, 2**32))
def test_a_fleet_that_dials_at_once_is_all_in_at_the_pace_of_the_server(
    places: int, nodes: int, seed: int
) -> None:
    """One is served at a time, in 10 ms; who was sent away comes when told. Nobody waits beyond his patience."""
    admission, chance = Admission(places), Random(seed)
    dials = [(0.0, number) for number in range(nodes)]
    served_until, longest_s = 0.0, 0.0
    in_line: list[tuple[float, int]] = []
    tries = 0
    while dials:
        dials.sort()
        now, number = dials.pop(0)
        tries += 1
        while in_line and in_line[0][0] <= now:
            ended_at, served = in_line.pop(0)
            admission.arrived(served, ended_at)
        wait_s = admission.enter(number, now, chance.random)
        if wait_s is None:
            served_until = max(served_until, now) + 0.01
            longest_s = max(longest_s, served_until - now)
            in_line.append((served_until, number))
        else:
            dials.append((now + wait_s, number))

    assert longest_s <= places * 0.01 + 0.001
    assert tries <= 40 * nodes
    assert served_until <= 10.0 + 20 * nodes * 0.01


async def test_a_busy_server_sends_newcomers_away_and_takes_them_later(
    client: Client, server: RunningServer, peers: Peers
) -> None:
    server.links.admission.limit = 1
    async with client.http.ws_connect(f"{client.url}/v1/link"):  # says nothing, and takes the only place
        for role in ("link", "worker"):
            async with client.http.get(f"{client.url}/v1/{role}") as refused:
                assert (refused.status, float(refused.headers["Retry-After"]) >= 1) == (503, True)
    async with asyncio.timeout(30):
        while True:
            worker = peers(Role.WORKER, "node-2")
            with suppress(aiohttp.WSServerHandshakeError):
                await worker.connect()
                break
            await asyncio.sleep(0.05)
    await worker.send(registration(0))
    await worker.expect(Registered)

    assert server.metrics.value("connections_refused_total", reason="busy") >= 2
    assert server.links.admission.arriving == 0
