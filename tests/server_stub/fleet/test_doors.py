"""Doors of simulated nodes: one listener for many addresses, refusing when it is shut, with the same port again."""

import asyncio

import pytest

from server_stub.fleet.doors import Answering, Door

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n"
PATIENCE_S = 20.0


class Node:
    def __init__(self, name: bytes) -> None:
        self.name = name
        self.connections: set[Answering] = set()

    def asked(self, connection: Answering) -> None:
        connection.answer(self.name)


async def ask(host: str, port: int, request: bytes, length: int) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(request)
            return await reader.readexactly(length)
        finally:
            writer.close()
            await writer.wait_closed()


async def test_one_door_tells_its_nodes_apart_by_their_addresses(leaves_nothing_behind: None) -> None:
    nodes = {"127.1.0.0": Node(b"zero"), "127.1.0.255": Node(b"last")}
    door = Door(nodes.get)
    try:
        door.open()
        assert await ask("127.1.0.0", door.port, REQUEST, 4) == b"zero"
        assert await ask("127.1.0.255", door.port, REQUEST, 4) == b"last"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await ask("127.1.0.77", door.port, REQUEST, 4)
    finally:
        door.close()


async def test_requests_in_pieces_and_several_at_once_are_each_answered(leaves_nothing_behind: None) -> None:
    door = Door(lambda _: node)
    node = Node(b"ok")
    try:
        door.open()
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.1.0.1", door.port)
            writer.write(REQUEST[:10])
            await writer.drain()
            writer.write(REQUEST[10:] + REQUEST + REQUEST)
            assert await reader.readexactly(6) == b"okokok"
            for connection in list(node.connections):
                connection.drop()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
    finally:
        door.close()


async def test_a_shut_door_refuses_and_opens_again_with_its_port(leaves_nothing_behind: None) -> None:
    node = Node(b"ok")
    for host in (None, "127.1.0.9"):
        door = Door(lambda _: node, host)
        try:
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    await ask("127.1.0.9", door.port, REQUEST, 2)
                door.open()
                assert await ask("127.1.0.9", door.port, REQUEST, 2) == b"ok"
                door.shut()
        finally:
            door.close()
