"""The lean WebSocket of simulated nodes against aiohttp's: messages of every size of head, pings, both ways to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from server_stub.fleet.websocket import WebSocket

PATIENCE_S = 20.0


class Dialled:
    """One connection, what came over it in a queue."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[object] = asyncio.Queue()
        self.socket: WebSocket

    async def dial(self, port: int, path: str = "/echo") -> None:
        self.socket = WebSocket(
            f"127.0.0.1:{port}",
            path,
            on_open=lambda: self.came.put_nowait("open"),
            on_message=self.came.put_nowait,
            on_gone=lambda why: self.came.put_nowait(("gone", why)),
        )
        await asyncio.get_running_loop().create_connection(lambda: self.socket, "127.0.0.1", port)

    async def next(self) -> object:
        return await asyncio.wait_for(self.came.get(), PATIENCE_S)


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Sends back what it gets; `ping` first brings a ping, `bye` and `text` end it each in its way."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False, max_msg_size=1 << 20)
        await socket.prepare(request)
        async for message in socket:
            if message.data == b"ping":
                await socket.ping(b"are you there")
                pong = await socket.receive()
                assert (pong.type, pong.data) == (WSMsgType.PONG, b"are you there")
            if message.data == b"text":
                await socket.send_str("this is not spoken here")
            if message.data == b"bye":
                await socket.close(code=WSCloseCode.OK)
                break
            await socket.send_bytes(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/echo", echo)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_messages_of_all_sizes_come_back_whole(leaves_nothing_behind: None) -> None:
    sizes = (0, 1, 125, 126, 127, 65_535, 65_536, 300_000)
    async with echo_server() as port:
        dialled = Dialled()
        await dialled.dial(port)
        assert await dialled.next() == "open"
        for size in sizes:
            dialled.socket.send(b"x" * size)
        for size in sizes:
            assert await dialled.next() == b"x" * size
        dialled.socket.send(b"ping")
        assert await dialled.next() == b"ping"
        dialled.socket.close()
        assert await dialled.next() == ("gone", "the server closed it")


@pytest.mark.parametrize(
    ("path", "said", "why"),
    [
        ("/echo", b"bye", "the server closed it"),
        ("/echo", b"text", "a frame that begins with 0x81"),
        ("/nothing", b"", "not upgraded: HTTP/1.1 404 Not Found"),
    ],
)
async def test_each_end_is_told_once_with_its_reason(
    path: str, said: bytes, why: str, leaves_nothing_behind: None
) -> None:
    async with echo_server() as port:
        dialled = Dialled()
        await dialled.dial(port, path)
        if said:
            assert await dialled.next() == "open"
            dialled.socket.send(said)
        assert await dialled.next() == ("gone", why)
        dialled.socket.send(b"into nothing")
        assert dialled.came.empty()
