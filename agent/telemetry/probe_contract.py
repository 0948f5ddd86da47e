"""What a probe is, for both sides of the fork: its signature, its limits, its way to say "cannot know".

A probe is a plain function that may hang, spin or crash: it runs in a disposable child of the probe server.
It gets JSON arguments, may emit partial findings as it goes, and returns a JSON value.

Knows nothing of processes, deadlines or GPUs, and imports little: the probe server stays small.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

Emit = Callable[[Any], None]
Probe = Callable[[Mapping[str, Any], Emit], Any]

OUTPUT_LIMIT_BYTES = 131_072  # of one child, partial findings and answer together
FRAME_LIMIT_BYTES = 131_072  # of one datagram between pool and server; under the default SO_SNDBUF


class UnknownReason(StrEnum):
    """Why a probe has no value. Only `TIMEOUT` and `STUCK_CAP` say something about the thing asked."""

    TIMEOUT = "timeout"
    CRASHED = "crashed"
    STUCK_CAP = "stuck-cap"
    LIBRARY_ABSENT = "library-absent"
    NO_DEVICE = "no-device"
    ERROR = "error"
    BUSY = "busy"
    SERVER_DOWN = "server-down"


class ProbeFailure(Exception):  # noqa: N818 - the probe failed, the program didn't
    """Raised by a probe that knows why it has no value.

    Args:
        reason: the answer's reason.
        detail: one line for people.
    """

    def __init__(self, reason: UnknownReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
