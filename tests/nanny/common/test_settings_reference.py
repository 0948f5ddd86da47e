import argparse

import pytest

from nanny.common.settings_loading import load
from nanny.common.settings_reference import add_flags, flags_from, origins_table, reference_markdown
from tests.support.settings import ExampleConfig


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="example", allow_abbrev=False)
    parser.add_argument("command", nargs="?")
    add_flags(parser, ExampleConfig)
    return parser


def test_only_flags_that_were_given_are_flags(parser: argparse.ArgumentParser) -> None:
    arguments = ["--heartbeat-timeout-s", "2m", "--no-debug", "--command=['a']", "--state-dir=", "verb"]

    namespace = parser.parse_args(arguments)

    assert flags_from(namespace, ExampleConfig) == {
        "heartbeat_timeout_s": "2m",
        "debug": "false",
        "command": "['a']",
        "state_dir": "",
    }
    assert namespace.command == "verb"


def test_of_a_flag_and_its_opposite_the_last_one_counts(parser: argparse.ArgumentParser) -> None:
    assert flags_from(parser.parse_args(["--no-debug", "--debug"]), ExampleConfig) == {"debug": "true"}


def test_help_has_a_line_for_each_setting_and_survives_percent_signs(parser: argparse.ArgumentParser) -> None:
    text = parser.format_help()

    assert "--heartbeat-timeout-s SECONDS" in text
    assert "--mode watchdog|ready|none" in text
    assert "100% of it. (default: 200MiB)" in " ".join(text.split())


def test_every_setting_has_its_row_with_origin_and_no_secret() -> None:
    loaded = load(ExampleConfig, prefix="NANNY", environ={"NANNY_TOKEN": "8472", "NANNY_COMMAND": "a b"})

    rows = {key: (value, where) for key, value, where in origins_table(loaded)}

    assert list(rows) == list(loaded.origins)
    assert rows["command"] == ('["a", "b"]', "NANNY_COMMAND")
    assert rows["token"] == ('"(hidden)"', "NANNY_TOKEN")
    assert rows["server_url"] == ("null", "default")


def test_the_reference_is_a_table_for_each_section() -> None:
    text = reference_markdown(ExampleConfig, "NANNY")

    assert [line for line in text.splitlines() if line.startswith("#")] == ["### liveness", "### general"]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows[0] == (
        "| `heartbeat_timeout_s` | `6` | s, 0.1 to 3600 | `NANNY_HEARTBEAT_TIMEOUT_S` | `--heartbeat-timeout-s` "
        "| yes | Silence after which the worker is lost. |"
    )
    assert rows[4] == (
        "| `server_url` | `none` | text; `none` | `NANNY_SERVER_URL` | `--server-url` | yes "
        "| The server \\| none. |"
    )
    assert rows[10].startswith("| `evidence_bytes` | `200MiB` | bytes, at least 1 |")
    assert len(rows) == 13
