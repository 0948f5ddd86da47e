"""Readings in, the node's lasting conditions and their passing changes out.

A reading is what one look saw; a condition is what holds. Between them stands a debounce: so many looks in
a row before True, so many before it is taken back, and none raised while the node has only just booted:
most fabrics flap once after a boot, and one look's alarm has made whole fleets reboot. A reading may be
conclusive: then one is enough. Events are changes only; a condition that stays says nothing twice.

Knows no clock (`now` is an argument, monotonic seconds), no driver, no wire. `agent.core.readings` makes
readings from telemetry. After node-problem-detector and the Kubernetes node conditions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique

from nanny.protocol.messages import Condition, ConditionStatus


@unique
class ConditionType(StrEnum):
    """The conditions that an agent reports."""

    GPU_DRIVER_UNRESPONSIVE = "GpuDriverUnresponsive"
    GPU_LOST = "GpuLost"
    PROBE_RESIDUE = "ProbeResidue"
    NANNY_GONE = "NannyGone"
    DISK_PRESSURE = "DiskPressure"
    CLOCK_SKEW = "ClockSkew"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look saw.

    Attributes:
        type: the condition concerned.
        status: as seen now, before any debounce.
        reason: one word for machines.
        message: a sentence for people; holds no running duration, or it would never be the same twice.
        is_conclusive: needs no second look, and no grace.
    """

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str
    is_conclusive: bool = False


@dataclass(frozen=True, slots=True)
class Debounce:
    """How many looks in a row it takes.

    Attributes:
        raise_after: looks before True.
        clear_after: looks before False or Unknown replaces True.
        boot_grace_s: after the node's boot, how long True is not raised.
    """

    raise_after: int = 2
    clear_after: int = 2
    boot_grace_s: float = 0.0


DEFAULT_DEBOUNCE: Mapping[ConditionType, Debounce] = {
    # A second overrun is the second sign that the field asks for before a driver is called dead.
    ConditionType.GPU_DRIVER_UNRESPONSIVE: Debounce(raise_after=2, clear_after=2),
    ConditionType.GPU_LOST: Debounce(raise_after=2, clear_after=3, boot_grace_s=120.0),
    ConditionType.PROBE_RESIDUE: Debounce(raise_after=1, clear_after=1),
    ConditionType.NANNY_GONE: Debounce(raise_after=3, clear_after=1),
    ConditionType.DISK_PRESSURE: Debounce(raise_after=2, clear_after=3),
    ConditionType.CLOCK_SKEW: Debounce(raise_after=3, clear_after=3),
}


@dataclass(frozen=True, slots=True)
class NodeCondition:
    """What holds.

    Attributes:
        type: which condition.
        status: after the debounce.
        reason: of the reading that decided it, or of a later one with the same status.
        message: likewise.
        since_at: monotonic second of the last change of status.
    """

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str
    since_at: float

    def to_wire_part(self, now: float) -> Condition:
        """Gives the message part, with the condition's age: instants never cross the wire."""
        age_s = max(0.0, now - self.since_at)
        return Condition(self.type.value, self.status, self.reason[:128], self.message[:1024], age_s)


@dataclass(frozen=True, slots=True)
class ConditionChanged:
    """A condition's status changed: the passing event beside the lasting fact.

    Attributes:
        before: None when the condition is known for the first time.
        after: what holds now.
    """

    before: NodeCondition | None
    after: NodeCondition


@dataclass(frozen=True, slots=True)
class _Streak:
    status: ConditionStatus
    looks: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """All conditions that are known, with the looks that speak for a change.

    Attributes:
        current: what holds, by type.
        streaks: looks in a row that differ from it, by type.
    """

    current: Mapping[ConditionType, NodeCondition] = field(default_factory=dict)
    streaks: Mapping[ConditionType, _Streak] = field(default_factory=dict)


def observe(
    conditions: Conditions,
    readings: Iterable[Reading],
    now: float,
    uptime_s: float,
    debounce: Mapping[ConditionType, Debounce] = DEFAULT_DEBOUNCE,
) -> tuple[Conditions, tuple[ConditionChanged, ...]]:
    """Gives what holds after these readings, and what changed.

    Args:
        conditions: what held before.
        readings: at most one of each type; a type without one keeps what it has.
        now: monotonic seconds.
        uptime_s: of the node, for the grace after a boot.
        debounce: looks needed, by type.
    """
    current, streaks = dict(conditions.current), dict(conditions.streaks)
    changes: list[ConditionChanged] = []
    for reading in readings:
        known = current.get(reading.type)
        if known is not None and known.status is reading.status:
            streaks.pop(reading.type, None)
            current[reading.type] = replace(known, reason=reading.reason, message=reading.message)
            continue
        before = streaks.get(reading.type)
        looks = before.looks + 1 if before is not None and before.status is reading.status else 1
        streaks[reading.type] = _Streak(reading.status, looks)
        if not _is_settled(reading, known, looks, uptime_s, debounce.get(reading.type, Debounce())):
            continue
        del streaks[reading.type]
        after = NodeCondition(reading.type, reading.status, reading.reason, reading.message, now)
        current[reading.type] = after
        if known is not None or reading.status is not ConditionStatus.FALSE:  # a calm start is no event
            changes.append(ConditionChanged(known, after))
    return Conditions(current, streaks), tuple(changes)


def _is_settled(
    reading: Reading, known: NodeCondition | None, looks: int, uptime_s: float, debounce: Debounce
) -> bool:
    if reading.is_conclusive:
        return True
    if reading.status is ConditionStatus.TRUE:
        return looks >= debounce.raise_after and uptime_s >= debounce.boot_grace_s
    if known is None:
        return True  # nothing is taken back
    if known.status is ConditionStatus.TRUE or reading.status is ConditionStatus.UNKNOWN:
        return looks >= debounce.clear_after
    return True  # Unknown gives way to False at once
