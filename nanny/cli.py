"""``nanny``: reads the settings in this process, then becomes the lean one that supervises.

    nanny run [--key value …] [-- PROGRAM ARG …]
    nanny check-config [--origins] [--json] [--key value …]

Exit codes of ``check-config``: 0 the settings can be used, 78 (EX_CONFIG) they can't. Settings come from defaults,
the file named by --config or NANNY_CONFIG (or /etc/nodenanny/nodenanny.toml), the environment and the flags.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import platform
import sys
import uuid
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NoReturn

from nanny import launch
from nanny.common.identifiers import check_node_name
from nanny.common.settings import ConfigError, Problem, as_json, settings_of
from nanny.common.settings_loading import load
from nanny.common.settings_reference import add_flags, flags_from, origins_table, unknown_flags
from nanny.config import NannyConfig, check
from nanny.errors import HostError
from nanny.linux.subreaper import become_subreaper

if TYPE_CHECKING:
    from nanny.common.settings_loading import Loaded

DEFAULT_FILE: Final = "/etc/nodenanny/nodenanny.toml"
FOREIGN_VARIABLES: Final = frozenset(
    {
        "NANNY_CONFIG",
        "NANNY_INCARNATION",
        "NANNY_STACKS_FD",
        "NANNY_CONTROL_SOCKET",
    }
)
EX_CONFIG: Final = 78
EX_USAGE: Final = 64


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; ``run`` does not return."""
    try:
        code = _answer(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever asked has heard enough (head), or is gone (a nanny that died during its reload).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _answer(argv: list[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    own, separator, program = _split(arguments)
    parser = _parser()
    options, unknown = parser.parse_known_args(own)
    try:
        loaded = _load(options, program if separator else None, unknown_flags(unknown, parser))
    except ConfigError as error:
        if options.verb == "resolve":
            print(json.dumps({"error": str(error)}))
        else:
            print(error, file=sys.stderr)
        return EX_CONFIG
    if options.verb == "resolve":
        reloadable = [one.key for one in settings_of(NannyConfig) if one.reloadable]
        print(json.dumps({"settings": as_json(_completed(loaded.config)), "reloadable": reloadable}))
        return 0
    if options.verb == "check-config":
        return _check_config(loaded, origins=options.origins, as_json_=options.json)
    config = _completed(loaded.config)
    problem = _cannot_run(config)
    if problem is not None:
        print(ConfigError((problem,)), file=sys.stderr)
        return EX_CONFIG
    return _run(config, own[1:], program if separator else None)


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nanny", description="Keeps one program of a node alive.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"nanny {installed_version()}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, what in (
        ("run", "supervise; the program to run follows after --"),
        ("check-config", "read the settings, say what is wrong, and where each value comes from"),
        ("resolve", argparse.SUPPRESS),
    ):
        sub = verbs.add_parser(verb, help=what, description=what, allow_abbrev=False)
        sub.add_argument("--config", metavar="FILE", help=f"settings file (NANNY_CONFIG; {DEFAULT_FILE})")
        if verb == "check-config":
            sub.add_argument("--origins", action="store_true", help="show where each value comes from")
            sub.add_argument("--json", action="store_true", help="for programs")
        add_flags(sub, NannyConfig)
    return parser


def _load(
    options: argparse.Namespace, program: list[str] | None, unknown: dict[str, str]
) -> Loaded[NannyConfig]:
    path = options.config or os.environ.get("NANNY_CONFIG")
    if path is None and os.path.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    flags = flags_from(options, NannyConfig) | unknown
    if program is not None:
        flags["command"] = json.dumps(program)
    return load(
        NannyConfig,
        prefix="NANNY",
        environ=os.environ,
        flags=flags,
        toml_path=path,
        check=check,
        foreign_variables=FOREIGN_VARIABLES,
    )


def _run(config: NannyConfig, flags: list[str], program: list[str] | None) -> NoReturn:
    resolve = (
        sys.executable,
        "-m",
        "nanny.cli",
        "resolve",
        *flags,
        *(["--", *program] if program is not None else []),
    )
    name = config.node_name
    # Here and not in the lean process, which it outlasts: execve keeps it, and it takes ctypes.
    with suppress(HostError):
        become_subreaper()
    started = launch.Launch(as_json(config), resolve, installed_version(), node_id(name), name)
    launch.execute(started, os.environ)


def _completed(config: NannyConfig) -> NannyConfig:
    name = config.node_name or platform.node() or "localhost"
    link_command = config.link_command or (sys.executable, "-m", "nanny.link.main")
    return replace(config, node_name=name, link_command=link_command)


def _cannot_run(config: NannyConfig) -> Problem | None:
    if not config.command:
        return Problem(
            "command", (), "a program to supervise: nanny run -- PROGRAM ARG …, or command = […] in the file"
        )
    try:
        check_node_name(config.node_name)
    except ValueError as error:
        return Problem("node_name", config.node_name, str(error))
    return None


def _check_config(loaded: Loaded[NannyConfig], *, origins: bool, as_json_: bool) -> int:
    if as_json_:
        rows = {
            key: {"value": json.loads(value), "origin": where} for key, value, where in origins_table(loaded)
        }
        print(json.dumps(rows if origins else as_json(loaded.config)))
    elif origins:
        rows_ = origins_table(loaded)
        width = max(len(key) for key, _, _ in rows_)
        for key, value, where in rows_:
            print(f"{key:<{width}}  {value:<40}  {where}")
    else:
        print("the settings can be used")
    return 0


def node_id(name: str) -> str:
    """This node's identity: derived from machine id and name, so it needs no storage and can't be cloned away.

    A UUID made by HMAC-SHA256 with the machine id as key, as machine-id(5) recommends; a copied image on another
    machine is another node.
    """
    machine_id = "no-machine-id"
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, encoding="ascii") as file:
                machine_id = file.read().strip() or machine_id
            break
        except (OSError, ValueError):
            continue
    digest = hmac.new(machine_id.encode(), f"nodenanny/{name}".encode(), hashlib.sha256).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("nodenanny")
    except PackageNotFoundError:
        return "0+source"


if __name__ == "__main__":
    sys.exit(main())
