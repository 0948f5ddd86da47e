"""The nanny's own error tree. The rule: only start-up may exit on one; afterwards log it, count it, carry on.

`HostError` is the machine's fault, and says what no longer works because of it. A peer's fault is a
`ProtocolViolation` (nanny.protocol), the operator's a `ConfigError` (nanny.common.settings), a bug is a plain
`AssertionError` or `TypeError`: none of them is defined here.
"""

import errno as errno_names
import os
from typing import Self


class NannyError(Exception):
    """Base of every error that the nanny raises on purpose."""


class HostError(NannyError):
    """The machine refused something that it should have done.

    Attributes:
        what: the attempt, completing "cannot ...".
        errno: the kernel's answer; 0 where the content was wrong and not the call.
        path: the file concerned, or None.
        degraded: what is missing from now on, for people.
    """

    def __init__(self, what: str, errno: int, path: str | None = None, degraded: str = "") -> None:
        self.what = what
        self.errno = errno
        self.path = path
        self.degraded = degraded
        message = f"cannot {what}"
        if path is not None:
            message += f" ({path})"
        if errno:
            message += f": {os.strerror(errno)} [{errno_names.errorcode.get(errno, errno)}]"
        if degraded:
            message += f"; {degraded}"
        super().__init__(message)

    @classmethod
    def from_os_error(cls, what: str, error: OSError, path: str | None = None, degraded: str = "") -> Self:
        """Give the HostError that tells of `error`; raise it `from error`."""
        return cls(what, error.errno or 0, path, degraded)
