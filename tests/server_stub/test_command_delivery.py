"""At least once delivered, once in effect: the server is killed at every place, the connection cut at any byte.

The oracle, after all is over: each command had one effect and has one outcome, the same in the server's database and
in the nanny's ledger, acknowledged; each of its states was told once. The node's end is the nanny's real ledger behind
a real session, dialling again for as long as it takes.

All bytes instead of a sample: `EVERY_BYTE=1 pytest tests/server_stub/test_command_delivery.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support.cutting_proxy import Direction, cutting_proxy
from tests.support.ledger_link import LedgerLink, ledger_link
from tests.support.server_lives import server_lives
from tests.support.server_peers import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from server_stub.main import RunningServer
    from tests.support.server_lives import ServerLives

    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
EVERY_BYTE = bool(os.environ.get("EVERY_BYTE"))
CUTS = 40
SEED = 20261121
MOST_PLACES = 100
STRIDE = {"sqlite": 1, "postgresql": 4}
"""Of the places at which the server falls every one, or every so many-th."""
PLACES = {
    "storing", "stored", "marked sent", "handed to the link", "frame written", "accepting", "accepted", "ending",
    "ended", "acknowledged",
}  # fmt: skip
COURSE = ["command.queued", "command.sent", "command.accepted", "command.done"]


async def order(client: Client, node_id: str, key: str) -> str:
    """Order a restart; the same one however often it is called with the same key."""
    body = {"kind": "restart", "reason": "a test", "actor": "tester", "target_incarnation": None}
    url = f"{client.url}/v1/nodes/{node_id}/commands"
    async with client.http.post(url, json=body, headers={"Idempotency-Key": key}) as response:
        assert response.status in {200, 202}, await response.text()
        answer = await response.json()
        return str(answer["id"])


async def judge(client: Client, link: LedgerLink, command_id: str) -> None:
    """Assert that both ends tell the same story of a command that is over."""
    command = await client.finished(command_id)
    kept = link.ledger.find_finished(command_id)
    courses = [
        (type_, said.get("detail"))
        for type_, node, said in await client.events(node=link.node_id)
        if said.get("command") == command_id
    ]

    assert link.effects.count(command_id) == 1
    assert kept is not None
    assert kept.acknowledged
    assert (command["state"], command["detail"]) == ("done", kept.detail)
    assert link.ledger.pending == ()
    told = [type_ for type_, _ in courses]
    # An outcome that overtakes a lost acceptance makes the acceptance old news: it is never told afterwards.
    assert told in (COURSE, [type_ for type_ in COURSE if type_ != "command.accepted"])
    assert courses[-1] == ("command.done", kept.detail)


# The connection


async def length_of_the_conversation(client: Client, port: int) -> dict[Direction, int]:
    async with (
        cutting_proxy(port) as proxy,
        asyncio.timeout(PATIENCE_S),
        ledger_link(lambda: proxy.url, "measure") as link,
    ):
        await link.established.wait()
        await link.acknowledged(await order(client, "measure", "measure"))
        return dict(proxy.passed)


def cuts_of(lengths: dict[Direction, int]) -> list[tuple[Direction, int]]:
    """Every byte of both directions, or a sample of them, the same each time."""
    every = [(direction, at) for direction in Direction for at in range(1, lengths[direction] + 1)]
    if EVERY_BYTE:
        return every
    return random.Random(SEED).sample(every, min(CUTS, len(every)))


@pytest.mark.timeout(3600 if EVERY_BYTE else 240)
@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
async def test_a_connection_cut_at_any_byte_loses_no_command_and_doubles_none(serve: Serve) -> None:
    async with serve(hello_timeout_s=10.0) as server, aiohttp.ClientSession() as http:
        client = Client(server.url, http)
        lengths = await length_of_the_conversation(client, server.port)
        for direction, at in cuts_of(lengths):
            node_id = f"cut-{direction.name}-{at}".lower()
            async with (
                cutting_proxy(server.port, direction, at) as proxy,
                asyncio.timeout(PATIENCE_S),
                ledger_link(lambda proxy=proxy: proxy.url, node_id) as link,  # type: ignore[misc]
            ):
                await link.established.wait()
                command_id = await order(client, node_id, node_id)
                await link.acknowledged(command_id)
                await judge(client, link, command_id)
        assert server.metrics.value("command_contradictions_total") == 0
        assert min(lengths.values()) > 100, "the conversation is worth cutting"


# The server


async def lived_through(lives: ServerLives, http: aiohttp.ClientSession, number: int) -> str | None:
    """Order in a server that falls at its `number`-th place, and judge in the next; gives the place, if it fell."""
    node_id = f"node-{number}"
    lives.door = None
    async with asyncio.timeout(PATIENCE_S), ledger_link(lambda: lives.door, node_id) as link:
        life = await lives.begin("--fault-point", f"after-{number}")
        lives.door = life.url
        command_id, place = None, None
        try:
            await until_there(link, life.fell)
            if not life.fell.done():
                command_id = await order(Client(life.url, http), node_id, node_id)
                await until_acknowledged(link, command_id, life.fell)
        except aiohttp.ClientError:
            await life.fell
        if life.fell.done():
            place = life.fell.result()
        else:
            await life.kill()
        lives.door = None
        life = await lives.begin()
        lives.door = life.url
        client = Client(life.url, http)
        await link.established.wait()
        again = await order(client, node_id, node_id)
        assert command_id in {None, again}, "what was answered is kept"
        await link.acknowledged(again)
        await judge(client, link, again)
        await life.kill()
        return place


async def until_there(link: LedgerLink, fell: asyncio.Future[str]) -> None:
    await first_of(link.established.wait(), fell)


async def until_acknowledged(link: LedgerLink, command_id: str, fell: asyncio.Future[str]) -> None:
    await first_of(link.acknowledged(command_id), fell)


async def first_of(waiting: Any, fell: asyncio.Future[str]) -> None:
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({task, fell}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
async def test_a_server_killed_at_any_place_loses_no_command_and_doubles_none(
    database_url: str, database_kind: str, tmp_path: Path
) -> None:
    places = []
    stride = STRIDE[database_kind]
    async with server_lives(tmp_path, database_url) as lives, aiohttp.ClientSession() as http:
        for number in range(1, MOST_PLACES, stride):
            place = await lived_through(lives, http, number)
            if place is None:
                break
            places.append(place)

    assert set(places) == PLACES if stride == 1 else len(places) > 1
    assert place is None, "the last server lived through it"


WITHDRAWN_AT = range(2, 9)
"""From before the command is stored until after its frame is written."""


@pytest.mark.timeout(240)
async def test_what_an_earlier_life_may_have_sent_is_not_taken_back(
    database_url: str, tmp_path: Path
) -> None:
    """Withdrawn and in effect is never both, wherever the server fell."""
    withdrawn = []
    async with server_lives(tmp_path, database_url) as lives, aiohttp.ClientSession() as http:
        for number in WITHDRAWN_AT:
            node_id = f"node-{number}"
            lives.door = None
            async with asyncio.timeout(PATIENCE_S), ledger_link(lambda: lives.door, node_id) as link:
                life = await lives.begin("--fault-point", f"after-{number}")
                lives.door = life.url
                await until_there(link, life.fell)
                with suppress(aiohttp.ClientError):
                    await order(Client(life.url, http), node_id, node_id)
                await life.fell
                lives.door = None
                life = await lives.begin()
                client = Client(life.url, http)
                listed = (await client.get("/v1/commands", node=node_id))["commands"]
                for command in listed:
                    async with http.delete(f"{life.url}/v1/commands/{command['id']}") as response:
                        withdrawn.append(response.status)
                lives.door = life.url
                await link.established.wait()
                for command in listed:
                    ended = await client.finished(command["id"])
                    in_effect = link.effects.count(command["id"])
                    assert (withdrawn[-1], ended["state"], in_effect) in {
                        (200, "superseded", 0),
                        (409, "done", 1),
                    }
                await life.kill()

    assert set(withdrawn) == {200, 409}
