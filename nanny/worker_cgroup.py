"""The cgroup of one worker: made before it is born, found again when it is adopted.

Named ``worker-<number>`` where it can be; one that was promoted keeps its standby's, for a move costs some 8 ms and
takes no children along. cgroups(7).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from nanny.errors import HostError
from nanny.left_behind import names_in
from nanny.linux.cgroup import SubCgroup

if TYPE_CHECKING:
    from nanny.common.log_lines import LogLines
    from nanny.protocol.incarnation import Incarnation


def make(directory: str | None, incarnation: Incarnation, log: LogLines) -> SubCgroup | None:
    """An empty cgroup, which the child enters by itself while it is parked; None where there can be none."""
    if directory is None:
        return None
    # Numbers begin anew in a new epoch, and a dead worker of the old one may still be in the first.
    for name in (
        f"worker-{incarnation.number}",
        f"worker-{incarnation.number}-{incarnation.epoch[-12:]}",
    ):
        cgroup = SubCgroup(os.path.join(directory, name))
        try:
            if cgroup.create():
                return cgroup
        except (HostError, OSError) as error:
            log.warning("no cgroup for the worker", why=str(error))
            return None
    return None


def find(directory: str | None, pid: int) -> SubCgroup | None:
    """The worker's cgroup that holds this process."""
    if directory is None:
        return None
    for name in names_in(directory, "worker-", ""):
        cgroup = SubCgroup(os.path.join(directory, name))
        with suppress(HostError):
            if pid in cgroup.pids():
                return cgroup
    return None
