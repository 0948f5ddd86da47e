"""``logs``: the worker's latest output, from the nanny's memory; what is older is with journald or in log_dir.

The nanny gives the end of its ring without a position, so following means finding where the last answer ended in
the next one. Lines that repeat word for word may be told once too few; what was missed is said.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nanny.control_client import NannyUnreachable, NotPermitted, RequestRefused
from nanny.ctl import exit_codes
from nanny.ctl.terminal import visible_lines

if TYPE_CHECKING:
    import argparse

    from nanny.control_client import ControlClient
    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

_WINDOW_BYTES = 1 << 20
_FOLLOWED_BYTES = 256 << 10
_POLL_S = 0.25
_ANCHOR = 4096


def logs(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """The last lines, and what follows if wanted."""
    with node.connect() as client:
        text = _tail(client, _WINDOW_BYTES)
        shown = text.splitlines(keepends=True)[-options.lines :]
        if options.json:
            terminal.json({"lines": [line.rstrip("\n") for line in shown]})
        else:
            terminal.text(_shown("".join(shown), options, terminal))
        if not options.follow:
            return exit_codes.OK
    return _follow(text, options, node, terminal)


def _follow(text: str, options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    try:
        while True:
            try:
                with node.connect() as client:
                    while True:
                        time.sleep(_POLL_S)
                        latest = _tail(client, _FOLLOWED_BYTES)
                        fresh, is_gap = news(text, latest)
                        if is_gap:
                            terminal.progress("-- some output was missed --")
                        if fresh and options.json:
                            terminal.json({"text": fresh})
                        elif fresh:
                            terminal.text(_shown(fresh, options, terminal))
                        text = latest
            except NotPermitted:
                raise
            except (NannyUnreachable, RequestRefused):
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return exit_codes.OK


def news(before: str, latest: str) -> tuple[str, bool]:
    """What `latest` has that `before` had not, and whether something in between was missed.

    Both are ends of the same stream. Pure.
    """
    if not before:
        return latest, False
    if latest.startswith(before):
        return latest[len(before) :], False
    for length in (_ANCHOR, 256):
        anchor = before[-length:]
        at = latest.rfind(anchor)
        if at >= 0:
            return latest[at + len(anchor) :], False
    return latest, True


def _tail(client: ControlClient, limit_bytes: int) -> str:
    return str(client.request("logs", limit_bytes=limit_bytes).get("text", ""))


def _shown(text: str, options: argparse.Namespace, terminal: Terminal) -> str:
    return visible_lines(text) if terminal.is_tty and not options.raw else text
