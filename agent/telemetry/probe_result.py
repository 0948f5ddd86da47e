"""The answer to a probe, as the agent sees it: a value, or unknown with its reason.

Unknown is a value too: whoever asks a driver, a name server or a file system must go on without it.

Knows neither children nor deadlines; kept apart from the contract because the probe server doesn't need it.
"""

from dataclasses import dataclass
from typing import Any

from agent.telemetry.probe_contract import UnknownReason


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
