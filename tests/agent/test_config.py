"""Settings of the agent: every key by variable and by flag, slips named with their remedy."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig, check, host_of, is_loopback
from nanny.common.settings import settings_of
from nanny.common.settings_loading import flag_of, variable_of


def wrong(**changed: Any) -> list[str]:
    return [problem.key for problem in check(AgentConfig(**changed))]


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({}, []),
        ({"stall_warn_s": 30.0, "stall_timeout_s": 30.0}, ["stall_warn_s"]),
        ({"stall_warn_s": 60.0}, []),
        ({"reconnect_initial_s": 31.0}, ["reconnect_initial_s"]),
        ({"server_url": "http://127.0.0.1:8470"}, []),
        ({"server_url": "http://localhost:8470/some/path"}, []),
        ({"server_url": "http://[::1]:8470"}, []),
        ({"server_url": "https://nodes.example.org"}, []),
        ({"server_url": "http://nodes.example.org"}, ["server_url"]),
        ({"server_url": "ws://10.0.0.1"}, ["server_url"]),
        ({"server_url": "http://localhost@nodes.example.org"}, ["server_url"]),
        ({"server_url": "http://nodes.example.org", "insecure_server": True}, []),
        ({"server_url": "nodes.example.org"}, ["server_url"]),
        ({"server_url": "https://"}, ["server_url"]),
        ({"server_url": "https://nodes.example.org:99999"}, ["server_url"]),
        ({"server_url": "http://[::1]:port"}, ["server_url"]),
        ({"labels": {"rack": "7"}}, []),
        ({"labels": {"k" * 129: "v"}}, ["labels"]),
        ({"labels": {"rack": "v" * 257}}, ["labels"]),
        ({"labels": {str(number): "" for number in range(129)}}, ["labels"]),
        ({"host": "somewhere"}, ["host"]),
        ({"host": "::"}, []),
        ({"advertised_addresses": ("a b",)}, ["advertised_addresses"]),
        ({"advertised_addresses": tuple("abcdefghijklmnopq")}, ["advertised_addresses"]),
        ({"fault_injection": True}, ["fault_socket"]),
        ({"fault_injection": True, "fault_socket": "/run/f"}, []),
        ({"fault_injection": True, "fault_socket": "/run/f", "host": "0.0.0.0"}, ["fault_injection"]),
        ({"fault_socket": "/" + "x" * 107}, ["fault_socket"]),
    ],
)
def test_what_cannot_work_is_named(changed: dict[str, Any], keys: list[str]) -> None:
    assert wrong(**changed) == keys


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.example:80/x", "a.example"),
        ("http://[::1]:80", "::1"),
        ("http://user:pass@b.example?x", "b.example"),
        ("nothing", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_what_counts_as_loopback(host: str, near: bool) -> None:
    assert is_loopback(host) is near


def ask(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *words],
        env={"PATH": "/usr/bin", "NANNY_FOREIGN": "x", "NANNY_NODE_NAME": "n"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_key_has_its_variable_and_its_flag_and_knows_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[nanny]\nport = 1\n\n[agent]\nlog_level = "debug"\nhealth_token = "secret"\n')
    words, environ, expected = [], {"AGENT_CONFIG": str(file)}, {}
    for number, each in enumerate(settings_of(AgentConfig)):
        text = {"bool": "false", "list": "[]", "table": "{}"}.get(each.kind, "7")
        text = {"host": "127.0.0.1", "server_url": "none", "stall_warn_s": "1", "log_level": ""}.get(
            each.key, text
        )
        if each.key in {"log_level", "health_token"}:
            expected[each.key] = f"{file}:{5 if each.key == 'log_level' else 6}"
        elif number % 2:
            words += [f"{flag_of(each.key)}{'' if each.kind == 'bool' else '=' + text}"]
            expected[each.key] = flag_of(each.key)
        else:
            environ[variable_of("AGENT", each.key)] = text
            expected[each.key] = variable_of("AGENT", each.key)
    words = [word.replace("--fault-injection", "--no-fault-injection") for word in words]

    answer = ask("check-config", "--origins", "--json", *words, **environ)

    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    origins = {key: row["origin"] for key, row in told.items()}
    assert origins | {"fault_injection": ""} == expected | {"fault_injection": ""}
    assert "secret" not in answer.stdout


def test_the_settings_are_said_for_people_and_programs() -> None:
    assert ask("check-config").stdout == "the settings can be used\n"
    assert (
        json.loads(ask("check-config", "--json", "--health-token", "hush").stdout)["health_token"]
        == "(hidden)"
    )
    assert "AGENT_PORT" in ask("check-config", "--origins", AGENT_PORT="8080").stdout


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        ((), {"AGENT_SERVRE_URL": "x"}, "did you mean AGENT_SERVER_URL?"),
        (("--port", "70000"), {}, "--port: port = '70000': expected a whole number from 0 to 65535"),
        (
            ("--nod-name", "x"),
            {},
            "--nod-name: --nod-name = 'x': expected a known flag; did you mean --node-name?",
        ),
        ((), {"AGENT_CONFIG": "/nowhere.toml"}, "/nowhere.toml: expected a readable file"),
    ],
)
def test_slips_name_the_place_and_the_remedy(
    words: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    answer = ask("check-config", *words, **environ)

    assert answer.returncode == 78
    assert said in answer.stderr


def test_a_word_that_is_no_flag_is_wrong_usage() -> None:
    answer = ask("frobnicate")

    assert answer.returncode == 2
    assert "frobnicate" in answer.stderr


def test_the_version_is_the_packages() -> None:
    assert ask("--version").stdout == f"node-agent {version('nodenanny')}\n"
