"""An answer shown once, or again and again: redrawn for states, appended for events, JSON lines for programs.

A server that goes away is told of and waited for. Ctrl-C ends it well.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from server_stub.client import RequestFailed

if TYPE_CHECKING:
    import argparse

    from server_stub.client import ServerClient

RETRY_S: Final = 1.0
PIPE_WIDTH: Final = 240


def console() -> Console:
    """Give where people read; what goes into a pipe is not folded to some width."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def show_once(arguments: argparse.Namespace, answer: Any) -> None:
    """Print an answer."""
    if arguments.json:
        print(json.dumps(answer, indent=2))  # noqa: T201 (what the command line is for)
    else:
        console().print(*arguments.asking.show(answer), sep="\n")


def watch(client: ServerClient, arguments: argparse.Namespace) -> None:
    """Show each answer until interrupted."""
    if arguments.json:
        for answer in _answers(client, arguments, None):
            if answer is not None:
                print(json.dumps(answer), flush=True)  # noqa: T201
        return
    out = console()
    if arguments.asking.is_stream:
        for answer in _answers(client, arguments, out):
            if answer is not None:
                shown = arguments.asking.show(answer)
                if shown:
                    out.print(*shown, sep="\n")
        return
    with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
        for answer in _answers(client, arguments, None):
            if answer is None:
                live.update(Text(f"no answer from {client.url}; waiting for it", style="red"), refresh=True)
            else:
                live.update(Group(*arguments.asking.show(answer)), refresh=True)


def _answers(client: ServerClient, arguments: argparse.Namespace, told: Console | None) -> Any:
    """Give answers for ever, None for each time that there was none."""
    is_away = False
    while True:
        try:
            answer = arguments.asking.ask(client, arguments)
        except RequestFailed as failed:
            if failed.status not in {None, 503}:
                raise  # it answered: asking again would not help
            if not is_away:
                (told or Console(file=sys.stderr)).print(Text(str(failed), style="red"))
            is_away = True
            yield None
            time.sleep(RETRY_S)
            continue
        is_away = False
        yield answer
        arguments.seen = answer
