"""``status`` and ``explain``: asked once, or shown live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nanny.control_client import ControlClient, ControlError, NotPermitted
from nanny.ctl import exit_codes
from nanny.ctl.status_text import status_lines

if TYPE_CHECKING:
    import argparse

    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

_RETRY_S = 0.5


def status(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """What is the case."""
    if options.watch:
        return _watch(options, node, terminal)
    told = node.status()
    if options.json:
        terminal.json(told)
    else:
        terminal.lines(status_lines(told, terminal.paint, time.time()))
    return exit_codes.OK


def _watch(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """Redrawn at each change and each interval; a nanny that goes away is waited for. Ctrl-C ends it well."""
    try:
        while True:
            try:
                with node.connect() as client:
                    _watch_one(client, options, terminal)
            except NotPermitted:
                raise
            except ControlError as away:
                _show(
                    terminal,
                    [terminal.paint("bad", f"● {away}"), "", f"  {away.advice}"],
                    is_json=options.json,
                )
                time.sleep(_RETRY_S)
    except KeyboardInterrupt:
        return exit_codes.OK


def _watch_one(client: ControlClient, options: argparse.Namespace, terminal: Terminal) -> None:
    told = client.subscribe()
    while True:
        if options.json:
            terminal.json(told)
        else:
            _show(terminal, status_lines(told, terminal.paint, time.time()), is_json=False)
        push = client.next_push(options.interval)
        while push is not None and push.get("push") != "status":
            push = client.next_push(0.0)
        told = client.request("status") if push is None else push["status"]


def _show(terminal: Terminal, lines: list[str], *, is_json: bool) -> None:
    if is_json:
        return
    if terminal.is_tty:
        terminal.fresh_screen(lines)
    else:
        terminal.lines([*lines, ""])


def explain(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """The story, then the evidence, then what could be done."""
    from nanny.ctl.explain_text import (  # noqa: PLC0415  # not for status
        advice_for,
        advice_lines,
        evidence_lines,
        story_lines,
    )

    told = node.status()
    paint = terminal.paint
    if not options.json:
        # Before any disk is read: that one may hang, and may be what this is all about.
        terminal.lines([*story_lines(told, paint, time.time()), ""])
    bundles = [] if told.get("journal_degraded") else _bundles(node, told)
    newest = str(bundles[0]["name"]) if bundles else None
    advice = advice_for(told, newest, node.flag)
    if options.json:
        keys = ("node_name", "phase", "because", "next_step", "next_step_in_s", "desired", "hold", "draining")
        more = ("incarnation", "last_restart", "conditions", "stall_stack")
        story: dict[str, Any] = {key: told.get(key) for key in (*keys, *more)}
        terminal.json({**story, "evidence": bundles[:3], "advice": [one._asdict() for one in advice]})
    else:
        if told.get("journal_degraded"):
            terminal.lines(["Evidence is not looked for: the disk may hang (nannyctl evidence)", ""])
        elif newest is not None:
            terminal.lines([*evidence_lines(bundles, paint), ""])
        terminal.lines(advice_lines(advice, paint))
    return exit_codes.OK


def _bundles(node: Node, told: dict[str, Any]) -> list[dict[str, Any]]:
    from nanny.ctl.evidence import bundles_json  # noqa: PLC0415  # not for status

    return bundles_json(node.state_dir(told), node.runtime_dir)
