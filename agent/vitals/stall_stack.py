"""Where a thread stands, seen from another one; and stacks that are to be had while the GIL is held.

`stack_of` reads the frames of a running interpreter and no source files: these may lie on the disk that
hangs. `enable_stack_dumps` leaves the work to faulthandler, whose signal handler needs no GIL, and sends it into
the memfd that the supervisor passed: never to stderr, where a full pipe would hold the dying process.

See faulthandler's documentation, memfd_create(2), signal(7).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanny.protocol.notify_format import STACK_LIMIT_BYTES
from nanny.protocol.stack_signal import STACK_SIGNAL, STACKS_FD_VARIABLE

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from types import FrameType

_FRAMES_LIMIT = 64
_PATH_LIMIT = 120


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """One thread's position."""

    stalled_at: str
    """``module:function:line`` of the innermost frame."""
    text: str
    """Innermost call first, at most 4 KiB."""


def stack_of(thread_id: int) -> ThreadStack | None:
    """Where the thread `thread_id` (threading.get_ident) stands; None when there is no such thread."""
    frame: FrameType | None = sys._current_frames().get(thread_id)  # noqa: SLF001  # documented, for debuggers
    if frame is None:
        return None
    module = str(frame.f_globals.get("__name__", "?"))
    stalled_at = f"{module}:{frame.f_code.co_qualname}:{frame.f_lineno}"
    lines: list[str] = []
    while frame is not None and len(lines) < _FRAMES_LIMIT:
        code = frame.f_code
        lines.append(f"{code.co_qualname} {code.co_filename[-_PATH_LIMIT:]}:{frame.f_lineno}")
        frame = frame.f_back
    return ThreadStack(stalled_at, "\n".join(lines)[:STACK_LIMIT_BYTES])


def enable_stack_dumps(environ: MutableMapping[str, str]) -> bool:
    """Have fatal signals and `STACK_SIGNAL` write all threads' stacks into the supervisor's memfd.

    Takes the variable out of `environ` and marks the descriptor close-on-exec: it is meant for this process.
    Call it in the main thread.

    Returns:
        False where no memfd was passed: then nothing changes.
    """
    text = environ.pop(STACKS_FD_VARIABLE, "")
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        return False
    fd = int(text)
    try:
        # A variable that was handed on to a grandchild names some other file there.
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):  # noqa: PTH115  # pathlib is dear
            return False
        os.set_inheritable(fd, False)
    except OSError:
        return False
    import faulthandler  # noqa: PLC0415  # only under a supervisor

    faulthandler.enable(file=fd, all_threads=True)
    faulthandler.register(STACK_SIGNAL, file=fd, all_threads=True, chain=False)
    return True
