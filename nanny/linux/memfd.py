"""Anonymous files in memory: a worker's stacks go there, so that no full pipe and no disk holds the writer.

A bounded memfd has its full size from the start and is sealed against growth: a write beyond fails with EPERM
and nothing is killed. What was never written reads as NUL bytes and costs no memory.

Readers use pread only: the file offset is shared with the writer, moving it would tear its output.
memfd_create(2), fcntl(2) "File sealing".
"""

import errno
import fcntl
import os

from nanny.errors import HostError

_CHUNK_BYTES = 65_536
# Linux 6.3; vm.memfd_noexec=2 refuses memfds without it. Implies MFD_ALLOW_SEALING.
_MFD_NOEXEC_SEAL = 0x0008


def create_memfd(name: str, size_limit_bytes: int | None, *, inheritable: bool) -> int:
    """Give a new anonymous file.

    Args:
        name: shown in /proc/pid/fd, at most 249 bytes.
        size_limit_bytes: the most that it can ever hold; None for no bound (the reader has its own).
        inheritable: whether it stays open in a program that this process executes.

    Raises:
        HostError: no memory or no descriptor left.
    """
    flags = 0 if inheritable else os.MFD_CLOEXEC
    try:
        try:
            fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = os.memfd_create(name, flags | os.MFD_ALLOW_SEALING)
        if size_limit_bytes is not None:
            try:
                os.ftruncate(fd, size_limit_bytes)
                fcntl.fcntl(
                    fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
                )
            except OSError:
                os.close(fd)
                raise
    except OSError as error:
        raise HostError.from_os_error(
            f"make the memfd {name!r}", error, degraded="stacks cannot be captured"
        ) from error
    return fd


def read_all(fd: int, limit_bytes: int) -> bytes:
    """Give what was written so far, at most `limit_bytes`, without the NUL bytes at its end.

    Raises:
        HostError: the descriptor cannot be read.
    """
    chunks = []
    offset = 0
    try:
        while offset < limit_bytes:
            chunk = os.pread(fd, min(_CHUNK_BYTES, limit_bytes - offset), offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
    except OSError as error:
        raise HostError.from_os_error("read a memfd", error, degraded="captured stacks are lost") from error
    return b"".join(chunks).rstrip(b"\0")
