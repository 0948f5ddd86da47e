"""The journal read by a stranger: its files, while the nanny writes them or long after it died. Reads only.

The highest generation is the journal; before a compaction's snapshot come the records of ``journal.jsonl.1``, as far
as they reach back. A line that is being written just now is no damage. Blocks where the disk does: for programs
that may wait.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nanny.errors import HostError
from nanny.journal.generations import Generations
from nanny.journal.records_file import parse

if TYPE_CHECKING:
    from nanny.journal.records_file import Parsed

_TRIES: Final = 5


class Journal(NamedTuple):
    """What could be read."""

    records: list[dict[str, Any]]
    """Oldest first, each number once; after a gap, what a snapshot says of the time before comes first."""
    notes: list[str]
    """What has to be said about the files: damage, or records that were compacted away."""
    last_n: int


def read_journal(state_dir: str) -> Journal:
    """Read all there is.

    Raises:
        HostError: no journal in that directory, or it cannot be read.
    """
    path = os.path.join(state_dir, "journal.jsonl")
    generations = Generations(path)
    for left in reversed(range(_TRIES)):
        try:
            found = _found(state_dir, generations)
            current = parse(generations.read(found[0]))
            break
        except FileNotFoundError as error:
            # Between listing and reading, the next generation took its place.
            if left == 0:
                raise HostError.from_os_error("read the journal", error, path) from error
        except OSError as error:
            raise HostError.from_os_error("read the journal", error, path) from error
    return _joined(current, _older(generations), _damaged_names(state_dir))


def _found(state_dir: str, generations: Generations) -> list[int]:
    found = generations.found()
    if not found:
        # Tells "no such directory" from "no journal in it", and both from "not for you".
        os.listdir(state_dir)
        raise HostError("find a journal", 0, state_dir, "is this the node's state directory?")
    return found


def _older(generations: Generations) -> Parsed | None:
    with suppress(OSError), open(generations.history_path, "rb") as file:
        older = parse(file.read())
        return older if older.header is not None else None
    return None


def _damaged_names(state_dir: str) -> list[str]:
    with suppress(OSError):
        return sorted(name for name in os.listdir(state_dir) if name.startswith("journal.jsonl.damaged-"))
    return []


def _joined(current: Parsed, older: Parsed | None, damaged: list[str]) -> Journal:
    notes = [f"a damaged journal was put aside: {name}" for name in damaged]
    if current.is_damaged:
        notes.append(f"the journal is damaged: {current.reason}")
    header = current.header
    if header is None:
        return Journal([], notes, 0)
    snapshot, fresh = current.records[: header.snapshot], current.records[header.snapshot :]
    before: list[dict[str, Any]] = []
    if older is not None and older.header is not None and older.last_n <= header.base:
        before = [one for one in older.records[older.header.snapshot :] if one["n"] <= header.base]
    if snapshot and (not before or before[-1]["n"] < header.base):
        notes.append(
            f"records up to {header.base} were compacted: of that time only what still held is shown"
        )
        before = [*before, *snapshot]
    return Journal([*before, *fresh], notes, current.last_n)
