"""``history``: the journal as a story, read from its files, whether or not a nanny lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nanny.common.quantities import instant
from nanny.ctl import exit_codes
from nanny.ctl.history_text import BOOKKEEPING, boot_line, note_line, story_line
from nanny.ctl.journal_files import read_journal
from nanny.ctl.orders import UsageError
from nanny.errors import HostError

if TYPE_CHECKING:
    import argparse

    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

_POLL_S = 0.5


def history(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """The latest records, or those since an instant; then what follows, if wanted."""
    since = _since(options.since)
    state_dir = node.state_dir()
    journal = read_journal(state_dir)
    records = [one for one in journal.records if _is_wanted(one, since, wants_all=options.all)]
    if since is None:
        records = records[-options.lines :]
    if not options.json:
        terminal.lines(note_line(note, terminal.paint) for note in journal.notes)
    boot = _tell(records, "", options, terminal)
    if not records and not options.json:
        terminal.progress(f"nothing to tell in {state_dir}" + (" since then" if since else ""))
    if options.follow:
        return _follow(journal.last_n, boot, state_dir, options, terminal)
    return exit_codes.OK


def _follow(last_n: int, boot: str, state_dir: str, options: argparse.Namespace, terminal: Terminal) -> int:
    try:
        while True:
            time.sleep(_POLL_S)
            try:
                journal = read_journal(state_dir)
            except HostError:
                continue  # It is being replaced, or the disk is away: the next look may see it.
            fresh = [one for one in journal.records if one["n"] > last_n]
            last_n = max(last_n, journal.last_n)
            wanted = [one for one in fresh if _is_wanted(one, None, wants_all=options.all)]
            boot = _tell(wanted, boot, options, terminal)
    except KeyboardInterrupt:
        return exit_codes.OK


def _tell(records: list[dict[str, Any]], boot: str, options: argparse.Namespace, terminal: Terminal) -> str:
    """Write them; gives the boot of the last one."""
    for record in records:
        if options.json:
            terminal.json(record)
            continue
        latest = str(record.get("boot") or "")
        if boot and latest and latest != boot:
            terminal.lines([boot_line(terminal.paint)])
        boot = latest or boot
        terminal.lines([story_line(record, terminal.paint)])
    return boot


def _is_wanted(record: dict[str, Any], since: str | None, *, wants_all: bool) -> bool:
    if record.get("type") in BOOKKEEPING and not wants_all:
        return False
    return since is None or str(record.get("wall") or "") >= since


def _since(text: str | None) -> str | None:
    """As the journal writes instants, so that text compares as time."""
    if text is None:
        return None
    try:
        wall_s = instant(text, time.time())
    except ValueError as error:
        raise UsageError(f"--since: {error}") from None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(max(wall_s, 0.0)))
