"""The command line: `server-stub` serves; with a verb it asks a running server.

Exit codes: 0 done, 1 the answer is no (a command that did not end well, a server that did not answer), 2
usage or configuration. What tables look like, `tables_shown.py` knows; how to serve, `main.py`, which is
imported only then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from nanny.common.settings import ConfigError
from nanny.common.settings_loading import load
from nanny.common.settings_reference import add_flags, flags_from, origins_table, unknown_flags
from server_stub.client import DEFAULT_URL, RequestFailed, ServerClient
from server_stub.config import PREFIX, SHARED_KEYS, ServerConfig, check

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_WAIT_S: Final = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words.insert(0, "serve")
    parser = _parser()
    arguments, unknown = parser.parse_known_args(words)
    try:
        if arguments.verb in {"serve", "check-config"}:
            return _serve(arguments, unknown_flags(unknown, parser))
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        client = ServerClient(arguments.url)
        answer = _ask(client, arguments)
    except (ConfigError, RequestFailed) as error:
        print(f"server-stub: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        from server_stub import tables_shown  # noqa: PLC0415 (rich is for people only)

        tables_shown.show(arguments.verb, answer)
    return 0 if _went_well(arguments.verb, answer) else 1


def _parser() -> argparse.ArgumentParser:
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

    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--url", default=DEFAULT_URL, help="the server (default: %(default)s)")
    asking.add_argument("--json", action="store_true", help="the server's own answer")
    verbs.add_parser("nodes", parents=[asking], help="all nodes, a line each")
    node = verbs.add_parser("node", parents=[asking], help="one node")
    node.add_argument("node", help="its name or id")
    commands = verbs.add_parser("commands", parents=[asking], help="the newest commands")
    commands.add_argument("node", nargs="?", help="only this node's")
    restart = verbs.add_parser("restart", parents=[asking], help="restart a node's worker")
    restart.add_argument("node", help="its name or id")
    restart.add_argument("--reason", required=True, help="why; everyone will read it")
    restart.add_argument("--actor", default=None, help="who orders it (default: your login name)")
    restart.add_argument(
        "--time-to-live-s", type=float, default=300.0, help="not after so long (default: 300)"
    )
    restart.add_argument(
        "--any",
        action="store_true",
        help="whatever incarnation runs when it arrives, not only the present one",
    )
    restart.add_argument("--wait-s", type=float, default=30.0, help="wait for the outcome (default: 30)")
    return parser


def _add_serve_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default=argparse.SUPPRESS, metavar="FILE", help="a TOML file with settings"
    )
    add_flags(parser, ServerConfig)


def _serve(arguments: argparse.Namespace, unknown_flags: dict[str, str]) -> int:
    environ = {name: value for name, value in os.environ.items() if name != "SERVER_CONFIG"}
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


def _ask(client: ServerClient, arguments: argparse.Namespace) -> Any:
    match arguments.verb:
        case "nodes":
            return client.get("v1", "nodes")
        case "node":
            return client.get("v1", "nodes", arguments.node)
        case "commands" if arguments.node is None:
            return client.get("v1", "commands")
        case "commands":
            return client.get("v1", "nodes", arguments.node, "commands")
        case _:
            return _restart(client, arguments)


def _restart(client: ServerClient, arguments: argparse.Namespace) -> Any:
    order: dict[str, Any] = {
        "kind": "restart",
        "reason": arguments.reason,
        "actor": arguments.actor or f"{_login_name()} by server-stub",
        "time_to_live_s": arguments.time_to_live_s,
        "target_incarnation": None if arguments.any else "current",
    }
    command = client.post("v1", "nodes", arguments.node, "commands", body=order)
    wait_s = min(max(arguments.wait_s, 0.0), LONGEST_WAIT_S)
    return client.get("v1", "commands", command["id"], wait_s=wait_s)


def _login_name() -> str:
    for name in ("SUDO_USER", "LOGNAME", "USER"):
        if os.environ.get(name):
            return os.environ[name]
    return f"uid {os.getuid()}"


def _went_well(verb: str, answer: Any) -> bool:
    if verb != "restart":
        return True
    return answer["state"] not in {"rejected", "expired", "superseded", "failed"}


if __name__ == "__main__":
    sys.exit(main())
