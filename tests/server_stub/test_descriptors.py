"""Descriptors: the arithmetic of a fleet, at the start and while it grows."""

from __future__ import annotations

import re
import resource
from typing import TYPE_CHECKING

import pytest

from nanny.protocol.messages import Role
from nanny.protocol.session_events import SessionRefused
from server_stub import descriptors
from server_stub.descriptors import RESERVE, TooFewDescriptors, check, places_for_nodes
from server_stub.main import StartError
from tests.support.server_peers import Peer

if TYPE_CHECKING:
    from tests.server_stub.conftest import Serve


@pytest.mark.parametrize(("nodes", "connections"), [(0, 1000 - RESERVE), (744, 0), (244, 500)])
def test_a_fleet_that_just_fits_is_taken(nodes: int, connections: int) -> None:
    check(1000, nodes, connections)

    assert places_for_nodes(1000, connections) == nodes


def test_one_node_more_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(TooFewDescriptors) as refusal:
        check(1000, 245, 500)

    numbers = [int(number) for number in re.findall(r"\d+", str(refusal.value))]
    assert numbers == [245, 500, RESERVE, 1001, 1000, 1001, 499]


def test_there_are_never_fewer_than_no_places() -> None:
    assert places_for_nodes(100, 1000) == 0


def test_the_soft_limit_becomes_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        assert descriptors.raise_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_server_that_cannot_serve_its_connections_does_not_start(serve: Serve) -> None:
    too_many = descriptors.raise_limit()

    with pytest.raises(StartError, match=r"raise LimitNOFILE .* or lower connections_limit to"):
        async with serve(connections_limit=too_many):
            pass


async def test_a_node_more_than_there_are_descriptors_for_is_refused(serve: Serve) -> None:
    limit = descriptors.raise_limit()
    with_one_place = limit - RESERVE - 1
    async with serve(connections_limit=with_one_place) as server:
        first, second = Peer(server.url, Role.LINK, "node-1"), Peer(server.url, Role.LINK, "node-2")
        try:
            await first.connect()
            refused = await second.connect()
        finally:
            await first.disconnect()
            await second.disconnect()

    assert isinstance(refused, SessionRefused)
