"""The agent's settings: every key with its default, range and meaning; the reference in docs/ is generated here.

`check` holds what must not be together. Where values come from, `nanny.common.settings_loading` knows; what a
supervisor passes by sd_notify's and its own variables is not configuration (`agent.vitals.config`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nanny.common.settings import Problem, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "AGENT"
SHARED_KEYS: Final = frozenset({"server_url"})
LEVELS: Final = ("debug", "info", "warning", "error")
_SECURE: Final = {"https://", "wss://"}
_PLAIN: Final = {"http://", "ws://"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Settings of `node-agent`."""

    node_name: str = setting(
        "", help="Name of this node; empty takes the nanny's, else the host name.", section="node"
    )
    labels: dict[str, str] = setting({}, help="What the server is told about this node.", section="node")

    host: str = setting(
        "127.0.0.1",
        help="Address of /healthz, /readyz, /livez and /metrics, where no supervisor passes a socket.",
        section="health",
    )
    port: int | None = setting(
        None,
        help="Port of /healthz, where no supervisor passes a socket; 0 takes any, not set: none.",
        minimum=0,
        maximum=65535,
        section="health",
    )
    health_token: str | None = setting(
        None, help="Bearers of it see reasons and stacks, as loopback does.", secret=True, section="health"
    )

    server_url: str | None = setting(
        None,
        help="The server, such as https://nodes.example.org; not set: the node works alone.",
        section="server",
    )
    server_ca_file: str | None = setting(
        None, help="Certificates to trust in place of the system's.", section="server"
    )
    insecure_server: bool = setting(
        False, help="Speak without TLS to a server beyond loopback.", section="server"
    )
    advertised_addresses: tuple[str, ...] = setting(
        (),
        help="Where the server reaches this node, best first; empty takes the address of the route to it.",
        section="server",
    )
    connect_timeout_s: float = setting(
        10.0, help="For name, connection and greeting each.", minimum=0.1, maximum=300, section="server"
    )
    reconnect_initial_s: float = setting(
        0.5, help="Longest wait after the first lost connection; it doubles.", minimum=0.01, section="server"
    )
    reconnect_ceiling_s: float = setting(
        30.0, help="Longest wait after many.", minimum=0.01, maximum=3600, section="server"
    )

    sample_interval_s: float = setting(
        10.0, help="How often telemetry is taken.", minimum=0.1, maximum=3600, section="telemetry"
    )
    probe_deadline_s: float = setting(
        5.0,
        help="For one call into a driver, a file system or a name server.",
        minimum=0.1,
        section="telemetry",
    )
    mounts: tuple[str, ...] = setting(
        ("/",), help="File systems that are measured, by a path in each.", section="telemetry"
    )
    expected_gpu_uuids: tuple[str, ...] = setting(
        (), help="GPUs that are missed when they don't show up.", section="telemetry"
    )

    stall_warn_s: float | None = setting(
        None,
        help="Loop lag from which the loop's stack is captured; not set: as the nanny says, else 5 s.",
        minimum=0.05,
        section="liveness",
    )
    stall_timeout_s: float | None = setting(
        None,
        help="Loop lag from which /healthz and /livez are 503; not set: as the nanny says, else 30 s.",
        minimum=0.1,
        section="liveness",
    )
    expect_limit_s: float = setting(
        600.0, help="Announced long work of one life, in all.", minimum=0, section="liveness"
    )
    orphan_timeout_s: float | None = setting(
        None,
        help="End when the nanny has been gone for so long; not set: go on without it.",
        minimum=0.5,
        section="liveness",
    )
    stop_timeout_s: float = setting(
        3.0,
        help="An orderly end that takes longer is cut short.",
        minimum=0.1,
        maximum=60,
        section="liveness",
    )

    plugins: tuple[str, ...] = setting(
        (), help="Entry points of the group nodenanny.services whose services run here.", section="plugins"
    )
    log_level: str = setting("info", help="What is logged.", choices=LEVELS, section="log")
    fault_injection: bool = setting(
        False, help="Obey orders to break on purpose; only with /healthz on loopback.", section="debugging"
    )
    fault_socket: str | None = setting(
        None, help="Where such orders come in: a datagram socket that is made here.", section="debugging"
    )


def check(config: AgentConfig) -> Iterator[Problem]:
    """Give what must not be together."""
    warn_s, timeout_s = config.stall_warn_s, config.stall_timeout_s
    if warn_s is not None and timeout_s is not None and warn_s >= timeout_s:
        yield Problem("stall_warn_s", warn_s, "less than stall_timeout_s", also=("stall_timeout_s",))
    if config.reconnect_initial_s > config.reconnect_ceiling_s:
        yield Problem(
            "reconnect_initial_s",
            config.reconnect_initial_s,
            "at most reconnect_ceiling_s",
            also=("reconnect_ceiling_s",),
        )
    yield from _check_labels(config.labels)
    yield from _check_addresses(config)
    if config.fault_injection and not is_loopback(config.host):
        yield Problem(
            "fault_injection", config.fault_injection, "false, or a host on loopback", also=("host",)
        )
    if config.fault_injection and config.fault_socket is None:
        yield Problem("fault_socket", None, "a path, since fault_injection is on", also=("fault_injection",))
    if config.fault_socket is not None and not 0 < len(config.fault_socket.encode()) < 108:
        yield Problem("fault_socket", config.fault_socket, "a path of at most 107 bytes")


def _check_labels(labels: dict[str, str]) -> Iterator[Problem]:
    """What the wire has no room for would fail each registration."""
    if len(labels) > 128:
        yield Problem("labels", f"{len(labels)} of them", "at most 128")
    for name, value in labels.items():
        if not 0 < len(name) <= 128 or len(value) > 256:
            yield Problem(
                "labels", f"{name}={value}"[:64], "names of 1 to 128 and values of at most 256 characters"
            )


def _check_addresses(config: AgentConfig) -> Iterator[Problem]:
    if _ip(config.host) is None:
        yield Problem("host", config.host, "a numeric address such as 127.0.0.1 or ::")
    for address in config.advertised_addresses:
        if (
            not 0 < len(address) <= 128
            or not address.isascii()
            or not address.isprintable()
            or " " in address
        ):
            yield Problem("advertised_addresses", address, "addresses or names, without spaces")
    if len(config.advertised_addresses) > 16:
        yield Problem("advertised_addresses", config.advertised_addresses, "at most 16 of them")
    url = config.server_url
    if url is None:
        return
    scheme = next((each for each in _SECURE | _PLAIN if url.startswith(each)), None)
    host = host_of(url)
    if scheme is None or not host or not _has_good_port(url):
        yield Problem("server_url", url, "a URL such as https://nodes.example.org or http://127.0.0.1:8470")
    elif scheme in _PLAIN and not is_loopback(host) and not config.insecure_server:
        yield Problem(
            "server_url",
            url,
            "https:// for a server beyond loopback: orders and telemetry would cross the network unprotected; "
            "--insecure-server accepts that",
            also=("insecure_server",),
        )


def host_of(url: str) -> str:
    """The host in a URL, without brackets, credentials and port; empty where there is none. RFC 3986, 3.2."""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _has_good_port(url: str) -> bool:
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    port = authority.rpartition("]")[2].partition(":")[2]
    return not port or (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine has that address."""
    if host == "localhost":
        return True
    address = _ip(host)
    return address is not None and address.is_loopback


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
