"""``replay``: the flight recorder's events stepped through again, told as a story, compared with what was decided.

The recording comes from the running nanny, from an evidence bundle, or from a file that was saved before; a newer
nannyctl replays an older nanny's, and shows what it would decide otherwise.
"""

from __future__ import annotations

import os
import time
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any

from nanny.common.quantities import duration
from nanny.control_client import RequestRefused
from nanny.core.plain_values import named
from nanny.core.recording_reader import Piece, Played, joints, played, read_recording
from nanny.ctl import exit_codes
from nanny.ctl.evidence import resolve
from nanny.ctl.replay_text import clock, story
from nanny.errors import HostError
from nanny.evidence import listing
from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

FILE_IN_BUNDLE = "recording.jsonl.gz"


def replay(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """Replay, or save; 1 if anything was decided otherwise or a rule was broken."""
    packed, source = _packed(options, node)
    if options.save:
        _save(options.save, packed)
        terminal.progress(f"saved {len(packed)} bytes; nannyctl replay {options.save} tells them")
        return exit_codes.OK
    try:
        return _tell(read_recording(packed), source, options, terminal)
    except ProtocolViolation as error:
        raise RequestRefused(f"{source}: {error}", "replay it with the version that recorded it") from error


def _tell(pieces: list[Piece], source: str, options: argparse.Namespace, terminal: Terminal) -> int:
    summary = _Summary(pieces)
    moments = summary.watch(played(pieces), options.last_s)
    if options.json:
        for one in moments:
            terminal.json(_json(one))
    else:
        terminal.lines([summary.head(source)])
        terminal.lines(story(moments, terminal.paint, tells_all=options.all))
    problems = [*summary.problems, *joints(pieces)]
    if options.json:
        terminal.json({"events": summary.count, "as_recorded": not problems, "problems": problems})
    else:
        terminal.lines([terminal.paint("bad" if problems else "good", summary.verdict(problems))])
    return exit_codes.NO if problems else exit_codes.OK


class _Summary:
    """Counts while the moments pass by."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.count = 0
        self.problems: list[str] = []
        self._first, self._last = pieces[0], pieces[-1]
        self.ends_wall_s = self._last.wall_s
        if self._last.moments:
            self.ends_wall_s += self._last.moments[-1].at - self._last.at

    def watch(self, moments: Iterator[Played], last_s: float | None) -> Iterator[Played]:
        """Pass on the moments of the last so many seconds; all are replayed and counted."""
        for one in moments:
            self.count += 1
            if one.differs:
                self.problems.append(f"{clock(one.wall_s)} decided otherwise: {one.differs}")
            self.problems += [f"{clock(one.wall_s)} {violation}" for violation in one.violations]
            if last_s is None or one.wall_s >= self.ends_wall_s - last_s:
                yield one

    def head(self, source: str) -> str:
        """What this is a recording of."""
        return (
            f"{source}: node {self._first.node}, nanny {self._first.version}, "
            f"{duration(self.ends_wall_s - self._first.wall_s)} until {clock(self.ends_wall_s)}"
        )

    def verdict(self, problems: list[str]) -> str:
        """How the replay went."""
        events = f"{self.count} event{'s' * (self.count != 1)} replayed"
        if problems:
            return f"{events}; {len(problems)} not as recorded, the first: {problems[0]}"
        return f"{events}: every decision as recorded, no rule broken"


def _packed(options: argparse.Namespace, node: Node) -> tuple[bytes, str]:
    where = options.recording
    if where is None:
        with node.connect() as client:
            return a2b_base64(str(client.request("recording").get("gzip_base64", ""))), "the running nanny"
    if os.path.isfile(where):
        try:
            with open(where, "rb") as file:
                return file.read(), where
        except OSError as error:
            raise HostError.from_os_error("read the recording", error, where) from error
    state_dir = node.state_dir()
    name = resolve(where, state_dir, node.runtime_dir)
    try:
        return listing.read_file(state_dir, node.runtime_dir, name, FILE_IN_BUNDLE), name
    except HostError as error:
        raise RequestRefused(
            f"{name} has no recording: {error}", "only bundles made since 0.2 have one"
        ) from error


def _save(path: str, packed: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(packed)
    except OSError as error:
        raise HostError.from_os_error("save the recording", error, path) from error


def _json(one: Played) -> dict[str, Any]:
    state = one.step.state
    return {
        "wall": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(one.wall_s))
        + f".{int(one.wall_s % 1 * 1000):03d}Z",
        "at": one.moment.at,
        "event": named(one.moment.event),
        "phase": str(state.phase),
        "records": [named(record) for record in one.step.records],
        "actions": [named(action) for action in one.step.actions],
        "differs": one.differs,
        "violations": list(one.violations),
    }
