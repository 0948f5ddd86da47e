import json
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.common.settings import (
    ConfigError,
    Origin,
    Problem,
    as_json,
    diff_for_reload,
    from_json,
    setting,
    settings_of,
)
from tests.support.settings import ExampleConfig


def test_a_config_is_a_frozen_slotted_value_with_its_defaults() -> None:
    config = ExampleConfig()

    assert config.heartbeat_timeout_s == 6.0
    assert not hasattr(config, "__dict__")
    with pytest.raises(FrozenInstanceError):
        config.debug = True  # type: ignore[misc]


def test_two_configs_do_not_share_a_default_table() -> None:
    assert ExampleConfig().labels == {}
    assert ExampleConfig().labels is not ExampleConfig().labels


def test_declarations_keep_order_type_and_unit() -> None:
    declared = [(each.key, each.kind, each.optional, each.unit) for each in settings_of(ExampleConfig)]

    assert declared == [
        ("heartbeat_timeout_s", "float", False, "s"),
        ("evidence_s", "float", False, "s"),
        ("poll_ms", "int", False, "ms"),
        ("state_dir", "str", False, ""),
        ("server_url", "str", True, ""),
        ("orphan_timeout_s", "float", True, "s"),
        ("mode", "str", False, ""),
        ("command", "list", False, ""),
        ("allowed", "list", False, ""),
        ("labels", "table", False, ""),
        ("evidence_bytes", "int", False, "bytes"),
        ("debug", "bool", False, ""),
        ("token", "str", True, ""),
    ]


@given(
    st.builds(
        ExampleConfig,
        heartbeat_timeout_s=st.floats(0.1, 3600),
        server_url=st.none() | st.text(),
        orphan_timeout_s=st.none() | st.floats(1, 10**9),
        command=st.lists(st.text()).map(tuple),
        labels=st.dictionaries(st.text(), st.text()),
        evidence_bytes=st.integers(1, 10**30),
        debug=st.booleans(),
        token=st.none() | st.text(),
    )
)
def test_a_config_survives_the_journey_as_json(config: ExampleConfig) -> None:
    assert from_json(ExampleConfig, json.loads(json.dumps(as_json(config)))) == config


def test_json_of_a_neighbouring_version_is_read() -> None:
    assert from_json(ExampleConfig, {"debug": True, "of_the_next_version": 1}) == ExampleConfig(debug=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("heartbeat_timeout_s", "6"),
        ("heartbeat_timeout_s", True),
        ("heartbeat_timeout_s", 0.01),
        ("heartbeat_timeout_s", 3601),
        ("heartbeat_timeout_s", float("nan")),
        ("evidence_s", float("inf")),
        ("evidence_s", None),
        ("poll_ms", 1.5),
        ("poll_ms", True),
        ("state_dir", 1),
        ("mode", "watch"),
        ("command", "a"),
        ("command", [1]),
        ("allowed", ["restart", "drain"]),
        ("labels", {"a": 1}),
        ("labels", []),
        ("debug", 1),
    ],
)
def test_json_of_the_wrong_type_or_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(ExampleConfig, {key: value})

    assert [problem.key for problem in caught.value.problems] == [key]


def test_json_never_shows_a_secret_in_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(ExampleConfig, {"token": 8472})

    assert "8472" not in str(caught.value)


def test_reload_tells_what_applies_from_what_waits_for_a_restart() -> None:
    old = ExampleConfig()
    new = replace(old, heartbeat_timeout_s=5.0, state_dir="/elsewhere", server_url="https://a")

    applicable, needs_restart = diff_for_reload(ExampleConfig, old, new)

    assert applicable == {"heartbeat_timeout_s": 5.0, "server_url": "https://a"}
    assert needs_restart == {"state_dir": "/elsewhere"}


def test_an_error_is_one_line_a_problem_and_ends_with_what_to_do() -> None:
    error = ConfigError(
        (
            Problem("a_s", "so\non", "a duration", Origin("file", "/etc/x.toml:3")),
            Problem("b", "x" * 10_000, "text"),
        )
    )

    lines = str(error).splitlines()
    assert lines[0] == "/etc/x.toml:3: a_s = 'so\\non': expected a duration"
    assert len(lines[1]) < 200
    assert (
        lines[2] == "Correct the 2 lines above; `check-config --origins` shows where each value comes from."
    )


@dataclass(frozen=True)
class Undeclared:
    plain: int = field(default=1)


@dataclass(frozen=True)
class OfOddType:
    odd: frozenset[str] = setting(frozenset(), help="Not a type that a source can give.")


@dataclass(frozen=True)
class OfOptionalPair:
    odd: int | str = setting(1, help="Which of the two?")


@dataclass(frozen=True)
class BreaksItsOwnRule:
    port: int = setting(0, help="A port.", minimum=1)


def test_a_field_without_declaration_is_its_authors_mistake() -> None:
    with pytest.raises(TypeError, match="not declared with setting"):
        settings_of(Undeclared)


@pytest.mark.parametrize("cls", [OfOddType, OfOptionalPair])
def test_a_type_that_no_source_can_give_is_its_authors_mistake(cls: type[Any]) -> None:
    with pytest.raises(TypeError, match="a setting cannot be of type"):
        settings_of(cls)


def test_a_default_against_its_own_rule_is_its_authors_mistake() -> None:
    with pytest.raises(TypeError, match="default 0, expected a whole number of at least 1"):
        settings_of(BreaksItsOwnRule)
