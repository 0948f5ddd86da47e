"""Named places at which a test has the nanny fall: the crash that cannot be timed from outside is put exactly there.

Off unless the setting ``fault_point`` names a place; no environment variable of a stranger reaches it. A place
signals the nanny itself, by SIGKILL unless ``:STOP`` follows its name. The places: ``worker-parked`` (the child
exists, nothing is recorded), ``worker-recorded`` (recorded, not yet released), ``recovering`` (an image of the
nanny runs and has adopted nobody yet). It knows nothing of what happens there. kill(2).
"""

from __future__ import annotations

import os
import signal

_armed: dict[str, signal.Signals] = {}


def arm(setting: str | None) -> None:
    """Take the setting: ``NAME`` or ``NAME:STOP``; None disarms."""
    _armed.clear()
    if setting is not None:
        name, _, how = setting.partition(":")
        _armed[name] = signal.SIGSTOP if how == "STOP" else signal.SIGKILL


def reach(name: str) -> None:
    """Be at the place; returns unless it is the armed one (after SIGSTOP, when continued)."""
    if name in _armed:
        os.kill(os.getpid(), _armed[name])
