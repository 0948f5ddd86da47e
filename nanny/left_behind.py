"""What dead workers leave behind: descendants in their cgroups, the cgroups themselves, residue that won't die.

Every process in a dead worker's cgroup is killed and the cgroup removed, soon and then ever more seldom; what
SIGKILL has not ended after two seconds is residue, which is told and never waited for. cgroups(7).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nanny.core import events as e
from nanny.errors import HostError
from nanny.event_loop import DeadlineSource
from nanny.linux.cgroup import SubCgroup

if TYPE_CHECKING:
    from collections.abc import Collection

    from nanny.event_loop import EventLoop
    from nanny.supervisor import Supervisor

_FIRST_S: Final = 0.1
_CEILING_S: Final = 5.0
_RESIDUE_AFTER_S: Final = 2.0
_LAST_LOOKS_S: Final = 0.005


@dataclass(slots=True)
class _Swept:
    """The cgroup of a dead worker, until it is empty and removed."""

    cgroup: SubCgroup
    since: float


class LeftBehind:
    """Cgroups of the dead, on their way out."""

    def __init__(self, supervisor: Supervisor, loop: EventLoop) -> None:
        self._supervisor = supervisor
        self._loop = loop
        self._swept: list[_Swept] = []
        self._due_at = 0.0
        self._pause_s = _FIRST_S
        self._residue = 0
        loop.add_source(DeadlineSource(lambda: self._due_at if self._swept else None, self._on_due))

    def sweep_up(self, cgroup: SubCgroup) -> None:
        """Kill whoever is in it, and remove it as soon as it is empty."""
        with suppress(HostError):
            cgroup.kill()
        self._swept.append(_Swept(cgroup, self._loop.now))
        self._pause_s = _FIRST_S
        self._due_at = self._loop.now + self._pause_s

    def sweep_others(self, directory: str, ours: Collection[str]) -> None:
        """Sweep up every worker's cgroup in the directory that is none of ours."""
        for name in names_in(directory, "worker-", ""):
            path = os.path.join(directory, name)
            if path not in ours:
                self.sweep_up(SubCgroup(path))

    def _on_due(self, now: float) -> None:
        self.remove_empty()
        self._pause_s = min(self._pause_s * 2, _CEILING_S)
        self._due_at = now + self._pause_s
        residue = 0
        for one in self._swept:
            if now - one.since >= _RESIDUE_AFTER_S:
                with suppress(HostError):
                    one.cgroup.kill()
                    residue += len(one.cgroup.pids())
        if residue != self._residue:
            self._residue = residue
            self._supervisor.tell(e.ResidueObserved(residue))

    def see_off(self, limit_s: float) -> None:
        """At the nanny's own end: give those who were just killed this long to be gone, and remove what is empty."""
        until = time.monotonic() + limit_s
        self.remove_empty()
        while self._swept and time.monotonic() < until:
            time.sleep(_LAST_LOOKS_S)
            self.remove_empty()

    def remove_empty(self) -> None:
        """Remove those that are empty by now."""
        self._swept = [one for one in self._swept if not _removed(one.cgroup)]


def _removed(cgroup: SubCgroup) -> bool:
    try:
        return cgroup.remove()
    except HostError:
        return False


def names_in(directory: str, prefix: str, suffix: str) -> list[str]:
    """Names of a directory's entries; none where it cannot be read."""
    with suppress(OSError):
        return [name for name in os.listdir(directory) if name.startswith(prefix) and name.endswith(suffix)]
    return []
