"""The few C library calls that Python 3.11 lacks: prctl(2) and raw syscall(2).

ctypes is imported at the first call and not with this module: a program that needs none of them does not pay
for it. The nanny calls `prctl` during start-up, so later calls find ctypes in memory and touch no disk.

Knows nothing of what the calls mean.
"""

import os
from typing import Any

_loaded: Any = None


def call(function: str, *args: int) -> int:
    """Call a C function on integers and give its result.

    Raises:
        OSError: it returned -1; carries errno.
    """
    import ctypes  # noqa: PLC0415  # lazily, see the header

    global _loaded  # noqa: PLW0603  # one libc a process
    if _loaded is None:
        _loaded = ctypes.CDLL(None, use_errno=True)
    # Both functions are variadic: each argument must be passed as a full register.
    outcome = int(getattr(_loaded, function)(*(ctypes.c_long(arg) for arg in args)))
    if outcome == -1:
        code = ctypes.get_errno()
        # OSError picks the subclass (ProcessLookupError...) from the errno.
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return outcome
