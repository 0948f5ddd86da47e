"""What Prometheus' client libraries tell of their process, at a cost that doesn't grow with it.

prometheus_client's own collector lists every descriptor: at ten thousand connections each scrape would hold the
loop for 16 ms. Linux tells their number as the size of the directory (6.2 and later); elsewhere it is left out.
https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics, proc_pid_fd(5)
"""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

_STATM: Final = "/proc/self/statm"
_DESCRIPTORS: Final = "/proc/self/fd"


class ProcessMetrics(Collector):
    """CPU time, memory, descriptors and start of this process."""

    def __init__(self) -> None:
        self._started_wall_at = time.time()

    def collect(self) -> Iterator[Metric]:
        """Give the values of now."""
        yield CounterMetricFamily(
            "process_cpu_seconds_total", "CPU time, user and system, in seconds.", value=time.process_time()
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start of the server since 1970.", value=self._started_wall_at
        )
        with open(_STATM, "rb") as file:  # noqa: PTH123 (no path is worth an object here)
            virtual, resident, *_ = map(int, file.read().split())
        page = resource.getpagesize()
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", value=resident * page)
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory.", value=virtual * page)
        descriptors = os.stat(_DESCRIPTORS).st_size  # noqa: PTH116
        if descriptors:
            yield GaugeMetricFamily("process_open_fds", "Open descriptors.", value=descriptors)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield GaugeMetricFamily("process_max_fds", "As many descriptors may be open.", value=limit)
