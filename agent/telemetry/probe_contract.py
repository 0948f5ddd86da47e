"""What a probe is, for both sides of the fork: its signature, its answer, its way to say "cannot know".

A probe is a plain function that may hang, spin or crash: it runs in a disposable child of the probe server.
It gets JSON arguments, may emit partial findings as it goes, and returns a JSON value.

Knows nothing of processes, deadlines or GPUs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class ProbeValue:
    """The probe's answer in time.

    Attributes:
        value: what the probe returned, JSON.
        duration_s: from the fork to the answer, measured beside the child: a late loop here doesn't count.
        parts: what the probe emitted on the way.
    """

    value: Any
    duration_s: float
    parts: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeUnknown:
    """No answer, which is an answer.

    Attributes:
        reason: why.
        detail: one line for people.
        parts: what the probe emitted before it failed: says how far it came.
        probe_id: the child concerned, None where none was started; for `ProbePool.charge_to`.
    """

    reason: UnknownReason
    detail: str
    parts: tuple[Any, ...] = ()
    probe_id: int | None = None


ProbeResult = ProbeValue | ProbeUnknown
