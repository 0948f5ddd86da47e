"""The command line: `server-stub` serves; with a verb it asks a running server.

Exit codes: 0 done, 1 the answer is no (a command that did not end well, a server that did not answer), 2
usage or configuration. The verbs are in `server_stub/ctl/`; how to serve, `main.py` knows, which is imported
only then.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from nanny.common.settings import ConfigError
from nanny.common.settings_loading import load
from nanny.common.settings_reference import add_flags, flags_from, origins_table, unknown_flags
from server_stub.client import RequestFailed, ServerClient
from server_stub.config import PREFIX, SHARED_KEYS, ServerConfig, check

if TYPE_CHECKING:
    from collections.abc import Sequence

FOREIGN_VARIABLES = frozenset({"SERVER_CONFIG", "SERVER_STUB_URL"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words.insert(0, "serve")
    parser = _parser(words[0])
    arguments, unknown = parser.parse_known_args(words)
    try:
        if arguments.verb in {"serve", "check-config"}:
            return _serve(arguments, unknown_flags(unknown, parser))
        if arguments.verb == "simulate" and not unknown:
            from server_stub.fleet import command  # noqa: PLC0415

            return command.run(arguments)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        from server_stub.ctl.live import show_once, watch  # noqa: PLC0415 (a server shows nothing)

        client = ServerClient(arguments.url)
        if arguments.watch:
            watch(client, arguments)
            return 0
        answer = arguments.asking.ask(client, arguments)
        show_once(arguments, answer)
    except (ConfigError, RequestFailed) as error:
        print(f"server-stub: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 0 if getattr(arguments, "watch", False) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more: no traceback
        return 0
    return 0 if arguments.asking.is_good(answer) else 1


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server-stub",
        description="A small control server for nodes that nanny keeps alive. Without a verb it serves.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_serve_flags(verbs.add_parser("serve", help="serve (the default)", allow_abbrev=False))
    checking = verbs.add_parser("check-config", help="check the configuration and say it", allow_abbrev=False)
    _add_serve_flags(checking)
    checking.add_argument("--origins", action="store_true", help="say where each value comes from")
    if verb not in {"serve", "check-config"}:
        from server_stub.ctl import all_verbs  # noqa: PLC0415 (a server needs neither these nor rich)

        all_verbs.add(verbs)
        simulating = verbs.add_parser(
            "simulate", help="a fleet of simulated nodes, for load", allow_abbrev=False
        )
        if verb == "simulate":
            from server_stub.fleet import command  # noqa: PLC0415 (nor a fleet)

            command.add_flags(simulating)
    return parser


def _add_serve_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default=argparse.SUPPRESS, metavar="FILE", help="a TOML file with settings"
    )
    add_flags(parser, ServerConfig)


def _serve(arguments: argparse.Namespace, unknown_flags: dict[str, str]) -> int:
    environ = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    loaded = load(
        ServerConfig,
        prefix=PREFIX,
        environ=environ,
        flags=flags_from(arguments, ServerConfig) | unknown_flags,
        toml_path=getattr(arguments, "config", os.environ.get("SERVER_CONFIG")),
        check=check,
        shared_keys=SHARED_KEYS,
    )
    if arguments.verb == "check-config":
        for key, value, origin in origins_table(loaded):
            print(f"{key} = {value}" + (f"  ({origin})" if arguments.origins else ""))
        return 0
    import uvloop  # noqa: PLC0415 (asking a server needs neither loop nor database)

    from server_stub.main import StartError, serve  # noqa: PLC0415

    try:
        uvloop.run(serve(loaded.config))
    except StartError as error:
        print(f"server-stub: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
