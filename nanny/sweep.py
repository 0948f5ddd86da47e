"""`python -m nanny.sweep`: the unit's ExecStopPost, which ends what the nanny has left, if its end was ordered.

After a crash the worker shall live on for the next nanny, so nothing is done. After an ordered stop nothing of the
unit may be left: not a worker that would not end, not a helper, not what a nanny that hung in its own stop had below
it. systemd runs this in a cgroup of its own below the unit's (`.control`), because the unit is delegated.

Settings that can't be used are no reason to try five times a second: then this waits for a while.
systemd.exec(5) SERVICE_RESULT, systemd.service(5), cgroups(7).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nanny.errors import HostError
from nanny.linux.cgroup import SubCgroup, own_cgroup_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL: Final = ".control"
_EX_CONFIG: Final = "78"
_PAUSE_S: Final = 5.0
_ASK_TIMEOUT_S: Final = 5.0
_SWEEP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05


def main() -> int:
    """Sweep if the end was ordered; 1 if something is left."""
    if os.environ.get("EXIT_CODE") == "exited" and os.environ.get("EXIT_STATUS") == _EX_CONFIG:
        time.sleep(_PAUSE_S)
        return 0
    directory = unit_cgroup_dir()
    if directory is None or not is_ordered(os.environ, os.path.basename(directory)):
        return 0
    left = sweep(directory)
    if left:
        sys.stderr.write(f"left in {directory}: {' '.join(map(str, left))}\n")
    return 1 if left else 0


def unit_cgroup_dir(proc: str = "/proc") -> str | None:
    """The directory of the unit's cgroup; None where there is none that can be written."""
    own = own_cgroup_dir(proc)
    if own is not None and os.path.basename(own) == _CONTROL:
        return os.path.dirname(own)
    return own


def is_ordered(environ: Mapping[str, str], unit: str) -> bool:
    """Whether somebody wanted this end: it was an orderly one, or a stop of the unit is under way."""
    if environ.get("SERVICE_RESULT") == "success":
        return True
    ask = ("systemctl", "list-jobs", "--no-legend", "--plain", unit)
    try:
        told = subprocess.run(ask, capture_output=True, timeout=_ASK_TIMEOUT_S, check=False, text=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return any(is_stop_of(unit, line) for line in told.splitlines())


def is_stop_of(unit: str, job: str) -> bool:
    """Whether a line of `systemctl list-jobs` (number, unit, type, state) is a stop of the unit.

    A restart is none: its start takes a worker over that survived a nanny which hung.
    """
    words = job.split()
    return len(words) >= 3 and words[1:3] == [unit, "stop"]


def sweep(directory: str, timeout_s: float = _SWEEP_TIMEOUT_S) -> tuple[int, ...]:
    """Kill everything in a cgroup and below it but ourselves; the pids that are left after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        below = [SubCgroup(path) for path in _children(directory)]
        for one in below:
            with suppress(HostError):
                one.kill()
        # Not by cgroup.kill, which would end us with them.
        for pid in _others(directory):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        removed = [_is_removed(one) for one in below]
        left = _others(directory)
        if all(removed) and not left:
            return ()
        if time.monotonic() >= deadline:
            return (*left, *(pid for one in below for pid in _pids(one)))
        time.sleep(_POLL_S)


def _children(directory: str) -> list[str]:
    with suppress(OSError), os.scandir(directory) as entries:
        return [one.path for one in entries if one.is_dir(follow_symlinks=False) and one.name != _CONTROL]
    return []


def _others(directory: str) -> list[int]:
    return [pid for pid in _pids(SubCgroup(directory)) if pid not in {0, os.getpid()}]


def _pids(cgroup: SubCgroup) -> tuple[int, ...]:
    with suppress(HostError):
        return cgroup.pids()
    return ()


def _is_removed(cgroup: SubCgroup) -> bool:
    with suppress(HostError):
        return cgroup.remove()
    return False


if __name__ == "__main__":
    sys.exit(main())
