"""The few facts needed for adoption, in a small file in /run: there even if the journal's disk hangs.

/run is tmpfs (hier(7), file-hierarchy(7)): writing there cannot wait for a disk, so the nanny does it itself.
Replaced by rename(2), so a reader sees the old facts or the new ones; not synced, since they are of this boot
only. The fields are the caller's: this file knows only how to keep and check them.
"""

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_MAX_BYTES = 4 << 20
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class FactsRead:
    """What was found. Invariant: one of the two is None."""

    facts: dict[str, Any] | None
    reason: str | None
    """Why there are none."""


def write_facts(path: str, facts: Mapping[str, Any]) -> None:
    """Replace the facts at `path`.

    Raises:
        OSError: the old ones are still there.
        TypeError, ValueError: not JSON, or too long to be read again.
    """
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False).encode("ascii")
    content = b"%08x %b\n" % (zlib.crc32(text), text)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{len(content)} bytes of facts, over {_MAX_BYTES}")
    draft = f"{path}.draft"
    try:
        # O_EXCL follows no link that someone put there; a draft left by a crash is removed first.
        with suppress(FileNotFoundError):
            os.unlink(draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.rename(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise


def read_facts(path: str) -> FactsRead:
    """The facts at `path`, or why there are none. Raises nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            content = b""
            while len(content) <= _MAX_BYTES and (chunk := os.read(descriptor, _MAX_BYTES)):
                content += chunk
        finally:
            os.close(descriptor)
    except OSError as error:
        return FactsRead(None, str(error))
    if len(content) > _MAX_BYTES:
        return FactsRead(None, f"{path}: over {_MAX_BYTES} bytes")
    text = content[9:-1]
    if content[-1:] != b"\n" or content[:9] != b"%08x " % zlib.crc32(text):
        return FactsRead(None, f"{path}: the checksum differs")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        return FactsRead(None, f"{path}: {error}")
    if not isinstance(facts, dict):
        return FactsRead(None, f"{path}: no JSON object")
    return FactsRead(facts, None)
