"""A small disk of the test's own, an ext4 image on a loop device, that can be frozen, filled, broken and mended.

Whoever writes to a frozen one sleeps uninterruptibly, past SIGKILL, until it is thawed; it always is at the end. A
broken one answers EIO and has forgotten what was not synced, as after a loss of power; a read-only one found an error
in itself. Needs root, mkfs.ext4 and a free loop device. fsfreeze(8), mount(8), losetup(8), Linux's ext4 documentation.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tests.support.processes import wait_until

_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
_EXT4_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = 2
SIZE_BYTES = 8 << 20


class LoopDisk:
    """A mounted image.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path, image: Path) -> None:
        self.path = path
        self._image = image
        self._is_frozen = False
        self._mount()

    def freeze(self) -> None:
        """From now on writers sleep in D state; reading goes on."""
        self._ioctl(_FIFREEZE)
        self._is_frozen = True

    def thaw(self) -> None:
        """Let them go on; nothing happens if it is not frozen."""
        if self._is_frozen:
            self._ioctl(_FITHAW)
            self._is_frozen = False

    def fill(self) -> None:
        """Take all the space there is."""
        with (self.path / "filler").open("ab", buffering=0) as file, suppress(OSError):
            for size in (65536, 4096, 512, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """Give it back."""
        (self.path / "filler").unlink()

    def fail(self) -> None:
        """From now on everything gets EIO; what was not synced is lost."""
        self._ioctl(_EXT4_IOC_SHUTDOWN, struct.pack("=I", _WITHOUT_LOG_FLUSH))

    def turn_read_only(self) -> None:
        """The file system finds an error in itself, and from now on writers get EROFS."""
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.path)], check=True, capture_output=True, text=True
        ).stdout.strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a test")

    def mend(self) -> None:
        """Mount it anew, once nobody has a file open on what was broken."""

        def unmounted() -> bool:
            return (
                subprocess.run(["umount", str(self.path)], check=False, capture_output=True).returncode == 0
            )

        wait_until(unmounted, 30.0, "the broken disk to be let go of")
        subprocess.run(["e2fsck", "-p", "-f", str(self._image)], check=False, capture_output=True)
        self._mount()

    def close(self) -> None:
        """Thaw and unmount, for good."""
        self.thaw()
        subprocess.run(["umount", "--lazy", str(self.path)], check=True, capture_output=True)

    def _mount(self) -> None:
        options = "loop,errors=remount-ro"
        command = ["mount", "-t", "ext4", "-o", options, str(self._image), str(self.path)]
        subprocess.run(command, check=True, capture_output=True)

    def _ioctl(self, request: int, argument: int | bytes = 0) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, request, argument)
        finally:
            os.close(fd)


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
    try:
        disk = LoopDisk(directory, image)
        try:
            yield disk
        finally:
            disk.close()
    finally:
        image.unlink()
