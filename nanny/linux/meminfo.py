"""How much memory the node has to spare: one small read of /proc/meminfo, which cannot hang.

proc_meminfo(5).
"""

import os

from nanny.errors import HostError

_LIMIT_BYTES = 16_384


def available_bytes(proc: str = "/proc") -> int | None:
    """Give what can be used without swapping (MemAvailable); None where the kernel does not say.

    Raises:
        HostError: /proc/meminfo cannot be read.
    """
    path = f"{proc}/meminfo"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, _LIMIT_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError.from_os_error(
            "read the node's memory", error, path, "memory counts as enough"
        ) from error
    for line in content.splitlines():
        key, _, rest = line.partition(b":")
        if key == b"MemAvailable":
            return int(rest.split()[0]) * 1024
    return None
