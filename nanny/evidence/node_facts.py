"""What the node was like at the moment: pressure, load, memory, and what the kernel said.

All of it small, and none of it waits: /dev/kmsg is opened non-blocking, and reading a ring that wraps is
bounded in records and in time. proc(5), Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Final

from nanny.evidence.victim import section

KERNEL_LINES: Final = 200
KERNEL_WINDOW_S: Final = 3600.0
_RECORD_BYTES: Final = 8192
_RECORDS_LIMIT: Final = 100_000
_LEVELS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def pressure(proc: str = "/proc") -> str:
    """Give load, pressure (where the kernel keeps it), memory and uptime of the node."""
    names = ["loadavg", "uptime"]
    if os.path.isdir(f"{proc}/pressure"):
        names += ["pressure/cpu", "pressure/io", "pressure/memory"]
        absent = ""
    else:
        absent = "(this kernel keeps no pressure stall information)\n"
    return "".join(section(name, f"{proc}/{name}") for name in [*names, "meminfo"]) + absent


def kernel_log(monotonic_s: float, deadline_at: float, path: str = "/dev/kmsg") -> str:
    """Give the kernel's last lines of the hour before `monotonic_s`, at most 200, oldest first.

    The kernel's time stamps are seconds since boot as CLOCK_MONOTONIC counts them, but for a small drift.

    Raises:
        OSError: there is no such device, or we may not read it.
    """
    lines: deque[str] = deque(maxlen=KERNEL_LINES)
    overrun = ""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_RECORDS_LIMIT):
            try:
                record = os.read(fd, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                overrun = "(the ring was overrun: lines are missing)\n"
                continue
            if not record or time.monotonic() > deadline_at:
                break
            line = _line(record, monotonic_s - KERNEL_WINDOW_S)
            if line:
                lines.append(line)
    finally:
        os.close(fd)
    return overrun + ("\n".join(lines) + "\n" if lines else "(the kernel said nothing in the hour before)\n")


def _line(record: bytes, since_s: float) -> str:
    """Give `seconds level text`, empty for a record before `since_s` or of another shape."""
    head, _, text = record.decode("utf-8", "backslashreplace").partition(";")
    fields = head.split(",")
    if len(fields) < 3 or not (fields[0].isdigit() and fields[2].isdigit()):
        return ""
    at_s = int(fields[2]) / 1e6
    level = _LEVELS[int(fields[0]) & 7]
    return f"{at_s:.6f} {level} {text.partition(chr(10))[0]}" if at_s >= since_s else ""
