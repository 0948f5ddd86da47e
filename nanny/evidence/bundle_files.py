"""A bundle as files: written one by one into ``.partial-<name>``, then renamed, so that a name is a whole bundle.

Whether the disk answers is the caller's question (nanny.evidence.apart). Files are made anew and never
followed through links; they are for the nanny's user and group, since stacks and command lines tell much.
rename(2), open(2) O_EXCL.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nanny.evidence.bundle_name import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECTORY_MODE: Final = 0o750
_FILE_MODE: Final = 0o640
SMALL_FILE_BYTES: Final = 131_072
_CUT: Final = b"\n(cut here: the bundle was kept in memory)\n"


def write_files(bundles_dir: str, name: str, files: Mapping[str, bytes]) -> None:
    """Put files into the unfinished bundle, which is made when it is not there.

    Raises:
        OSError: the files before the one that failed are there; that one is not.
    """
    os.makedirs(bundles_dir, _DIRECTORY_MODE, exist_ok=True)
    directory = f"{bundles_dir}/{UNFINISHED}{name}"
    with suppress(FileExistsError):
        os.mkdir(directory, _DIRECTORY_MODE)
    for file_name, content in files.items():
        _write_file(f"{directory}/{file_name}", content)


def finish(bundles_dir: str, name: str) -> None:
    """Give the bundle its name.

    Raises:
        OSError: it keeps its unfinished one.
    """
    os.rename(f"{bundles_dir}/{UNFINISHED}{name}", f"{bundles_dir}/{name}")


def remove(directory: str) -> None:
    """Remove a bundle with its files; what cannot be removed stays."""
    with suppress(OSError):
        for entry in os.listdir(directory):
            with suppress(OSError):
                os.unlink(f"{directory}/{entry}")
        os.rmdir(directory)


def sync(directory: str) -> None:
    """Have a finished bundle on the disk itself: evidence of a node that is power-cycled next.

    Raises:
        OSError: it may be lost with the power.
    """
    for path in (
        *(f"{directory}/{name}" for name in os.listdir(directory)),
        directory,
        os.path.dirname(directory),
    ):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def capped(file_name: str, content: bytes) -> bytes:
    """Give a file's content as it may be kept in memory: of logs the end, of the rest the beginning."""
    if len(content) <= SMALL_FILE_BYTES:
        return content
    if file_name in {"output.tail", "kernel.log", "beats.jsonl"}:
        return _CUT + content[-SMALL_FILE_BYTES:]
    return content[:SMALL_FILE_BYTES] + _CUT


def _write_file(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, _FILE_MODE)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        # Half a file would be taken for the whole story.
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)
