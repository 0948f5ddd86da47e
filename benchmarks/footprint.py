"""What a node costs while nothing happens: memory and CPU of each of our processes, with the defaults.

The whole node of `make demo` without its server: nanny, journal writer, log writer, link, agent, probe server, and
the standby where there is one. RSS counts shared pages in each process, PSS once; CPU is the scheduler's own count.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Effort, Figure, Limit, most, single
from benchmarks.nodes import COLD, HAS_STANDBY
from benchmarks.processes import Usage, children, usage
from server_stub.demo.processes import Demo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def measure(effort: Effort) -> Iterator[Figure]:
    """Cold, as by default; then what a standby adds."""
    effort.tell("settling")
    whole = Usage(0, 0, 0)
    for name, found in _used(effort, COLD):
        limits = {"rss": (most(15),), "cpu": (most(0.1),)} if name == "nanny" else {}
        yield from _figures(name, found, limits)
        whole = Usage(
            whole.rss_mib + found.rss_mib,
            whole.pss_mib + found.pss_mib,
            whole.cpu_percent + found.cpu_percent,
        )
    yield from _figures("whole node", whole, {"pss": (most(150),), "cpu": (most(1),)})
    if HAS_STANDBY:
        effort.tell("with a standby")
        settings = {"standby": "on", "standby_after_s": 1}
        for name, found in _used(effort, settings):
            if name == "standby":
                yield from _figures(name, found, {})


def _figures(name: str, found: Usage, limits: Mapping[str, tuple[Limit, ...]]) -> Iterator[Figure]:
    yield single(f"{name}: RSS", "MiB", found.rss_mib, limits=limits.get("rss", ()))
    yield single(f"{name}: PSS", "MiB", found.pss_mib, limits=limits.get("pss", ()))
    yield single(f"{name}: idle CPU", "% of a core", found.cpu_percent, limits=limits.get("cpu", ()))


def _used(effort: Effort, settings: Mapping[str, Any]) -> list[tuple[str, Usage]]:
    demo = Demo({f"NANNY_{key.upper()}": str(value) for key, value in settings.items()})
    try:
        demo.start()
        with_standby = settings.get("standby") == "on"
        status = demo.until("settling", lambda: _settled(demo, with_standby=with_standby), 90)
        time.sleep(effort.count(6, 3))
        pids = _by_role(status)
        return list(zip(pids, _usages(list(pids.values()), effort.count(20, 6)), strict=True))
    finally:
        demo.close()


def _usages(pids: list[int], over_s: float) -> list[Usage]:
    """All over the same time."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # here alone

    with ThreadPoolExecutor(len(pids)) as pool:
        return list(pool.map(lambda pid: usage([pid], over_s), pids))


def _settled(demo: Demo, *, with_standby: bool) -> dict[str, Any] | None:
    status, node = demo.nanny_status(), demo.node()
    if status is None or node is None or node["state"] != "READY":
        return None
    return status if not with_standby or (status["standby"] or {}).get("stage") == "parked" else None


def _by_role(status: dict[str, Any]) -> dict[str, int]:
    """The processes of the node by what they are."""
    nanny, worker, link = status["nanny"]["pid"], status["worker"]["pid"], status["link"]["pid"]
    found = {"nanny": nanny, "worker (agent)": worker, "link": link}
    standby = (status.get("standby") or {}).get("pid")
    if standby:
        found["standby"] = standby
    for pid in children(worker):
        found.setdefault("probe server", pid)
    for pid in children(nanny):
        if pid not in found.values():
            found[_name(pid)] = pid
    return found


def _name(pid: int) -> str:
    """Of the nanny's own forks, by what they hold open."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            if "/journal." in os.readlink(f"/proc/{pid}/fd/{fd}"):
                return "journal writer"
    return "log writer"
