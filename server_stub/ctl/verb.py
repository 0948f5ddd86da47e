"""What a verb of the command line is: how it asks the server, how people see the answer, whether it went well.

A file of verbs has `add(verbs)`, which adds a parser for each with a `Verb` as its default. `--json` shows
the server's own answer, `--watch` asks again whenever something changed. Knows no particular verb.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nanny.common.quantities import parse_duration
from server_stub.client import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from server_stub.client import ServerClient

URL_VARIABLE: Final = "SERVER_STUB_URL"
WATCH_INTERVAL_S: Final = 2.0
LONG_POLL_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb."""

    ask: Callable[[ServerClient, argparse.Namespace], Any]
    """Gives the server's answer; `arguments.seen` has the one before when watching, else None."""
    show: Callable[[Any], list[RenderableType]]
    is_good: Callable[[Any], bool] = lambda _answer: True
    """False makes the exit code 1."""
    is_stream: bool = False
    """Watching appends what is new, instead of drawing all of it anew."""


class Adder:
    """Adds verbs to a parser, each with the flags that all have."""

    def __init__(self, verbs: Any) -> None:
        self._verbs = verbs

    def add(
        self, name: str, verb: Verb, help_text: str, *, may_watch: bool = False
    ) -> argparse.ArgumentParser:
        """Add a verb; its own arguments are the caller's to add."""
        parser: argparse.ArgumentParser = self._verbs.add_parser(
            name, help=help_text, description=help_text, allow_abbrev=False
        )
        add_common(parser, verb, may_watch=may_watch)
        return parser

    def add_group(self, name: str, help_text: str) -> Adder:
        """Add a verb that has verbs of its own."""
        parser = self._verbs.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        return Adder(parser.add_subparsers(dest=f"{name}_verb", metavar="VERB", required=True))


def add_common(parser: argparse.ArgumentParser, verb: Verb, *, may_watch: bool) -> None:
    """Add what every verb takes."""
    parser.set_defaults(asking=verb, watch=False, seen=None)
    url = os.environ.get(URL_VARIABLE, DEFAULT_URL)
    parser.add_argument("--url", default=url, help=f"the server ({URL_VARIABLE}; now: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the server's own answer")
    if may_watch:
        parser.add_argument("--watch", "-w", action="store_true", help="stay, and show each change")


def add_reason(parser: argparse.ArgumentParser) -> None:
    """Add who does it, and why."""
    parser.add_argument("--reason", required=True, help="why; everyone will read it")
    parser.add_argument("--actor", default=None, help="who orders it (default: your login name)")


def actor_of(arguments: argparse.Namespace) -> str:
    """Give who orders it."""
    return arguments.actor or f"{login_name()} by server-stub"


def login_name() -> str:
    """Give who sits at this terminal, as far as the environment tells."""
    for name in ("SUDO_USER", "LOGNAME", "USER"):
        if os.environ.get(name):
            return os.environ[name]
    return f"uid {os.getuid()}"


def seconds_argument(text: str) -> float:
    """Read a duration such as 90s, 30m, 2h for argparse."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def newer(client: ServerClient, arguments: argparse.Namespace, *path: str) -> Any:
    """Ask; when watching, for what is newer than the answer before."""
    if arguments.seen is None:
        return client.get(*path)
    return client.get(*path, wait_s=LONG_POLL_S, revision=str(arguments.seen["revision"]))
