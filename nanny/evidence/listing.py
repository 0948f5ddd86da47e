"""Bundles shown: which there are, and what is in one. For nannyctl and its like, not for the nanny's process.

Reads disks, and therefore may hang. Names come from people and from the network: only a name that has a
bundle's shape, and only a plain file directly in it, is ever opened, and no link is followed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from nanny.errors import HostError
from nanny.evidence.bundle_name import UNFINISHED, BundleName, parse_name

READ_LIMIT_BYTES: Final = 16 << 20
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle, as a list shows it."""

    name: str
    at: str
    """UTC, ``20260501T120000.123456Z``."""
    incarnation: str
    """``epoch/number``; only the number where the bundle does not tell."""
    reason: str
    size_bytes: int
    stalled_at: str
    signature: str
    directory: str
    is_finished: bool
    """False: its collector was ended before it had written everything."""
    is_fallback: bool
    """In memory only, and cut, because the disk did not take it."""


def list_bundles(state_dir: str, runtime_dir: str) -> list[Bundle]:
    """Give all bundles, newest first; directories that cannot be read count as empty."""
    found = []
    for parent, is_fallback in ((f"{state_dir}/evidence", False), (f"{runtime_dir}/evidence", True)):
        with suppress(OSError):
            for entry in os.listdir(parent):
                name = entry.removeprefix(UNFINISHED)
                parsed = parse_name(name)
                if parsed is not None:
                    with suppress(OSError):
                        found.append(_bundle(parent, entry, parsed, is_fallback=is_fallback))
    return sorted(found, key=lambda bundle: bundle.name, reverse=True)


def list_files(state_dir: str, runtime_dir: str, name: str) -> list[tuple[str, int]]:
    """Give a bundle's files with their sizes in bytes.

    Raises:
        HostError: there is no such bundle.
    """
    fd = _open_bundle(state_dir, runtime_dir, name)
    try:
        files = []
        for file_name in sorted(os.listdir(fd)):
            shown = os.stat(file_name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(shown.st_mode):
                files.append((file_name, shown.st_size))
        return files
    finally:
        os.close(fd)


def read_file(state_dir: str, runtime_dir: str, name: str, file_name: str) -> bytes:
    """Give one file of a bundle, at most 16 MiB of it.

    Raises:
        HostError: there is no such bundle, or no such plain file in it.
    """
    directory_fd = _open_bundle(state_dir, runtime_dir, name)
    try:
        return _read_in(directory_fd, file_name)
    except OSError as error:
        raise HostError.from_os_error("read evidence", error, f"{name}/{file_name}") from error
    finally:
        os.close(directory_fd)


def _open_bundle(state_dir: str, runtime_dir: str, name: str) -> int:
    if parse_name(name) is not None:
        for parent in (f"{state_dir}/evidence", f"{runtime_dir}/evidence"):
            for entry in (name, UNFINISHED + name):
                with suppress(OSError):
                    return os.open(f"{parent}/{entry}", _FLAGS | os.O_DIRECTORY)
    raise HostError("find the evidence", errno.ENOENT, name[:200])


def _read_in(directory_fd: int, file_name: str) -> bytes:
    if "/" in file_name or "\0" in file_name or file_name in {"", ".", ".."}:
        raise OSError(errno.EINVAL, "not the name of a file in a bundle")
    fd = os.open(file_name, _FLAGS, dir_fd=directory_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        content = b""
        while len(content) < READ_LIMIT_BYTES and (chunk := os.read(fd, READ_LIMIT_BYTES - len(content))):
            content += chunk
        return content
    finally:
        os.close(fd)


def _bundle(parent: str, entry: str, parsed: BundleName, *, is_fallback: bool) -> Bundle:
    directory = f"{parent}/{entry}"
    fd = os.open(directory, _FLAGS | os.O_DIRECTORY)
    try:
        told: dict[str, Any] = {}
        with suppress(OSError, ValueError, RecursionError):
            loaded = json.loads(_read_in(fd, "reason.json"))
            told = loaded if isinstance(loaded, dict) else {}
        size_bytes = sum(os.stat(name, dir_fd=fd, follow_symlinks=False).st_size for name in os.listdir(fd))
    finally:
        os.close(fd)
    return Bundle(
        name=entry.removeprefix(UNFINISHED),
        at=parsed.at,
        incarnation=str(told.get("incarnation", parsed.number)),
        reason=str(told.get("reason", parsed.reason)),
        size_bytes=size_bytes,
        stalled_at=str(told.get("stalled_at", "")),
        signature=str(told.get("signature", "")),
        directory=directory,
        is_finished=not entry.startswith(UNFINISHED),
        is_fallback=is_fallback,
    )
