"""What link may be told, and what it must not be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from nanny.common.settings import ConfigError
from nanny.link.config import LinkConfig, check, endpoint_of
from nanny.link.main import read_settings

if TYPE_CHECKING:
    from pathlib import Path

WORKING = LinkConfig(server_url="https://nodes.example.org")


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, []),
        ({"server_url": "wss://nodes.example.org/fleet"}, []),
        ({"server_url": "http://127.0.0.1:8470"}, []),
        ({"server_url": "ws://[::1]:8470"}, []),
        ({"server_url": "http://localhost:8470"}, []),
        ({"server_url": "http://nodes.example.org"}, ["server_url"]),
        ({"server_url": "ws://10.0.0.7"}, ["server_url"]),
        ({"server_url": "http://127.0.0.1.example.org"}, ["server_url"]),
        ({"server_url": "ftp://127.0.0.1"}, ["server_url"]),
        ({"server_url": "nodes.example.org"}, ["server_url"]),
        ({"server_url": "https://"}, ["server_url"]),
        ({"server_url": "https://h:99999"}, ["server_url"]),
        ({"server_url": "https://user:word@h"}, ["server_url"]),
        ({"server_url": "https://h/?a=b"}, ["server_url"]),
        ({"server_url": "http://127.0.0.1", "ca_file": "/ca.pem"}, ["server_url"]),
        ({"server_url": None}, ["server_url"]),
        ({"server_url": None, "metrics_port": 0}, []),
        ({"client_key_file": "/key.pem"}, ["client_key_file"]),
        ({"backoff_base_s": 9.0, "backoff_ceiling_s": 8.0}, ["backoff_base_s"]),
        ({"control_socket": "/" + "x" * 107}, ["control_socket"]),
    ],
)
def test_what_cannot_work_is_named(changed: dict[str, Any], wrong: list[str]) -> None:
    assert [problem.key for problem in check(replace(WORKING, **changed))] == wrong


@pytest.mark.parametrize(
    ("server_url", "endpoint"),
    [
        ("https://h", "https://h/v1/link"),
        ("https://h/", "https://h/v1/link"),
        ("https://h/fleet/", "https://h/fleet/v1/link"),
        ("wss://h/v1/link", "wss://h/v1/link"),
    ],
)
def test_the_endpoint_is_under_the_servers_path(server_url: str, endpoint: str) -> None:
    assert endpoint_of(server_url) == endpoint


def test_settings_come_from_file_environment_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "nodenanny.toml"
    file.write_text(
        '[nanny]\nport = 7080\n[link]\nserver_url = "https://a"\nmetrics_port = 1\nnode_name = "f"\n'
    )
    monkeypatch.setenv("LINK_CONFIG", str(file))
    monkeypatch.setenv("LINK_METRICS_PORT", "2")
    monkeypatch.setenv("LINK_CONTROL_SOCKET", "/run/x/control.sock")

    config = read_settings(["--server-url", "https://b"])

    assert (config.server_url, config.metrics_port, config.node_name, config.control_socket) == (
        "https://b",
        2,
        "f",
        "/run/x/control.sock",
    )


def test_a_slip_is_refused_with_the_nearest_known_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINK_CONFIG", "/dev/null")
    monkeypatch.setenv("LINK_SERVR_URL", "https://a")

    with pytest.raises(ConfigError, match="LINK_SERVER_URL"):
        read_settings([])
