"""``evidence``: the bundles listed, shown, or one more ordered. Reads the disk itself, and may wait for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nanny.common.quantities import size
from nanny.control_client import RequestRefused
from nanny.ctl import exit_codes, orders
from nanny.ctl.terminal import table, visible_lines
from nanny.errors import HostError
from nanny.evidence import listing

if TYPE_CHECKING:
    import argparse

    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

_KEYS = ("name", "at", "incarnation", "reason", "size_bytes", "stalled_at", "signature", "directory")
_SUMMARY = "summary.txt"


def evidence(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """List, show or collect."""
    if options.what == "collect":
        if options.bundle:
            raise orders.UsageError(
                "evidence collect takes no bundle", "nannyctl evidence show BUNDLE shows one"
            )
        return orders.give(options, node, terminal)
    state_dir = node.state_dir()
    _check_readable(state_dir)
    if options.what == "list":
        return _list(options, state_dir, node.runtime_dir, terminal)
    name = resolve(options.bundle or "latest", state_dir, node.runtime_dir)
    if options.file:
        try:
            content = listing.read_file(state_dir, node.runtime_dir, name, options.file)
        except HostError as error:
            raise RequestRefused(str(error), f"nannyctl evidence show {name}") from error
        return _content(options, terminal, name, content)
    return _show(options, terminal, name, state_dir, node.runtime_dir)


def bundles_json(state_dir: str, runtime_dir: str) -> list[dict[str, Any]]:
    """All bundles, newest first, as JSON objects."""
    return [
        {
            **{key: getattr(one, key) for key in _KEYS},
            "is_finished": one.is_finished,
            "in_memory": one.is_fallback,
        }
        for one in listing.list_bundles(state_dir, runtime_dir)
    ]


def _check_readable(state_dir: str) -> None:
    """An empty list must mean that there is nothing, not that we may not look."""
    try:
        os.listdir(state_dir)
        path = os.path.join(state_dir, "evidence")
        if os.path.lexists(path):
            os.listdir(path)
    except OSError as error:
        raise HostError.from_os_error("read the evidence", error, error.filename or state_dir) from error


def _list(options: argparse.Namespace, state_dir: str, runtime_dir: str, terminal: Terminal) -> int:
    bundles = bundles_json(state_dir, runtime_dir)
    if options.json:
        terminal.json(bundles)
        return exit_codes.OK
    if not bundles:
        terminal.lines(
            [f"no evidence in {state_dir}/evidence: no worker had to be ended, and none was asked for"]
        )
        return exit_codes.OK
    rows = [
        [
            ("name", str(one["name"])),
            ("", str(one["incarnation"]).rpartition("/")[2]),
            ("", size(int(one["size_bytes"]))),
            ("", str(one["stalled_at"] or "-")),
            ("warn", _remark(one)),
        ]
        for one in bundles
    ]
    terminal.lines(table(("BUNDLE", "WORKER", "SIZE", "STALLED AT", ""), rows, terminal.paint))
    return exit_codes.OK


def _remark(one: dict[str, Any]) -> str:
    remarks = []
    if not one["is_finished"]:
        remarks.append("unfinished")
    if one["in_memory"]:
        remarks.append("in memory only, cut")
    return ", ".join(remarks)


def resolve(text: str, state_dir: str, runtime_dir: str) -> str:
    """The bundle meant by a name, the beginning of one, or ``latest``.

    Raises:
        RequestRefused: none, or more than one.
    """
    names = [one.name for one in listing.list_bundles(state_dir, runtime_dir)]
    if text == "latest":
        found = names[:1]
    else:
        found = [text] if text in names else [name for name in names if name.startswith(text)]
    if len(found) != 1:
        many = f"{len(found)} bundles begin" if found else "no bundle begins"
        raise RequestRefused(
            f"evidence {text[:80]!r}: {many} so in {state_dir}/evidence", "nannyctl evidence list"
        )
    return found[0]


def _content(options: argparse.Namespace, terminal: Terminal, name: str, content: bytes) -> int:
    text = content.decode("utf-8", "replace")
    if options.json:
        terminal.json({"bundle": name, "file": options.file, "text": text})
    else:
        terminal.text(visible_lines(text) if terminal.is_tty else text)
    return exit_codes.OK


def _show(
    options: argparse.Namespace, terminal: Terminal, name: str, state_dir: str, runtime_dir: str
) -> int:
    files = listing.list_files(state_dir, runtime_dir, name)
    summary = ""
    if any(file_name == _SUMMARY for file_name, _ in files):
        summary = listing.read_file(state_dir, runtime_dir, name, _SUMMARY).decode("utf-8", "replace")
    if options.json:
        terminal.json({"bundle": name, "summary": summary, "files": dict(files)})
        return exit_codes.OK
    terminal.text(
        visible_lines(summary) or f"{name}: no summary (its collector was ended before it had written one)\n"
    )
    rows = [[("name", file_name), ("", size(size_bytes))] for file_name, size_bytes in files]
    terminal.lines(["", *table(("FILE", "SIZE"), rows, terminal.paint)])
    terminal.lines(["", f"a file: nannyctl evidence show {name} stacks.txt"])
    return exit_codes.OK
