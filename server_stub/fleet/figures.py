"""What a server under load tells of itself: its metrics, its process in /proc, how long its loop keeps one waiting.

Reads Prometheus text by name and labels, and is content with what is there. CPU time is the scheduler's own
count. The wait is asked for from outside, by /livez over a kept connection: the loop's lag and the time of one
small answer, and at times the machine's own delay. proc(5).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "nodenanny_server_"
ASK_GAP_S: Final = 0.2
ASK_TIMEOUT_S: Final = 10.0
_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    """Read the exposition format; lines that are none are left out."""
    found: Samples = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is not None and not line.startswith("#"):
            name, labels, value = match.groups()
            with suppress(ValueError):
                found[name, tuple(sorted(_LABEL.findall(labels or "")))] = float(value)
    return found


def total(samples: Samples, name: str) -> float | None:
    """Give a metric over all of its labels; None: there is none."""
    values = [value for (found, _), value in samples.items() if found == PREFIX + name]
    return sum(values) if values else None


def by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    """Give a metric by the values of one label."""
    found: dict[str, float] = {}
    for (sample, labels), value in samples.items():
        key = dict(labels).get(label)
        if sample == PREFIX + name and key is not None:
            found[key] = found.get(key, 0) + value
    return found


def round_seconds(samples: Samples, before: Samples) -> float | None:
    """Give how long the rounds since `before` took on average, or the last one where only that is told."""
    gauge = total(samples, "sync_round_seconds")
    if gauge is not None:
        return gauge
    for name in ("sync_round_seconds", "sync_round_duration_seconds", "round_seconds"):
        spent, number = total(samples, f"{name}_sum"), total(samples, f"{name}_count")
        if spent is not None and number:
            spent -= total(before, f"{name}_sum") or 0.0
            number -= total(before, f"{name}_count") or 0.0
            return spent / number if number else None
    return None


def cpu_s(pid: int) -> float:
    """Give the CPU seconds that a process's threads have used."""
    spent_ns = 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                spent_ns += int((thread / "schedstat").read_text().split()[0])
    return spent_ns / 1e9


def rss_mib(pid: int) -> float:
    """Give a process's resident memory."""
    with suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20
    return 0.0


def quantiles_ms(samples: list[float]) -> tuple[float | None, float | None]:
    """Give median and 99th percentile of seconds, in milliseconds."""
    if not samples:
        return None, None
    ordered = sorted(samples)
    return ordered[len(ordered) // 2] * 1e3, ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)] * 1e3


class Watch:
    """The questions to one server."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self.waits_s: list[float] = []
        """How long each answer of /livez took."""

    async def metrics(self) -> Samples:
        """Give the server's metrics; nothing where it does not answer."""
        with suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
            async with self._http.get(f"{self._url}/metrics", timeout=timeout) as answer:
                return parse(await answer.text())
        return {}

    async def keep_asking(self) -> None:
        """Ask /livez at random gaps until cancelled."""
        chance = random.Random(0)
        while True:
            await asyncio.sleep(chance.expovariate(1 / ASK_GAP_S))
            began_at = time.perf_counter()
            with suppress(aiohttp.ClientError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
                async with self._http.get(f"{self._url}/livez", timeout=timeout) as answer:
                    await answer.read()
                self.waits_s.append(time.perf_counter() - began_at)


def per_second(now: Mapping[str, float], before: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Give the rates of counters by label; those that stand still are left out."""
    return {
        name: (value - before.get(name, 0)) / seconds
        for name, value in now.items()
        if value > before.get(name, 0) and seconds > 0
    }
