"""Link's settings: where the server and the nanny are, how often to report, where /metrics is.

One file serves every program of a node; link reads its table, `[link]`. `check` holds what must be true of several
keys together, above all that no credentials and no commands travel over a network in the clear. Where values come
from, `nanny.common.settings_loading` knows.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from nanny.common.settings import Problem, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "LINK"
FOREIGN_VARIABLES: Final = frozenset({"LINK_CONFIG"})
DEFAULT_FILE: Final = "/etc/nodenanny/nodenanny.toml"
LEVELS: Final = ("info", "warning", "error")
ENDPOINT: Final = "/v1/link"

_ENCRYPTED: Final = frozenset({"https", "wss"})
_PLAIN: Final = frozenset({"http", "ws"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Settings of link."""

    server_url: str | None = setting(
        None,
        help="The server, as https://host or wss://host; in the clear only to loopback. Not set: /metrics alone.",
        section="server",
    )
    ca_file: str | None = setting(
        None, help="Certificates (PEM) that vouch for the server; not set: the system's.", section="server"
    )
    client_cert_file: str | None = setting(
        None, help="This node's certificate (PEM) for mutual TLS.", section="server"
    )
    client_key_file: str | None = setting(
        None, help="Its private key, unless the certificate's file has it.", section="server"
    )
    connect_timeout_s: float = setting(
        10.0,
        help="For name, connection, TLS and upgrade together, and again for the answer to Hello.",
        minimum=0.05,
        maximum=300.0,
        section="server",
    )
    backoff_base_s: float = setting(
        1.0,
        help="Longest wait after the first failure; each further one doubles it.",
        minimum=0.01,
        section="server",
    )
    backoff_ceiling_s: float = setting(
        60.0, help="The longest wait between two tries.", minimum=0.01, section="server"
    )
    report_interval_s: float = setting(
        10.0,
        help="How often the nanny's view is reported when nothing changes; the server may want it more often.",
        minimum=0.2,
        maximum=3600.0,
        section="server",
    )

    control_socket: str = setting(
        "/run/nodenanny/control.sock", help="The nanny's control socket.", section="node"
    )
    node_name: str | None = setting(
        None, help="Name told to the server; not set: the nanny's.", section="node"
    )
    orphan_timeout_s: float | None = setting(
        None,
        help="Without a nanny for so long link ends; not set: it stays and tells the server so.",
        minimum=0.1,
        section="node",
    )

    metrics_host: str = setting("127.0.0.1", help="Address of /metrics.", section="metrics")
    metrics_port: int | None = setting(
        None,
        help="Port of /metrics, the nanny's own; 0 takes a free one, not set: none.",
        minimum=0,
        maximum=65535,
        section="metrics",
    )
    metrics_port_file: str | None = setting(
        None, help="File that gets the bound port, once it is open.", section="metrics"
    )

    log_level: str = setting("info", help="What is logged.", choices=LEVELS, section="log")


def check(config: LinkConfig) -> Iterator[Problem]:
    """Give what must not be together."""
    if config.server_url is not None:
        yield from _check_url(config, config.server_url)
    elif config.metrics_port is None:
        yield Problem(
            "server_url",
            config.server_url,
            "a server to speak with, or a metrics_port to serve: with neither there is nothing to do",
            also=("metrics_port",),
        )
    if config.backoff_base_s > config.backoff_ceiling_s:
        yield Problem(
            "backoff_base_s", config.backoff_base_s, "at most backoff_ceiling_s", also=("backoff_ceiling_s",)
        )
    if config.client_key_file is not None and config.client_cert_file is None:
        yield Problem(
            "client_key_file",
            config.client_key_file,
            "a client_cert_file beside it: a key alone proves nothing",
            also=("client_cert_file",),
        )
    if len(config.control_socket.encode()) > 107:
        yield Problem(
            "control_socket", config.control_socket, "at most 107 bytes: the kernel's limit for socket paths"
        )


def _check_url(config: LinkConfig, url: str) -> Iterator[Problem]:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        yield Problem("server_url", url, f"a URL such as https://nodes.example.org ({error})")
        return
    if parts.scheme not in _ENCRYPTED | _PLAIN or not host:
        yield Problem("server_url", url, "a URL such as https://nodes.example.org or ws://127.0.0.1:8470")
    elif parts.username or parts.password or parts.query or parts.fragment:
        yield Problem("server_url", url, "a URL of scheme, host, port and path alone")
    elif parts.scheme in _PLAIN and not is_loopback(host):
        yield Problem(
            "server_url",
            url,
            f"https or wss: {host} is not loopback, and whoever stands between could command this node",
        )
    elif parts.scheme in _PLAIN and (config.ca_file or config.client_cert_file):
        yield Problem("server_url", url, "https or wss, since certificates are configured", also=("ca_file",))


def endpoint_of(server_url: str) -> str:
    """Give the URL of the server's endpoint for links: a path in `server_url` is kept in front of it."""
    bare = server_url.rstrip("/")
    return bare if bare.endswith(ENDPOINT) else bare + ENDPOINT


def is_encrypted(server_url: str) -> bool:
    """Tell whether the URL is one of TLS."""
    return urlsplit(server_url).scheme in _ENCRYPTED


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
