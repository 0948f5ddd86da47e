import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent.config
import nanny.config
import nanny.link.config
from nanny.common.settings import ConfigError, Origin, setting
from nanny.common.settings_loading import Loaded, key_lines, load
from tests.support.settings import ExampleConfig, check_example

SIZE = 'a size in bytes of at least 1, such as 1048576 or "200MiB"'


def load_example(
    toml: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    **more: Any,
) -> Loaded[ExampleConfig]:
    path = None if toml is None else str(toml)
    return load(ExampleConfig, prefix="NANNY", environ=environ or {}, flags=flags, toml_path=path, **more)


def problems_of(
    toml: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    **more: Any,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_example(toml, environ, flags, **more)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "nodenanny.toml"


def test_without_sources_all_values_are_defaults() -> None:
    loaded = load_example()

    assert loaded.config == ExampleConfig()
    assert set(loaded.origins.values()) == {Origin("default", "default")}
    assert list(loaded.origins) == list(ExampleConfig.__slots__)


def test_later_sources_win_and_each_value_knows_its_origin(toml: Path) -> None:
    toml.write_text('# a node\nheartbeat_timeout_s = 5\nstate_dir = "/file"\nmode = "ready"\n')

    loaded = load_example(
        toml, {"NANNY_STATE_DIR": "/environment", "NANNY_MODE": "none", "PATH": "/bin"}, {"mode": "watchdog"}
    )

    config = loaded.config
    assert (config.heartbeat_timeout_s, config.state_dir, config.mode) == (5, "/environment", "watchdog")
    assert loaded.origins["heartbeat_timeout_s"] == Origin("file", f"{toml}:2")
    assert loaded.origins["state_dir"] == Origin("environment", "NANNY_STATE_DIR")
    assert loaded.origins["mode"] == Origin("flag", "--mode")
    assert loaded.origins["debug"] == Origin("default", "default")


def test_one_file_serves_all_programs(toml: Path) -> None:
    toml.write_text(
        'debug = true\nstate_dir = "/shared"\nregion = "eu"\n'
        "[agent]\nwhatever = 1\n"
        '[nanny]\nstate_dir = "/own"\n[nanny.labels]\nrack = "3"\n'
    )

    loaded = load_example(toml, shared_keys=frozenset({"region"}))

    assert (loaded.config.debug, loaded.config.state_dir) == (True, "/own")
    assert loaded.config.labels == {"rack": "3"}
    assert loaded.origins["state_dir"].where == f"{toml}:7"
    assert loaded.origins["labels"].where == f"{toml}:8"


def test_a_setting_may_have_the_name_of_another_programs_table(toml: Path) -> None:
    """As `link` of `[nanny]`, and the table `[link]`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        link: str = setting("off", help="Who starts link.", choices=("off", "unit"))

    toml.write_text('[nanny]\nlink = "unit"\n[link]\nserver_url = "https://server.example"\n')

    assert load(Config, prefix="NANNY", environ={}, toml_path=str(toml)).config.link == "unit"


@pytest.mark.parametrize("program", ["nanny", "link", "agent"])
def test_the_file_of_the_packages_serves_each_program(program: str) -> None:
    configs: dict[str, tuple[type[Any], Any]] = {
        "nanny": (nanny.config.NannyConfig, nanny.config.check),
        "link": (nanny.link.config.LinkConfig, nanny.link.config.check),
        "agent": (agent.config.AgentConfig, agent.config.check),
    }
    config, check = configs[program]
    path = Path(__file__).parents[3] / "packaging/nodenanny.toml"

    loaded: Loaded[Any] = load(config, prefix=program.upper(), environ={}, toml_path=str(path), check=check)

    assert {origin.kind for origin in loaded.origins.values()} == {"file", "default"}


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("heartbeat_timeout_s", "30", 30),
        ("heartbeat_timeout_s", "1.5", 1.5),
        ("heartbeat_timeout_s", "2m", 120),
        ("heartbeat_timeout_s", "1h", 3600),
        ("heartbeat_timeout_s", "500ms", 0.5),
        ("heartbeat_timeout_s", " 7 s ", 7),
        ("evidence_s", "1e-1", 0.1),
        ("poll_ms", "2s", 2000),
        ("poll_ms", "50ms", 50),
        ("poll_ms", "50", 50),
        ("evidence_bytes", "200MiB", 200 * 2**20),
        ("evidence_bytes", "1.5GiB", 3 * 2**29),
        ("evidence_bytes", "10 kB", 10_000),
        ("evidence_bytes", "9007199254740993", 2**53 + 1),
        ("orphan_timeout_s", "none", None),
        ("orphan_timeout_s", "", None),
        ("orphan_timeout_s", "1d", 86400),
        ("server_url", "", None),
        ("server_url", "https://a", "https://a"),
        ("state_dir", " /with space", " /with space"),
        ("mode", "none", "none"),
        ("command", "sleep '1 0'", ("sleep", "1 0")),
        ("command", '["sleep", "1 0"]', ("sleep", "1 0")),
        ("command", "", ()),
        ("allowed", "stop restart", ("stop", "restart")),
        ("labels", "a=b, c=d=e", {"a": "b", "c": "d=e"}),
        ("labels", '{"a": "b,c"}', {"a": "b,c"}),
        ("labels", "", {}),
        ("debug", "TRUE", True),
        ("debug", "off", False),
        ("debug", "1", True),
    ],
)
def test_texts_are_read_by_the_type_of_their_setting(key: str, text: str, expected: object) -> None:
    from_variable = load_example(environ={f"NANNY_{key.upper()}": text})
    from_flag = load_example(flags={key: text})

    assert getattr(from_variable.config, key) == expected
    assert type(getattr(from_variable.config, key)) in {type(expected), float}
    assert from_flag.config == from_variable.config


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("heartbeat_timeout_s", ""),
        ("heartbeat_timeout_s", "soon"),
        ("heartbeat_timeout_s", "2 parsecs"),
        ("heartbeat_timeout_s", "2MiB"),
        ("heartbeat_timeout_s", "0"),
        ("heartbeat_timeout_s", "2h"),
        ("heartbeat_timeout_s", "nan"),
        ("evidence_s", "inf"),
        ("evidence_s", "1e999"),
        ("evidence_s", "-1"),
        ("poll_ms", "0.5"),
        ("evidence_bytes", "200M"),
        ("evidence_bytes", "0.5"),
        ("evidence_bytes", "9" * 5000),
        ("mode", "wachdog"),
        ("command", "'open"),
        ("command", "[1]"),
        ("command", "[nonsense"),
        ("allowed", "restart drain"),
        ("labels", "a"),
        ("labels", '{"a": 1}'),
        ("debug", "ja"),
        ("debug", ""),
    ],
)
def test_texts_that_are_no_value_are_refused_with_key_value_and_remedy(key: str, text: str) -> None:
    (problem,) = problems_of(environ={f"NANNY_{key.upper()}": text})

    assert problem.startswith(f"NANNY_{key.upper()}: {key} = ")
    assert repr(text)[:100] in problem
    assert ": expected " in problem


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ('heartbeat_timeout_s = "2m"', "heartbeat_timeout_s", 120),
        ("heartbeat_timeout_s = 2", "heartbeat_timeout_s", 2),
        ('evidence_bytes = "200MiB"', "evidence_bytes", 200 * 2**20),
        ("evidence_bytes = 5", "evidence_bytes", 5),
        ('orphan_timeout_s = "none"', "orphan_timeout_s", None),
        ('server_url = "none"', "server_url", None),
        ('mode = "none"', "mode", "none"),
        ('command = ["a", "b"]', "command", ("a", "b")),
        ('labels = { a = "b" }', "labels", {"a": "b"}),
        ('labels.a = "b"', "labels", {"a": "b"}),
        ("debug = true", "debug", True),
    ],
)
def test_toml_values_are_read_by_their_type(toml: Path, line: str, key: str, expected: object) -> None:
    toml.write_text(f"\n{line}\n")

    loaded = load_example(toml)

    assert getattr(loaded.config, key) == expected
    assert loaded.origins[key].where == f"{toml}:2"


@pytest.mark.parametrize(
    "line",
    [
        'heartbeat_timeout_s = "soon"',
        "heartbeat_timeout_s = true",
        "heartbeat_timeout_s = nan",
        "heartbeat_timeout_s = 2026-01-01",
        "evidence_bytes = 1.0",
        'debug = "true"',
        "debug = 1",
        "state_dir = 1",
        'command = "a b"',
        "command = [1]",
        'labels = "a=b"',
        "labels = { a = 1 }",
        'state_dir = ["a"]',
        "state_dir = { a = 1 }",
    ],
)
def test_toml_values_of_the_wrong_type_are_refused_with_their_line(toml: Path, line: str) -> None:
    toml.write_text(f"# first\n# second\n{line}\n")

    (problem,) = problems_of(toml)

    assert problem.startswith(f"{toml}:3: {line.partition(' ')[0]} = ")


def test_all_that_is_wrong_is_reported_at_once(toml: Path) -> None:
    toml.write_text('heartbeat_timout_s = 3\n[nanny]\nmode = "wachdog"\nevidence_s = 4\n[nany]\n')

    problems = problems_of(
        toml,
        {"NANNY_STAT_DIR": "/x", "NANNY_EVIDENCE_BYTES": "0"},
        {"debug": "ja", "tokn": "x"},
        check=check_example,
    )

    assert problems == [
        f"{toml}:1: heartbeat_timout_s = 3: expected a known key; did you mean heartbeat_timeout_s?",
        f"{toml}:5: [nany] = {{}}: expected a known table; did you mean [nanny]?",
        f"{toml}:3: mode = 'wachdog': expected one of watchdog, ready, none; did you mean watchdog?",
        "NANNY_EVIDENCE_BYTES: evidence_bytes = '0': expected " + SIZE,
        "NANNY_STAT_DIR: NANNY_STAT_DIR = '/x': expected a known variable; did you mean NANNY_STATE_DIR?",
        "--debug: debug = 'ja': expected true or false",
        "--tokn: --tokn = '(hidden)': expected a known flag; did you mean --token?",
        f"default: heartbeat_timeout_s = 6.0: expected 9 at most with evidence_s (here evidence_s = 4 by {toml}:4)",
    ]


def test_a_combination_is_not_judged_by_values_that_are_wrong_themselves() -> None:
    problems = problems_of(
        environ={"NANNY_HEARTBEAT_TIMEOUT_S": "soon", "NANNY_EVIDENCE_S": "8"}, check=check_example
    )

    assert [problem.partition(":")[0] for problem in problems] == ["NANNY_HEARTBEAT_TIMEOUT_S"]


def test_a_wrong_value_is_reported_though_a_later_source_overrules_it(toml: Path) -> None:
    toml.write_text('mode = "bogus"\n')

    assert len(problems_of(toml, {"NANNY_MODE": "ready"})) == 1


def test_a_secret_is_hidden_wherever_it_was_put(toml: Path) -> None:
    toml.write_text("token = 8472\ntokn = 8472\n")

    problems = problems_of(toml, {"NANNY_TOKNE": "8472"})

    assert len(problems) == 3
    assert not [problem for problem in problems if "8472" in problem]


def test_variables_of_others_are_left_alone() -> None:
    loaded = load_example(
        environ={"NANNY_INCARNATION": "7", "NANNYS": "x"}, foreign_variables=frozenset({"NANNY_INCARNATION"})
    )

    assert loaded.config == ExampleConfig()


def test_kubernetes_links_to_a_service_of_our_name_are_passed_over() -> None:
    links = {
        "NANNY_SERVICE_HOST": "10.0.0.1",
        "NANNY_SERVICE_PORT": "80",
        "NANNY_SERVICE_PORT_HTTP": "80",
        "NANNY_PORT": "tcp://10.0.0.1:80",
        "NANNY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "NANNY_PORT_80_TCP_PROTO": "tcp",
        "NANNY_PORT_80_TCP_PORT": "80",
        "NANNY_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    assert sorted(load_example(environ=links).passed_over) == sorted(links)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithPorts:
    port: int = setting(1, help="A key that Kubernetes may happen to use, too.")
    backend_service_port: int = setting(1, help="A key that looks as if Kubernetes had set it.")


def test_a_key_of_ours_is_ours_unless_only_kubernetes_can_have_written_its_value() -> None:
    loaded = load(
        WithPorts, prefix="SERVER", environ={"SERVER_PORT": "8080", "SERVER_BACKEND_SERVICE_PORT": "2"}
    )
    linked = load(WithPorts, prefix="SERVER", environ={"SERVER_PORT": "tcp://10.0.0.1:80"})

    assert loaded.config == WithPorts(port=8080, backend_service_port=2)
    assert (linked.config, linked.passed_over) == (WithPorts(), ("SERVER_PORT",))


@pytest.mark.parametrize(
    "text",
    ["port = " + "1" * 5000, "port = " + "[" * 3000, "port = " + "{a=" * 3000, "port" + ".a" * 3000 + " = 1"],
    ids=["digits", "lists", "tables", "dots"],
)
def test_a_file_that_only_breaks_the_parser_is_an_error_that_names_it(toml: Path, text: str) -> None:
    toml.write_text(text)

    with pytest.raises(ConfigError, match=str(toml)):
        load(WithPorts, prefix="SERVER", environ={}, toml_path=str(toml))


@pytest.mark.parametrize(("key", "text"), [("command", "[" * 100_000), ("labels", '{"a":' * 100_000)])
def test_json_nested_too_deep_is_no_value(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_example(flags={key: text})


@pytest.mark.parametrize(
    ("text", "place"),
    [("a = 1\nb = x\n", "2:5"), ("a = [1,\n", "2:1"), ('a = "x', "1:7"), ("a = 1\na = 2\n", "2:6")],
)
def test_a_syntax_error_has_line_and_column_and_hides_no_other_source(
    toml: Path, text: str, place: str
) -> None:
    toml.write_text(text)

    problems = problems_of(toml, flags={"debug": "ja"})

    assert len(problems) == 2
    assert problems[0].startswith(f"{toml}:{place}: expected valid TOML (")
    assert problems[1].startswith("--debug: ")


def test_a_file_that_is_not_there_is_an_error(toml: Path) -> None:
    assert problems_of(toml) == [
        f"{toml}: expected a readable file (No such file or directory); create it or name another"
    ]


def test_a_file_that_is_no_text_is_an_error(toml: Path) -> None:
    toml.write_bytes(b"a = '\xff'\n")

    assert problems_of(toml) == [f"{toml}: expected UTF-8 text, but byte 5 is none; save the file as UTF-8"]


def test_a_key_in_the_place_of_the_table_is_an_error(toml: Path) -> None:
    toml.write_text("nanny = 3\n")

    (problem,) = problems_of(toml)

    assert problem.startswith(f"{toml}:1: nanny = 3: expected a known key")


def test_lines_are_found_past_comments_texts_and_dotted_names() -> None:
    text = (
        '# a = 0\ntext = """\na = 1\n[b]\n"""\na = 2 # b\nc.d = 3\n'
        "[ t . \"u\" ]\nlist = [\n  \"x = 1\",\n]\nq = '''one line'''\n\"z\" = 1\r\n"
    )

    lines = key_lines(text)

    assert {path: lines.get(path) for path in [("a",), ("b",), ("c",), ("c", "d"), ("t", "u", "z")]} == {
        ("a",): 6,
        ("b",): None,
        ("c",): 7,
        ("c", "d"): 7,
        ("t", "u", "z"): 13,
    }


@given(st.text())
def test_the_scan_for_lines_takes_any_text(text: str) -> None:
    assert all(0 < line <= len(text.splitlines()) for line in key_lines(text).values())


@given(st.text(), st.sampled_from(list(ExampleConfig.__slots__)))
def test_any_text_is_a_value_or_a_config_error(text: str, key: str) -> None:
    try:
        loaded = load_example(flags={key: text})
    except ConfigError as error:
        assert len(str(error).split("\n")) == 2  # noqa: PT017 (either outcome is right)
    else:
        assert loaded.origins[key].kind == "flag"


def test_the_environment_of_this_process_is_a_source_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XNANNY_DEBUG", "yes")

    loaded = load(ExampleConfig, prefix="XNANNY", environ=os.environ)

    assert loaded.config.debug
