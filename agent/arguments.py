"""The agent's command line and settings: file, environment and flags, checked, or errors with their remedy.

Imported after the vitals answer. The file is --config, else AGENT_CONFIG, else /etc/nodenanny/nodenanny.toml
where that exists; its table is [agent].
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import PREFIX, SHARED_KEYS, AgentConfig, check
from nanny.common.settings import ConfigError, as_json
from nanny.common.settings_loading import load
from nanny.common.settings_reference import add_flags, flags_from, origins_table, unknown_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nanny.common.settings_loading import Loaded

DEFAULT_FILE: Final = "/etc/nodenanny/nodenanny.toml"
FOREIGN_VARIABLES: Final = frozenset({"AGENT_CONFIG"})
EX_CONFIG: Final = 78


def settings_of_words(words: Sequence[str]) -> AgentConfig | int:
    """The settings to run with, or an exit code after the errors were printed."""
    loaded = _load(*_parse(words))
    return EX_CONFIG if loaded is None else loaded.config


def files_read(words: Sequence[str], config: AgentConfig) -> tuple[str, ...]:
    """What is read before the agent runs: the settings' file, whether it is there or not, and certificates."""
    options, _ = _parse(words)
    settings_file = options.config or os.environ.get("AGENT_CONFIG") or DEFAULT_FILE
    return (settings_file,) if config.server_ca_file is None else (settings_file, config.server_ca_file)


def answer(words: Sequence[str]) -> int:
    """Answer a question: the version, help, or whether the settings can be used."""
    options, flags = _parse(words)
    loaded = _load(options, flags)
    if loaded is None:
        return EX_CONFIG
    rows = origins_table(loaded)
    if options.json:
        told = {key: {"value": json.loads(value), "origin": where} for key, value, where in rows}
        values = {key: json.loads(value) for key, value, _ in rows}  # secrets stay hidden
        _say(json.dumps(told if options.origins else {**as_json(loaded.config), **values}))
    elif options.origins:
        width = max(len(key) for key, _, _ in rows)
        for key, value, where in rows:
            _say(f"{key:<{width}}  {value:<40}  {where}")
    else:
        _say("the settings can be used")
    return 0


def _with_verb(words: Sequence[str]) -> list[str]:
    if words and words[0] in {"run", "check-config", "--version", "-h", "--help"}:
        return list(words)
    return ["run", *words]


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options, and the flags by key, also those that no setting has."""
    parser = _parser()
    options, unknown = parser.parse_known_args(_with_verb(words))
    return options, flags_from(options, AgentConfig) | unknown_flags(unknown, parser)


def _load(options: argparse.Namespace, flags: dict[str, str]) -> Loaded[AgentConfig] | None:
    path = options.config or os.environ.get("AGENT_CONFIG")
    if path is None and Path(DEFAULT_FILE).exists():
        path = DEFAULT_FILE
    try:
        return load(
            AgentConfig,
            prefix=PREFIX,
            environ=os.environ,
            flags=flags,
            toml_path=path,
            check=check,
            foreign_variables=FOREIGN_VARIABLES,
            shared_keys=SHARED_KEYS,
        )
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="node-agent",
        description="The worker on a node: telemetry, health, and its own connection to the server.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in (("run", "run (the default)"), ("check-config", "check the settings and say them")):
        sub = verbs.add_parser(verb, help=text, allow_abbrev=False)
        sub.add_argument("--config", metavar="FILE", help=f"settings (default: {DEFAULT_FILE})")
        if verb == "check-config":
            sub.add_argument("--origins", action="store_true", help="say where each value comes from")
            sub.add_argument("--json", action="store_true", help="for programs")
        add_flags(sub, AgentConfig)
    return parser


class _Version(argparse.Action):
    """Prints the version; finding it is left until somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from agent.identity import installed_version  # noqa: PLC0415

        _say(f"{parser.prog} {installed_version()}")
        parser.exit()
