"""Link's end of the control socket against nannies that come, go, hang and talk nonsense."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nanny.common.log_lines import LogLines
from nanny.link.control_client import LINE_LIMIT_BYTES, ControlClient, NannyUnreachable, RequestRefused
from nanny.link.counters import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATIENCE_S = 30.0

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


class Client:
    """A control client under test and what it told."""

    def __init__(self, path: str) -> None:
        self.counters = Counters()
        self.pushes: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self.nanny = ControlClient(
            path,
            on_connected=self.statuses.append,
            on_push=self.take_push,
            on_lost=self.lost.append,
            counters=self.counters,
            log=LogLines(lambda _: None, "link", lambda: 0.0),
        )

    def take_push(self, message: dict[str, Any]) -> None:
        if message["push"] == "poison":
            raise KeyError("poison")
        self.pushes.append(message)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110  (a state of the client, which tells nobody)
                await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(path: str) -> AsyncIterator[Client]:
    client = Client(path)
    running = asyncio.create_task(client.nanny.run())
    try:
        yield client
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def nanny(serve: Serve) -> AsyncIterator[str]:
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()

    with tempfile.TemporaryDirectory(prefix="nl") as folder:
        path = str(Path(folder) / "control.sock")
        listener = await asyncio.start_unix_server(accept, path, limit=1 << 20)
        try:
            yield path
        finally:
            listener.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            await listener.wait_closed()


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def answer_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while request := await reader.readline():
        asked = json.loads(request)
        writer.write(line({"push": "seen", "do": asked["do"]}))
        writer.write(line({"id": asked["id"], "ok": True, "result": {"echo": asked}}))


async def test_requests_are_answered_and_pushes_delivered() -> None:
    async with nanny(answer_everything) as path, client_of(path) as client:
        await client.nanny.connected.wait()

        answers = await asyncio.gather(*(client.nanny.request("status", n=n) for n in range(20)))

    assert [answer["echo"]["n"] for answer in answers] == list(range(20))
    assert client.pushes[0] == {"push": "seen", "do": "subscribe"}
    assert len(client.pushes) == 21


async def test_it_connects_again_and_subscribes_anew_each_time() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        writer.write(line({"id": asked["id"], "ok": True, "result": {"node_id": "n"}}))
        await writer.drain()

    async with nanny(serve) as path, client_of(path) as client:
        await client.until(lambda: len(client.statuses) >= 3)

    assert client.counters.nanny_connections_total >= 3
    assert client.counters.nanny_disconnects["lost"] >= 2


async def test_what_was_asked_when_the_connection_broke_fails_at_once() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        writer.write(line({"id": asked["id"], "ok": True, "result": {}}))
        await reader.readline()

    async with nanny(serve) as path, client_of(path) as client:
        await client.nanny.connected.wait()
        with pytest.raises(NannyUnreachable):
            await client.nanny.request("status", timeout_s=PATIENCE_S)


async def test_a_nanny_that_does_not_answer_loses_its_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        writer.write(line({"id": asked["id"], "ok": True, "result": {}}))
        while await reader.readline():
            pass

    async with nanny(serve) as path, client_of(path) as client:
        await client.nanny.connected.wait()
        with pytest.raises(NannyUnreachable, match="no answer to status within"):
            await client.nanny.request("status", timeout_s=0.1)
        assert not client.nanny.connected.is_set()
        await client.until(lambda: len(client.statuses) == 2)
        assert "no answer to status within" in client.lost[0]


async def test_without_a_nanny_a_request_fails_at_once() -> None:
    async with client_of("/nonexistent/control.sock") as client:
        with pytest.raises(NannyUnreachable):
            await client.nanny.request("status")
        await client.until(lambda: client.counters.nanny_disconnects.get("connect", 0) >= 3)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"not json\n",
        b"[1, 2]\n",
        b"\n",
        b"x" * (2 * LINE_LIMIT_BYTES + 2),
        b'{"id": 1, "ok": tr',
        b"[" * 100_000 + b"\n",
    ],
    ids=["garbage", "list", "empty", "endless", "torn", "deep"],
)
async def test_nonsense_costs_the_connection_and_no_more(nonsense: bytes) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 2:
            await answer_everything(reader, writer)
        await reader.readline()
        writer.write(nonsense)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with nanny(serve) as path, client_of(path) as client:
        async with asyncio.timeout(PATIENCE_S):
            await client.nanny.connected.wait()
        assert client.counters.nanny_disconnects == {"lost": 2}


async def test_an_answer_to_nothing_that_was_asked_is_passed_over() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(
            b'{"id":[1],"ok":true}\n{"id":{},"ok":false}\n{"id":"1","ok":true}\n{"id":77,"ok":true}\n'
        )
        writer.write(b'{"id":1,"ok":true,"result":{}}\n')
        await answer_everything(reader, writer)

    async with nanny(serve) as path, client_of(path) as client:
        async with asyncio.timeout(PATIENCE_S):
            await client.nanny.connected.wait()
        assert client.counters.nanny_disconnects == {}


async def test_a_push_that_is_not_understood_is_counted_and_passed_over() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(line({"push": "poison"}))
        await answer_everything(reader, writer)

    async with nanny(serve) as path, client_of(path) as client:
        await client.nanny.connected.wait()
        assert client.counters.pushes_refused_total == 1


@pytest.mark.parametrize(("told", "is_passing"), [({}, False), ({"retry": True}, True)])
async def test_a_refusal_says_whether_it_may_pass(told: dict[str, bool], is_passing: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        writer.write(line({"id": asked["id"], "ok": True, "result": {}}))
        asked = json.loads(await reader.readline())
        writer.write(line({"id": asked["id"], "ok": False, "error": "no", **told}))
        await reader.read()

    async with nanny(serve) as path, client_of(path) as client:
        await client.nanny.connected.wait()
        with pytest.raises(RequestRefused, match="no") as caught:
            await client.nanny.request("command")
        assert caught.value.is_passing is is_passing


async def test_a_request_that_the_nanny_would_drop_us_for_is_not_sent() -> None:
    async with nanny(answer_everything) as path, client_of(path) as client:
        await client.nanny.connected.wait()
        with pytest.raises(RequestRefused):
            await client.nanny.request("command", reason="x" * 70_000)
        assert await client.nanny.request("status")
        assert client.lost == []


async def test_the_reason_of_a_nanny_that_turns_us_away_is_told() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(line({"id": None, "ok": False, "error": "uid 12 may not use this socket"}))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with nanny(serve) as path, client_of(path) as client:
        await client.until(lambda: "uid 12 may not use this socket" in client.lost)
