"""Named places at which a test has the nanny fall: the crash that cannot be timed from outside is put exactly there.

Off unless the setting ``fault_point`` names a place; no environment variable of a stranger reaches it. A place
signals the nanny itself, by SIGKILL unless ``:STOP`` follows its name. The places: ``worker-parked`` (the child
exists, nothing is recorded), ``worker-recorded`` (recorded, not yet released), ``standby-recorded`` and
``standby-woken`` (a promoted standby is recorded and not yet woken; the wake is sent), ``recovering`` (an image of
the nanny runs and has adopted nobody yet).

``after-WHAT-N`` is the N-th boundary between two effects since WHAT was heard for the first time: an order's kind
(``restart``) or an event's name (``NannyStarted``). The shell passes a boundary once a step is decided, when its
records are with the journal's writer, when its observers are done, and after each action; so counting N up until
the nanny lives through it has been everywhere. The place is named on stderr before the nanny falls. It knows
nothing of what happens there. kill(2).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

PLACES = ("worker-parked", "worker-recorded", "standby-recorded", "standby-woken", "recovering:STOP")


@dataclass(slots=True)
class _Countdown:
    """How many boundaries are still to be passed; 0: none is counted."""

    left: int = 0
    awaited: str = ""
    """What is to be heard first; empty once it was."""


_armed: dict[str, signal.Signals] = {}
_countdown = _Countdown()


def is_place(setting: str) -> bool:
    """Whether the setting can be armed."""
    return setting in PLACES or _counted(setting) is not None


def arm(setting: str | None) -> None:
    """Take the setting: ``NAME``, ``NAME:STOP`` or ``after-WHAT-N``; None disarms."""
    _armed.clear()
    counted = None if setting is None else _counted(setting)
    _countdown.awaited, _countdown.left = counted or ("", 0)
    if setting is not None and counted is None:
        name, _, how = setting.partition(":")
        _armed[name] = signal.SIGSTOP if how == "STOP" else signal.SIGKILL


def hear(what: str) -> None:
    """An event is about to be decided; counting begins if it is what was waited for."""
    if what == _countdown.awaited:
        _countdown.awaited = ""


def reach(name: str) -> None:
    """Be at the place; returns unless it is the armed one (after SIGSTOP, when continued)."""
    if name in _armed:
        os.kill(os.getpid(), _armed[name])
    if _countdown.left and not _countdown.awaited:
        _countdown.left -= 1
        if not _countdown.left:
            os.write(2, f"fault point: {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def _counted(setting: str) -> tuple[str, int] | None:
    """WHAT and N of ``after-WHAT-N``."""
    head, _, number = setting.rpartition("-")
    what = head.removeprefix("after-")
    if not what or what == head or not (number.isascii() and number.isdigit() and int(number) > 0):
        return None
    return what, int(number)
