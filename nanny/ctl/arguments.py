"""nannyctl's command line as data: verbs, options, their help. The parser and docs/nannyctl.md are made from it.

Options that every verb has may stand before or after the verb.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from nanny.common.quantities import parse_duration
from nanny.ctl import exit_codes

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_RUNTIME_DIR: Final = "/run/nodenanny"
DEFAULT_STATE_DIR: Final = "/var/lib/nodenanny"
TEXT_LIMIT: Final = 500


class Option(NamedTuple):
    """One option or operand."""

    names: tuple[str, ...]
    help: str
    settings: dict[str, Any]
    """For ``add_argument``."""


class Verb(NamedTuple):
    """One thing that nannyctl does."""

    name: str
    help: str
    options: tuple[Option, ...] = ()
    is_order: bool = False
    """Sends a command and waits for its outcome."""


def _option(*names: str, help_: str, **settings: Any) -> Option:
    return Option(names, help_, settings)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no count: a whole number from 1")
    return int(text)


def _text(text: str) -> str:
    if not text or len(text) > TEXT_LIMIT or not text.isprintable():
        raise argparse.ArgumentTypeError(f"a printable text of 1 to {TEXT_LIMIT} characters on one line")
    return text


COMMON: Final = (
    _option(
        "--runtime-dir",
        metavar="DIR",
        help_=f"selects the node, by the directory of its control.sock (NANNY_RUNTIME_DIR; {DEFAULT_RUNTIME_DIR})",
    ),
    _option(
        "--state-dir",
        metavar="DIR",
        help_="where journal and evidence are; asked of the nanny unless given "
        f"(NANNY_STATE_DIR; {DEFAULT_STATE_DIR})",
    ),
    _option("--json", action="store_true", help_="for programs: JSON on stdout, no progress"),
    _option(
        "--answer-timeout",
        metavar="TIME",
        type=_seconds,
        help_="how long the nanny may take for an answer (5s; healthcheck: 40ms)",
    ),
)

_REASON: Final = _option("--reason", metavar="TEXT", type=_text, help_="kept in the journal and shown to all")
_WAITING: Final = (
    _option("--timeout", metavar="TIME", type=_seconds, help_="how long to wait for the outcome (3m)"),
    _option(
        "--no-wait", dest="wait", action="store_false", default=True, help_="be content once it is accepted"
    ),
    _option(
        "--wait", dest="wait", action="store_true", default=True, help_="wait for the outcome (the default)"
    ),
    _option(
        "--id",
        dest="command_id",
        metavar="UUID",
        help_="the order's UUIDv7; the same one twice has one effect and one outcome",
    ),
)
_ORDER: Final = (_REASON, *_WAITING)

VERBS: Final = (
    Verb(
        "status",
        "phase, what is wanted and by whom, worker, ages, conditions, next step",
        (
            _option("-w", "--watch", action="store_true", help_="show it live, until Ctrl-C"),
            _option("--interval", metavar="TIME", type=_seconds, default=1.0, help_="between two looks (1s)"),
        ),
    ),
    Verb("explain", "why the node is in its phase, what happens next, what you could do"),
    Verb(
        "restart",
        "end the worker in order and start the next one",
        (
            _option(
                "--target",
                metavar="EPOCH/N|N|current|any",
                default="current",
                help_="the incarnation meant; if another one lives by then, the order is already satisfied "
                "(current: the one that is there when you ask)",
            ),
            *_ORDER,
        ),
        is_order=True,
    ),
    Verb("stop", "end the worker and keep it down, over reboots too, until start", _ORDER, is_order=True),
    Verb("start", "want the worker up again after stop", _ORDER, is_order=True),
    Verb("drain", "tell everyone that no new work is wanted here; the worker goes on", _ORDER, is_order=True),
    Verb("undrain", "new work is welcome again", _ORDER, is_order=True),
    Verb(
        "hold",
        "suspend involuntary kills for a while (a debugger, a long freeze); orders still work",
        (
            _option(
                "--for",
                dest="for_s",
                metavar="TIME",
                type=_seconds,
                required=True,
                help_="how long, at most 24h: 30m, 2h",
            ),
            *_ORDER,
        ),
        is_order=True,
    ),
    Verb("release", "end a hold", _ORDER, is_order=True),
    Verb("clear", "forget the failures in a row and skip the wait of a backoff", _ORDER, is_order=True),
    Verb("reload", "read the settings anew", _ORDER, is_order=True),
    Verb(
        "logs",
        "the worker's latest output, as the nanny holds it",
        (
            _option("-n", "--lines", metavar="LINES", type=_count, default=100, help_="how many (100)"),
            _option("-f", "--follow", action="store_true", help_="go on with what comes, until Ctrl-C"),
            _option("--raw", action="store_true", help_="pass control characters to the terminal"),
        ),
    ),
    Verb(
        "evidence",
        "what was saved of workers before they were ended",
        (
            _option(
                "what",
                nargs="?",
                choices=("list", "show", "collect"),
                default="list",
                help_="list the bundles; show one, or one file of it; collect: save one of the living worker now",
            ),
            _option("bundle", nargs="?", metavar="BUNDLE", help_="a bundle's name, its beginning, or latest"),
            _option(
                "file", nargs="?", metavar="FILE", help_="a file of it (without: its summary and its files)"
            ),
            *_ORDER,
        ),
        is_order=True,
    ),
    Verb(
        "history",
        "the journal as a story; works without the nanny",
        (
            _option(
                "-n", "--lines", metavar="RECORDS", type=_count, default=50, help_="how many, the newest (50)"
            ),
            _option("--since", metavar="TIME", help_="all since 2h ago, or since 2026-05-01T12:00 (UTC)"),
            _option("-f", "--follow", action="store_true", help_="go on with what comes, until Ctrl-C"),
            _option("--all", action="store_true", help_="the nanny's own bookkeeping too"),
        ),
    ),
    Verb(
        "replay",
        "the latest events decided anew, told as a story: what the nanny saw, decided and did, and why",
        (
            _option(
                "recording",
                nargs="?",
                metavar="FILE|BUNDLE",
                help_="a saved recording, or an evidence bundle (or latest); without: ask the running nanny",
            ),
            _option("--last", dest="last_s", metavar="TIME", type=_seconds, help_="tell only the last 5m"),
            _option("--all", action="store_true", help_="each event, also where there was nothing to decide"),
            _option(
                "--save",
                metavar="FILE",
                type=_text,
                help_="keep it in a new file (gzip) instead of telling it",
            ),
        ),
    ),
    Verb(
        "healthcheck",
        "one line and 0 or 1, at once: for Slurm's HealthCheckProgram and its like",
        (
            _option(
                "--allow-degraded", action="store_true", help_="a worker in trouble that lives is healthy"
            ),
            _option("--fail-when-draining", action="store_true", help_="a node that drains is not"),
        ),
    ),
    Verb(
        "reexec",
        "upgrade the nanny in place: same pid, the worker untouched",
        (
            _option(
                "--timeout", metavar="TIME", type=_seconds, help_="how long to wait for the new one (30s)"
            ),
        ),
    ),
    Verb("check-config", "read the settings and say what is wrong (see nanny check-config --help)"),
)


class _Help(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each option that is added, and looks for the terminal's width by loading shutil."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=_columns())


def _columns() -> int:
    try:
        return max(os.get_terminal_size().columns - 2, 40)
    except OSError:
        return 100


class _Parser(argparse.ArgumentParser):
    """argparse with sysexits' code for wrong usage: 2 has a meaning of ours."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exit_codes.USAGE, f"{self.prog}: {message}\n  next: {self.prog} --help\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of one call; ``rest`` holds what is passed on by check-config.

    Raises:
        SystemExit: with 0 for --help, with 64 for wrong usage.
    """
    parser = _parser(_named_in(argv))
    options, rest = parser.parse_known_args(argv)
    for key, value in (("runtime_dir", None), ("state_dir", None), ("json", False), ("answer_timeout", None)):
        if not hasattr(options, key):
            setattr(options, key, value)
    if rest and options.verb != "check-config":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options


def _named_in(argv: Sequence[str]) -> tuple[Verb, ...]:
    """The verbs that this call may mean: the others' parsers, a third of a healthcheck's time, are not made."""
    named = tuple(verb for verb in VERBS if verb.name in argv)
    return named if named and not {"-h", "--help"} & set(argv[:1]) else VERBS


def _parser(known: Sequence[Verb]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nannyctl",
        description="Asks a node's nanny, and gives it orders.",
        epilog=f"exit codes:\n{exit_codes.text()}\n\n3 a.m.? nannyctl explain",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    _add(parser, COMMON, argparse.SUPPRESS)
    # prog is given, or argparse would load shutil to find it out.
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", prog="nannyctl")
    for verb in known:
        sub = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.help + ".",
            epilog=f"exit codes:\n{exit_codes.text()}",
            formatter_class=_Help,
            allow_abbrev=False,
        )
        _add(sub, verb.options)
        _add(sub, COMMON, argparse.SUPPRESS)
    return parser


def _add(parser: argparse.ArgumentParser, options: Sequence[Option], default: str | None = None) -> None:
    for option in options:
        settings = option.settings if default is None else {**option.settings, "default": default}
        parser.add_argument(*option.names, help=option.help, **settings)
