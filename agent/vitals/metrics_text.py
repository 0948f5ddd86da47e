"""The process and its vitals as Prometheus text.

Reads of the process itself only what costs nothing and takes no lock that a hung thread may hold: CPU times and
the two figures of statm. Counters come from the parts that count. See Prometheus' text-based exposition format
and proc_pid_statm(5).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.core.health import Health, Observation

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class ProcessFigures:
    """What /metrics says of the process: memory, CPU time, start."""

    def __init__(self) -> None:
        """Open what is read later on: by then descriptors may have run out."""
        self._statm_fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._started_wall_at = time.time()

    def text(self) -> str:
        """The ``process_*`` families."""
        pages = os.pread(self._statm_fd, 128, 0).split()
        times = os.times()
        return "".join(
            (
                family("process_cpu_seconds_total", "counter", [("", times.user + times.system)]),
                family("process_virtual_memory_bytes", "gauge", [("", int(pages[0]) * _PAGE_BYTES)]),
                family("process_resident_memory_bytes", "gauge", [("", int(pages[1]) * _PAGE_BYTES)]),
                family("process_start_time_seconds", "gauge", [("", self._started_wall_at)]),
            )
        )

    def close(self) -> None:
        """Read no more."""
        os.close(self._statm_fd)


def family(name: str, kind: str, samples: Iterable[tuple[str, float]]) -> str:
    """One family; the samples' labels are already written, without braces."""
    lines = [f"{name}{{{labels}}} {value!r}" if labels else f"{name} {value!r}" for labels, value in samples]
    return "\n".join((f"# TYPE {name} {kind}", *lines, "")) if lines else ""


def counts(name: str, label: str, values: Mapping[str, int] | Mapping[int, int]) -> str:
    """A counter family with one label."""
    return family(name, "counter", [(f'{label}="{key}"', value) for key, value in dict(values).items()])


def health_text(seen: Observation, health: Health) -> str:
    """The families that follow from an observation."""
    return "".join(
        (
            family("vitals_healthy", "gauge", [("", int(health.http_status == 200))]),
            family("vitals_ready", "gauge", [("", int(seen.snapshot.is_ready))]),
            family("vitals_uptime_seconds", "gauge", [("", seen.uptime_s)]),
            family(
                "vitals_loop_lag_seconds",
                "gauge",
                [] if seen.loop_lag_s is None else [("", seen.loop_lag_s)],
            ),
            family("vitals_expected_seconds", "gauge", [("", seen.expected[0])] if seen.expected else []),
            family(
                "vitals_progress_age_seconds",
                "gauge",
                [(f'point="{p.name}"', p.age_s) for p in seen.progress],
            ),
            family(
                "vitals_progress_deadline_seconds",
                "gauge",
                [(f'point="{p.name}"', p.deadline_s) for p in seen.progress],
            ),
        )
    )
