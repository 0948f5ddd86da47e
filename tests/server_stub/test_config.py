"""The server's settings: defaults that work together, and combinations that are refused with the arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nanny.common.settings import ConfigError, settings_of
from nanny.common.settings_loading import load
from server_stub.config import PREFIX, ServerConfig, check, is_loopback


def test_the_defaults_are_those_of_the_design_and_work_together() -> None:
    config = ServerConfig()

    assert (config.probe_interval_s, config.probe_budget_s, config.offline_timeout_s) == (15.0, 10.0, 100.0)
    assert config.host == "127.0.0.1"
    assert list(check(config)) == []


def test_every_setting_is_explained() -> None:
    assert [each.key for each in settings_of(ServerConfig) if not each.help.endswith(".")] == []


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"probe_try_timeout_s": 5.1}, "probe_try_timeout_s"),
        ({"report_interval_s": 33.4}, "offline_timeout_s"),
        ({"demotion_brake_window_s": 24.9}, "demotion_brake_window_s"),
        ({"repair_after_s": 24.9}, "repair_after_s"),
        ({"offline_timeout_s": 39.9}, "offline_timeout_s"),
        ({"offline_timeout_s": 45.0, "silence_timeout_s": 45.1}, "silence_timeout_s"),
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "::"}, "host"),
        ({"host": "node.example"}, "host"),
        ({"host": ""}, "host"),
        ({"webhook_url": "example.org/x"}, "webhook_url"),
        ({"webhook_url": "ftp://example.org"}, "webhook_url"),
        ({"webhook_url": "https://"}, "webhook_url"),
    ],
)
def test_what_cannot_work_is_a_problem_of_that_key(changed: dict[str, Any], key: str) -> None:
    assert [problem.key for problem in check(replace(ServerConfig(), **changed))] == [key]


@pytest.mark.parametrize(
    "changed",
    [
        {"probe_try_timeout_s": 5.0},
        {"probe_interval_s": 1.0},
        {"report_interval_s": 33.3},
        {"demotion_brake_window_s": 25.0, "repair_after_s": 25.0},
        {"offline_timeout_s": 40.0},
        {"host": "::1"},
        {"host": "127.3.2.1"},
        {"host": "localhost"},
        {"webhook_url": "https://example.org/x"},
        {"host": "0.0.0.0", "insecure_bind": True},
    ],
)
def test_what_just_works_is_no_problem(changed: dict[str, Any]) -> None:
    assert list(check(replace(ServerConfig(), **changed))) == []


def test_the_environment_names_each_setting() -> None:
    loaded = load(
        ServerConfig, prefix=PREFIX, environ={"SERVER_PROBE_INTERVAL_S": "20", "OTHER": "1"}, check=check
    )

    assert loaded.config.probe_interval_s == 20.0
    with pytest.raises(ConfigError, match="SERVER_PROBE_INTERVAL_S"):
        load(ServerConfig, prefix=PREFIX, environ={"SERVER_PROBE_INTERVAL": "20"})


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("localhost.evil", False),
        ("", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local
