"""Where the server is told to reach us, and what it is told that we have."""

from typing import Any

import pytest

from agent.config import AgentConfig
from agent.identity import find_identity
from agent.registration import RegistrationSource, route_address
from nanny.protocol.messages import to_wire

SERVER = ("127.0.0.1", 8470)
FAR = ("192.0.2.1", 8470)  # RFC 5737: nobody's


def source(listens_at: object, **changed: Any) -> RegistrationSource:
    return RegistrationSource(AgentConfig(**changed), find_identity("n", {}, None), listens_at)


@pytest.mark.parametrize(
    ("listens_at", "advertised", "server", "addresses"),
    [
        (("127.0.0.1", 80), (), SERVER, ("127.0.0.1",)),
        (("127.0.0.9", 80), (), SERVER, ("127.0.0.9",)),
        (("10.1.2.3", 80), (), FAR, ("10.1.2.3",)),
        (("0.0.0.0", 80), (), SERVER, ("127.0.0.1",)),
        (("::", 80, 0, 0), (), ("::1", 1), ("::1",)),
        (("0.0.0.0", 80), ("a.example", "b.example"), SERVER, ("a.example", "b.example")),
        (None, (), SERVER, ("127.0.0.1",)),
        (("0.0.0.0", 80), (), None, ()),
    ],
)
def test_the_configured_address_then_the_bound_one_then_that_of_the_route(
    listens_at: object,
    advertised: tuple[str, ...],
    server: tuple[str, int] | None,
    addresses: tuple[str, ...],
) -> None:
    registration = source(listens_at, advertised_addresses=advertised).registration(server)

    assert registration.addresses == addresses
    assert to_wire(registration)


def test_a_far_server_is_never_told_to_reach_us_on_its_own_loopback() -> None:
    assert "127.0.0.1" not in source(("127.0.0.1", 80)).registration(FAR).addresses


@pytest.mark.parametrize(
    ("listens_at", "port"),
    [(("127.0.0.1", 8080), 8080), (("::1", 81, 0, 0), 81), (None, 0), ("/a/socket", 0)],
)
def test_the_health_port_is_the_bound_one(listens_at: object, port: int) -> None:
    assert source(listens_at).registration(SERVER).healthz_port == port


def test_no_route_is_no_address() -> None:
    assert route_address("ff0e::1%nowhere", 1) is None
    assert route_address("no address", 1) is None


def test_capacity_follows_what_telemetry_finds_and_forgets_no_gpu_that_is_silent() -> None:
    taken = source(None)
    before = taken.registration(None).capacity
    gpu = {"uuid": "GPU-1", "index": 0, "name": "H200", "memory_total_bytes": 1 << 37, "power_watts": 99.0}
    taken.learn({"gpu": {"status": "ok", "devices": [gpu, {"uuid": None, "state": "unknown"}]}})
    with_gpu = taken.registration(None).capacity
    taken.learn({"gpu": {"status": "unknown", "devices": []}})
    taken.learn({})

    assert set(before) == {"cpus", "memory_bytes"}
    assert with_gpu["gpus"] == [{"uuid": "GPU-1", "index": 0, "name": "H200", "memory_total_bytes": 1 << 37}]
    assert taken.registration(None).capacity == with_gpu
