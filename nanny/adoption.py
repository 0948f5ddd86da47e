"""Which workers of an earlier nanny still live, proven by boot id, pid and start time.

Reads the journal's records, or the copy of them in /run when the disk does not answer; a pid alone proves
nothing, because pids are reused. The state itself is folded by ``core.startup``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nanny.core.records import (
    CommandAccepted,
    CommandFinished,
    HoldSet,
    IncarnationEnded,
    IncarnationFenced,
    IncarnationReady,
    IncarnationStarted,
    OutcomeDelivered,
    from_json,
)
from nanny.errors import HostError
from nanny.linux import pidfd, procfs
from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nanny.core.records import Record
    from nanny.protocol.incarnation import Incarnation


@dataclass(frozen=True, slots=True)
class Found:
    """A living worker; ``pidfd`` is the caller's to close."""

    started: IncarnationStarted
    pidfd: int
    was_ready: bool
    fenced: bool


_INSTANT_LIMIT: Final = 1e12

Dated = tuple["Record", "float | None"]
"""A record and the monotonic instant at which it was made; None in another boot."""


def parse_records(plain: Iterable[Mapping[str, Any]], boot_id: str) -> tuple[list[Dated], list[str]]:
    """The records with their instants; and what could not be read, in words."""
    records: list[Dated] = []
    problems: list[str] = []
    for one in plain:
        if not isinstance(one, dict):
            problems.append(f"a {type(one).__name__} is no record")
            continue
        try:
            record = from_json(one)
        except ProtocolViolation as violation:
            problems.append(str(violation))
            continue
        if record is not None:
            records.append((record, _instant(one.get("at")) if one.get("boot") == boot_id else None))
    return records, problems


def _instant(at: object) -> float | None:
    # The bounds also keep out NaN, and numbers that no float holds.
    return float(at) if isinstance(at, int | float) and 0 <= at < _INSTANT_LIMIT else None


def add_unknown_living(records: list[Dated], remembered: Iterable[Dated]) -> None:
    """Add what /run knows of living workers that the journal has never heard of (it was degraded, or damaged).

    One that the journal's own living worker has superseded comes before it, so that it counts as surplus.
    """
    known = {record.incarnation for record, _ in records if isinstance(record, IncarnationStarted)}
    dated = list(remembered)
    found = find_living(dated)
    for one in found:
        os.close(one.pidfd)
    theirs = {one.started.incarnation for one in found} - known
    kinds = IncarnationStarted | IncarnationReady | IncarnationFenced
    missing = [one for one in dated if isinstance(one[0], kinds) and one[0].incarnation in theirs]
    if not missing:
        return
    own = find_living(records)
    for one in own:
        os.close(one.pidfd)
    records[0:0] = missing if own else []
    records += [] if own else missing


def add_unknown_orders(records: list[Dated], remembered: Iterable[Dated]) -> list[Record]:
    """Add what /run knows of orders, and of a hold, that a degraded journal never got; give it, to be journaled.

    /run holds the ledger as it was when the last nanny of this boot ended; what both know counts once. The journal
    gets each step first, so a hold that is younger there is the truth.
    """
    accepted, finished, delivered, hold, hold_at = _orders(records)
    missing: list[Dated] = []
    latest_hold: HoldSet | None = None
    dated = list(remembered)
    is_younger = hold_at is None or max((at for _, at in dated if at is not None), default=hold_at) > hold_at
    for record, at in dated:
        match record:
            case CommandAccepted(command) if command.id not in accepted and command.id not in finished:
                missing.append((record, at))
            case CommandFinished(command_id) if command_id not in finished:
                missing.append((record, at))
            case OutcomeDelivered(command_id) if command_id not in delivered:
                missing.append((record, at))
            case HoldSet():
                latest_hold = record
                if record != hold and is_younger:
                    missing.append((record, at))
            case _:
                pass
    if missing and is_younger and hold is not None and hold.until is not None and latest_hold is None:
        # Released while the journal was degraded: otherwise /run would have it.
        missing.append((HoldSet(None, hold.actor, "released while the journal was degraded"), missing[-1][1]))
    records += missing
    return [record for record, _ in missing]


def _orders(
    records: Iterable[Dated],
) -> tuple[set[str], set[str], set[str], HoldSet | None, float | None]:
    accepted: set[str] = set()
    finished: set[str] = set()
    delivered: set[str] = set()
    hold: HoldSet | None = None
    hold_at: float | None = None
    for record, at in records:
        match record:
            case CommandAccepted(command):
                accepted.add(command.id)
            case CommandFinished(command_id):
                finished.add(command_id)
            case OutcomeDelivered(command_id):
                delivered.add(command_id)
            case HoldSet():
                hold, hold_at = record, at
            case _:
                pass
    return accepted, finished, delivered, hold, hold_at


def find_living(records: Iterable[Dated]) -> list[Found]:
    """Lives that were begun in this boot, never ended, and whose process is still the same one."""
    begun: dict[Incarnation, IncarnationStarted] = {}
    is_ready: set[Incarnation] = set()
    fenced: set[Incarnation] = set()
    for record, at in records:
        match record:
            case IncarnationStarted(incarnation, pid, _) if at is not None and pid > 0:
                begun[incarnation] = record
            case IncarnationEnded(incarnation):
                begun.pop(incarnation, None)
            case IncarnationReady(incarnation):
                is_ready.add(incarnation)
            case IncarnationFenced(incarnation):
                fenced.add(incarnation)
            case _:
                pass
    found = []
    for incarnation, started in begun.items():
        fd = _same_process(started.pid, started.start_time_ticks)
        if fd is not None:
            found.append(Found(started, fd, incarnation in is_ready, incarnation in fenced))
    owners = [one for one in found if not one.fenced]
    for surplus in owners[:-1]:
        # Two that own the node can't be; the older one is fenced off, its end is awaited like any fenced one's.
        found[found.index(surplus)] = Found(surplus.started, surplus.pidfd, surplus.was_ready, fenced=True)
    return found


def _same_process(pid: int, start_time_ticks: int) -> int | None:
    with suppress(ProcessLookupError, HostError, OSError):
        fd = pidfd.open_pidfd(pid)
        try:
            stat = procfs.read_stat(pid)
        except BaseException:
            os.close(fd)
            raise
        # Read after the pidfd was opened: if they match, the pidfd is of that process.
        if stat.start_time_ticks == start_time_ticks and stat.state not in {"Z", "X"}:
            return fd
        os.close(fd)
    return None
