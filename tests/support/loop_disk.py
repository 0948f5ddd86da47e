"""A small disk of the test's own, an ext4 image on a loop device, that can be frozen, made read-only and filled.

Whoever writes to a frozen one sleeps uninterruptibly, past SIGKILL, until it is thawed; it always is at the end.
Needs root, mkfs.ext4 and a free loop device. fsfreeze(8), ioctl_fsfreeze(2), mount(8), losetup(8).
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
SIZE_BYTES = 8 << 20


class LoopDisk:
    """A mounted image.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def freeze(self) -> None:
        """From now on writers sleep in D state; reading goes on."""
        fcntl.ioctl(self._fd, _FIFREEZE, 0)

    def thaw(self) -> None:
        """Let them go on; nothing happens if it is not frozen."""
        with suppress(OSError):
            fcntl.ioctl(self._fd, _FITHAW, 0)

    def close(self) -> None:
        """Thaw, for good."""
        self.thaw()
        os.close(self._fd)


@cache
def why_no_loop_disk() -> str | None:
    """Give the reason why this machine can't have one, None if it can."""
    if os.geteuid() != 0:
        return "needs root to mount"
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    with tempfile.TemporaryDirectory() as directory:
        try:
            with loop_disk(Path(directory) / "disk") as disk:
                disk.freeze()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no loop device can be mounted and frozen: {error}"
    return None


@contextmanager
def loop_disk(directory: Path) -> Iterator[LoopDisk]:
    """Mount a fresh image on `directory`, which is made; its file lies beside it."""
    directory.mkdir()
    image = directory.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True, capture_output=True)
    try:
        disk = LoopDisk(directory)
        try:
            yield disk
        finally:
            disk.close()
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)
        image.unlink()
