"""What is registered: where the server reaches this node, what it has, since when it lives.

The address is the configured one; else the one that our answers are bound to; else that of the route to the
server, asked of the kernel by connecting a datagram socket, which sends nothing and waits for nobody.
udp(7), ip(7).
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from agent.config import is_loopback
from nanny.protocol.messages import Registration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config import AgentConfig
    from agent.identity import Identity

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared with, not bound to)
_GPU_LIMIT = 64
_GPU_FACTS = ("index", "name", "memory_total_bytes")


class RegistrationSource:
    """Gives the registration as it is now; `learn` keeps up with what telemetry finds."""

    def __init__(self, config: AgentConfig, identity: Identity, listens_at: object) -> None:
        """Register for `listens_at`, the address of the health endpoints as getsockname gives it."""
        self._config = config
        self._identity = identity
        self._started_at = time.monotonic()
        self._host, self.healthz_port = _host_and_port(listens_at)
        self._capacity: dict[str, Any] = {
            "cpus": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        }

    def registration(self, server: tuple[str, int] | None) -> Registration:
        """The registration towards a server at this numeric address, None if it is not known."""
        return Registration(
            incarnation=self._identity.incarnation,
            addresses=self._addresses(server),
            healthz_port=self.healthz_port,
            capacity=dict(self._capacity),
            labels=dict(self._config.labels),
            software_version=self._identity.software_version,
            started_age_s=max(0.0, time.monotonic() - self._started_at),
        )

    def learn(self, sample: Mapping[str, Any]) -> None:
        """Take the GPUs of a telemetry sample into the capacity; what is silent now stays counted."""
        gpu = sample.get("gpu")
        if gpu is None or gpu.get("status") != "ok":
            return
        found = [
            {"uuid": device["uuid"]} | {key: device[key] for key in _GPU_FACTS if device.get(key) is not None}
            for device in gpu["devices"]
            if device.get("uuid")
        ]
        if found:
            self._capacity["gpus"] = found[:_GPU_LIMIT]

    def _addresses(self, server: tuple[str, int] | None) -> tuple[str, ...]:
        if self._config.advertised_addresses:
            return self._config.advertised_addresses
        server_is_near = server is not None and is_loopback(server[0])
        if self._host and self._host not in _WILDCARDS and (server_is_near or not is_loopback(self._host)):
            return (self._host,)
        address = None if server is None else route_address(*server)
        return () if address is None else (address,)


def route_address(host: str, port: int) -> str | None:
    """The address of ours that packets to a numeric address would carry; None where there is no route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
            asking.setblocking(False)
            asking.connect((host, port or 1))
            address = str(asking.getsockname()[0])
    except OSError:
        return None
    return address.partition("%")[0]


def _host_and_port(listens_at: object) -> tuple[str, int]:
    if isinstance(listens_at, tuple) and len(listens_at) >= 2:
        return str(listens_at[0]).partition("%")[0], int(listens_at[1])
    return "", 0
