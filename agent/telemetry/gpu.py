"""GPU readings, one device's trouble never hiding the others.

All healthy devices are read by one disposable child; a device in which a child hung or crashed becomes a
suspect and is asked alone, in a child of its own, until it answers again. Unknown is a value. A node
without library, driver or device gives None: no columns, no errors.

Doesn't know what an overrun means for the node: that is `agent.core.conditions`. Numbers: a driver's own
wait for its firmware is 45 s, so the first call after a start gets that long, and a late child is left
alone for as long.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from agent.telemetry.gpu_probe import DEVICE_LIMIT
from agent.telemetry.probe_contract import UnknownReason
from agent.telemetry.probe_pool import ProbePool
from agent.telemetry.probe_result import ProbeResult, ProbeUnknown, ProbeValue

_HARD_DEADLINE_S = 45.0
_INVENTORY_KEY = "gpu-inventory"
_BATCH_KEY = "gpu-sample"

_Overran = dict[str, UnknownReason]


class GpuSampler:
    """Reads the node's GPUs through the probe pool.

    Args:
        pool: where the driver is called.
        deadline_s: shortest deadline of a warm probe; it grows to three times the median of late.
        first_deadline_s: deadline until the driver has answered once.
        inventory_interval_s: how often devices are enumerated again.
        expected_uuids: devices known from an earlier life, missed when they don't show up.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pool: ProbePool,
        *,
        deadline_s: float = 5.0,
        first_deadline_s: float = _HARD_DEADLINE_S,
        inventory_interval_s: float = 60.0,
        expected_uuids: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._first_deadline_s = first_deadline_s
        self._inventory_interval_s = inventory_interval_s
        self._clock = clock
        self._identities: dict[str, dict[str, Any]] = {u: {"uuid": u} for u in expected_uuids}
        self._nameless: list[dict[str, Any]] = []  # enumerated, but too broken to tell their UUID
        self._suspects: set[str] = set()
        self._inventory_at: float | None = None
        self._driver_version: str | None = None
        self._lasted_s: deque[float] = deque(maxlen=20)
        self._has_answered = False

    async def sample(self) -> dict[str, Any] | None:
        """Gives readings of all devices ever seen, or None where there never was one.

        `status` is `ok` or `unknown` (then `reason`, `detail`). Each of `devices` has `uuid`, `state` and
        what could be read; `overran` lists the keys (`gpu-inventory`, `gpu-sample`, `gpu:<uuid>`) whose
        child passed its deadline in this round or whose children are too many to start another; `capped` says
        whether that second case is among them.
        """
        overran: _Overran = {}
        trouble = await self._enumerate(overran) if self._is_inventory_due() else None
        if trouble is None:
            if not self._identities and not self._nameless:
                return None
            readings, trouble = await self._read_all(overran)
        elif _means_absent(trouble) and not self._identities and not self._nameless:
            return None
        if trouble is not None:
            self._inventory_at = None if not _means_absent(trouble) or self._identities else self._clock()
            readings = {}
        unread = {"state": "unknown"} | ({} if trouble is None else {"error": trouble.reason.value})
        devices = [identity | readings.get(identity["uuid"], unread) for identity in self._known()]
        verdict: dict[str, Any] = {"status": "ok"}
        if trouble is not None:
            verdict = {"status": "unknown", "reason": trouble.reason.value, "detail": trouble.detail}
        devices += self._nameless
        return verdict | {
            "driver_version": self._driver_version,
            "devices": devices,
            "overran": list(overran),
            "capped": UnknownReason.STUCK_CAP in overran.values(),
        }

    def _known(self) -> list[dict[str, Any]]:
        return list(self._identities.values())[:DEVICE_LIMIT]

    # --- enumeration ---------------------------------------------------------------------------------------

    def _is_inventory_due(self) -> bool:
        if self._inventory_at is None:
            return True
        return self._clock() - self._inventory_at >= self._inventory_interval_s

    async def _enumerate(self, overran: _Overran) -> ProbeUnknown | None:
        """Learns what is there; gives trouble only when NVML as a whole has it."""
        out = self._pool.census().overrun
        skip = {index for index in range(DEVICE_LIMIT) if self._key_of_index(index) in out}
        nameless = [_nameless(index, "timeout") for index in skip if self._uuid_of_index(index) is None]
        while True:
            result = await self._ask("gpu-inventory", {"skip": sorted(skip)}, _INVENTORY_KEY, overran)
            for part in result.parts:
                if "uuid" in part:
                    fields = {name: value for name, value in part.items() if name not in {"state", "errors"}}
                    self._identities[part["uuid"]] = fields
                elif "asking" not in part:
                    nameless.append(part | {"uuid": None})
            if isinstance(result, ProbeValue):
                break
            culprit = _asked_last(result)
            if culprit is None or culprit in skip:
                return result
            # One device hangs or crashes its enumeration: that must not hide those behind it.
            self._blame(result, self._key_of_index(culprit), _INVENTORY_KEY, overran)
            skip.add(culprit)
            uuid = self._uuid_of_index(culprit)
            if uuid is None:
                nameless.append(_nameless(culprit, result.reason.value))
            else:
                self._suspects.add(uuid)
        self._inventory_at = self._clock()
        self._driver_version = result.value["driver_version"]
        self._nameless = nameless
        return None

    def _uuid_of_index(self, index: int) -> str | None:
        return next((u for u, identity in self._identities.items() if identity.get("index") == index), None)

    def _key_of_index(self, index: int) -> str:
        return f"gpu:{self._uuid_of_index(index) or f'index-{index}'}"

    def _blame(self, result: ProbeUnknown, key: str, asked_as: str, overran: _Overran) -> None:
        """Counts an overrun of many devices' child under the one that it hangs in."""
        self._pool.charge_to(result.probe_id, key)
        if result.reason is UnknownReason.TIMEOUT:
            overran.pop(asked_as, None)
            overran[key] = result.reason

    # --- readings ------------------------------------------------------------------------------------------

    async def _read_all(self, overran: _Overran) -> tuple[dict[str, dict[str, Any]], ProbeUnknown | None]:
        readings: dict[str, dict[str, Any]] = {}
        waiting = [identity["uuid"] for identity in self._known() if identity["uuid"] not in self._suspects]
        alone = [asyncio.create_task(self._read_alone(uuid, overran)) for uuid in sorted(self._suspects)]
        try:
            while waiting:
                result = await self._ask("gpu-sample", {"uuids": waiting}, _BATCH_KEY, overran)
                readings |= _by_uuid(result)
                waiting = [uuid for uuid in waiting if uuid not in readings]
                if isinstance(result, ProbeValue) or not waiting:
                    break
                culprit = _asked_last(result)
                if culprit is None:  # it never came to the first device: NVML as a whole
                    return {}, result
                self._blame(result, f"gpu:{culprit}", _BATCH_KEY, overran)
                self._suspects.add(culprit)
                readings[culprit] = _no_reading(result)
                waiting.remove(culprit)
            for task in alone:
                readings |= await task
        finally:
            for task in alone:
                task.cancel()
        return readings, None

    async def _read_alone(self, uuid: str, overran: _Overran) -> dict[str, dict[str, Any]]:
        result = await self._ask("gpu-sample", {"uuids": [uuid]}, f"gpu:{uuid}", overran)
        if isinstance(result, ProbeValue):
            self._suspects.discard(uuid)
            return _by_uuid(result)
        return {uuid: _no_reading(result)}

    async def _ask(self, probe: str, args: dict[str, Any], key: str, overran: _Overran) -> ProbeResult:
        deadline_s = self._current_deadline_s()
        patience_s = max(0.0, _HARD_DEADLINE_S - deadline_s)
        result = await self._pool.run(probe, args, deadline_s, key=key, patience_s=patience_s)
        if isinstance(result, ProbeValue):
            self._lasted_s.append(result.duration_s)
        if isinstance(result, ProbeValue) or result.parts:
            self._has_answered = True
        if isinstance(result, ProbeValue):
            return result
        if result.reason in {UnknownReason.TIMEOUT, UnknownReason.STUCK_CAP}:
            overran[key] = result.reason
        elif _means_absent(result):
            self._has_answered = False  # when the driver comes, its first initialisation may take long again
        return result

    def _current_deadline_s(self) -> float:
        if not self._has_answered:
            return self._first_deadline_s
        usual_s = median(self._lasted_s) if self._lasted_s else 0.0
        return min(max(self._deadline_s, 3 * usual_s), _HARD_DEADLINE_S)


def _means_absent(trouble: ProbeUnknown) -> bool:
    return trouble.reason in {UnknownReason.LIBRARY_ABSENT, UnknownReason.NO_DEVICE}


def _by_uuid(result: ProbeResult) -> dict[str, dict[str, Any]]:
    return {part["uuid"]: part for part in result.parts if "uuid" in part}


def _asked_last(result: ProbeUnknown) -> Any:
    """Index or UUID of the device that the child was asking when it was heard last, or None."""
    asked = [part["asking"] for part in result.parts if "asking" in part]
    return asked[-1] if asked else None


def _no_reading(trouble: ProbeUnknown) -> dict[str, Any]:
    return {"state": "unknown", "error": trouble.reason.value}


def _nameless(index: int, error: str) -> dict[str, Any]:
    return {"index": index, "uuid": None, "state": "unknown", "error": error}
