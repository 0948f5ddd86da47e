"""``nannyctl``: the operator's tool. Chooses the verb, and turns every way to fail into words and an exit code.

Each verb is a module of ``nanny.ctl``, loaded when it is asked for: a healthcheck must not pay for a history.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nanny.control_client import ControlError, NannyUnreachable, NotPermitted, RequestRefused, TryAgain
from nanny.ctl import exit_codes
from nanny.ctl.terminal import Terminal
from nanny.errors import HostError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from nanny.ctl.node import Node

    Run = Callable[[argparse.Namespace, Node, Terminal], int]


def main(argv: list[str] | None = None) -> int:
    """Run one verb; gives the exit code."""
    from nanny.ctl import arguments  # noqa: PLC0415  # argparse is the largest part of a start
    from nanny.ctl.node import Node  # noqa: PLC0415

    options = arguments.parse(sys.argv[1:] if argv is None else argv)
    terminal = Terminal()
    terminal.is_quiet = options.json
    try:
        if options.verb == "check-config":
            return _check_config(options)
        return _verb(options.verb)(options, Node(options), terminal)
    except (ControlError, HostError) as error:
        code, advice = _code_of(error)
        if options.json:
            terminal.json({"error": str(error), "advice": advice, "exit_code": code})
        else:
            terminal.error(str(error), advice)
        return code
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        terminal.give_up_output()
        return exit_codes.OK


def _verb(name: str) -> Run:
    # One import each, where it is needed: see the header.
    match name:
        case "healthcheck":
            from nanny.ctl.healthcheck import healthcheck as run  # noqa: PLC0415
        case "status":
            from nanny.ctl.looking import status as run  # noqa: PLC0415
        case "explain":
            from nanny.ctl.looking import explain as run  # noqa: PLC0415
        case "logs":
            from nanny.ctl.logs import logs as run  # noqa: PLC0415
        case "evidence":
            from nanny.ctl.evidence import evidence as run  # noqa: PLC0415
        case "history":
            from nanny.ctl.history import history as run  # noqa: PLC0415
        case "replay":
            from nanny.ctl.replay import replay as run  # noqa: PLC0415
        case "reexec":
            from nanny.ctl.reexec import reexec as run  # noqa: PLC0415
        case _:
            from nanny.ctl.orders import give as run  # noqa: PLC0415
    return run


def _check_config(options: argparse.Namespace) -> int:
    from nanny import cli  # noqa: PLC0415  # brings the whole settings machinery

    # What we took for ours is a setting there.
    rest = [*(["--json"] if options.json else []), *options.rest]
    for flag, value in (("--runtime-dir", options.runtime_dir), ("--state-dir", options.state_dir)):
        rest += [flag, value] if value is not None else []
    try:
        return cli.main(["check-config", *rest])
    except SystemExit as ended:
        # argparse says 2 for wrong usage, which means something else here.
        return exit_codes.USAGE if ended.code == 2 else int(ended.code or 0)


def _code_of(error: ControlError | HostError) -> tuple[int, str]:
    """The exit code, and what to do next."""
    match error:
        case HostError() if isinstance(error.__cause__, PermissionError):
            return exit_codes.NOT_PERMITTED, "become root: journal and evidence belong to the nanny's user"
        case HostError():
            return exit_codes.UNREACHABLE, "--state-dir or NANNY_STATE_DIR names the node's state directory"
        case NotPermitted():
            return exit_codes.NOT_PERMITTED, error.advice
        case TryAgain():
            return exit_codes.AGAIN, error.advice
        case RequestRefused():
            return exit_codes.NO, error.advice
        case NannyUnreachable():
            return exit_codes.UNREACHABLE, error.advice
        case _:
            return exit_codes.USAGE, error.advice


if __name__ == "__main__":
    sys.exit(main())
