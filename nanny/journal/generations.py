"""The journal's files in their directory: found, made, swept. Runs in the writer's process only.

Fencing. A writer that hangs in an fsync cannot be waited for nor killed, and may wake up inside a write, a
truncate or a rename after its successor took over; an fcntl lock would be held by it for as long. So no two
writers ever share a file: each makes its own, `journal.<generation>.jsonl`, *complete*: a copy of what it
read, under the next number, synced before link(2) gives it its name. link fails if the number is taken, and
a writer only ever counts up by one from its own number: the one that woke up late meets its successor's file
(and stops) or gets a number below it, and only the highest is read. What it does to its own file harms none.

link(2), rename(2), open(2): the directory is synced too, or the name may be lost. Needs a file system with
hard links and O_EXCL (ext4, xfs, btrfs, tmpfs, overlayfs, NFS).
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from nanny.journal.records_file import Header

RESERVE_BYTES = 65_536
_MODE = 0o600


class Fenced(Exception):  # noqa: N818 - it says what happened, as FileExistsError does
    """This writer must stop: the next generation was made by another, or its name may not last."""


def no_step(step: str) -> None:
    """Production's `at_step`: crash nowhere. Tests crash where they like."""


class Generations:
    """The files of one journal.

    Args:
        path: as configured, for example /var/lib/nanny/journal.jsonl; the files are named after it.
        at_step: called with a name after each step that changes the directory.
    """

    def __init__(self, path: str, at_step: Callable[[str], None] = no_step) -> None:
        self._directory, name = os.path.split(path)
        self._directory = self._directory or "."
        self._stem, self._suffix = os.path.splitext(name)
        self._at_step = at_step
        self.history_path = path + ".1"
        self._reserve_path = path + ".reserve"

    def path_of(self, generation: int) -> str:
        """Where a generation lies."""
        return os.path.join(self._directory, f"{self._stem}.{generation:06d}{self._suffix}")

    def found(self) -> list[int]:
        """The generations that exist, highest first.

        Raises:
            OSError: the directory cannot be read; a missing one is empty.
        """
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        start, end = len(self._stem) + 1, -len(self._suffix) if self._suffix else None
        return sorted(
            (
                int(name[start:end])
                for name in names
                if name.startswith(self._stem + ".")
                and name.endswith(self._suffix)
                and name[start:end].isascii()
                and name[start:end].isdigit()
            ),
            reverse=True,
        )

    def read(self, generation: int) -> bytes:
        """A generation's bytes.

        Raises:
            OSError: as open(2) and read(2) give it.
        """
        descriptor = os.open(self.path_of(generation), os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(descriptor, 1 << 20):
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            os.close(descriptor)

    def install(self, generation: int, content: bytes) -> int:
        """Make a generation, durable before it is visible; give its descriptor, open for appending.

        Raises:
            Fenced: the generation exists, or its name could not be synced.
            OSError: anything else; nothing is visible then.
        """
        os.makedirs(self._directory, 0o700, exist_ok=True)
        final = self.path_of(generation)
        draft = f"{final}.draft-{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        try:
            self._at_step("draft-opened")
            write_all(descriptor, content)
            self._at_step("draft-written")
            os.fsync(descriptor)
            self._at_step("draft-synced")
            try:
                os.link(draft, final)
            except FileExistsError as error:
                raise Fenced(f"{final} was made by another writer") from error
            self._at_step("linked")
            try:
                self._sync_directory()
            except OSError as error:
                # Visible, perhaps not for good: going on with an older file could lose what it acknowledges.
                raise Fenced(f"{final}: {error}") from error
            self._at_step("directory-synced")
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            with suppress(OSError):
                os.unlink(draft)
        self._at_step("draft-removed")
        return descriptor

    def sweep(self, current: Header) -> None:
        """Put away what `current` stands for: history after a compaction, `.damaged-<n>` after damage.

        Errors are passed over: the next sweep comes.
        """
        with suppress(OSError):
            for generation in self.found():
                if generation >= current.generation:
                    continue
                path = self.path_of(generation)
                if current.reason == "damage":
                    os.rename(path, self._damaged_path())
                elif current.reason == "compaction" and generation == current.replaces:
                    os.rename(path, self.history_path)
                else:
                    os.unlink(path)
                self._at_step("swept")
        with suppress(OSError):
            for name in os.listdir(self._directory):
                if name.startswith(self._stem + ".") and ".draft-" in name:
                    os.unlink(os.path.join(self._directory, name))

    def keep_reserve(self) -> None:
        """Hold a little space back, to give it up when the disk is full. Errors: then there is none."""
        with suppress(OSError):
            descriptor = os.open(self._reserve_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _MODE)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            except OSError:
                os.unlink(self._reserve_path)
            finally:
                os.close(descriptor)

    def give_up_reserve(self) -> bool:
        """Free the reserve; whether there was one."""
        try:
            os.unlink(self._reserve_path)
        except OSError:
            return False
        return True

    def _damaged_path(self) -> str:
        number = 1
        while os.path.lexists(path := f"{self._directory}/{self._stem}{self._suffix}.damaged-{number}"):
            number += 1
        return path

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(descriptor: int, content: bytes | bytearray) -> None:
    """Write all of `content`, in as many writes as it takes.

    Raises:
        OSError: part of it may be written.
    """
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def has_name(descriptor: int) -> bool:
    """Whether the open file still has a name; without one, nobody will ever read it."""
    return os.fstat(descriptor)[stat.ST_NLINK] > 0
