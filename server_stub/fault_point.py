"""Places at which a test has the server fall: the crash that cannot be timed from outside is put exactly there.

Off unless the setting `fault_point` says `after-N`: at the N-th place that is passed the server names it on
stderr and kills itself, so counting N up until the server lives through it has been at all of them. The places
are before and after each thing that a command's life makes durable or visible: its storing, its sending, each
frame, its acceptance, its outcome, the acknowledgement. Nothing is cleaned up, as when the machine's power
fails. It knows nothing of what happens there. kill(2).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "after-"


@dataclass(slots=True)
class _Countdown:
    """How many places are still to be passed; 0: none is counted."""

    left: int = 0


_countdown = _Countdown()


def is_setting(text: str) -> bool:
    """Tell whether the setting can be armed."""
    number = text.removeprefix(_PREFIX)
    return text.startswith(_PREFIX) and number.isascii() and number.isdigit() and int(number) > 0


def arm(setting: str | None) -> None:
    """Take the setting; None disarms."""
    _countdown.left = 0 if setting is None else int(setting.removeprefix(_PREFIX))


def reach(place: str) -> None:
    """Be at a place; returns unless it is the one."""
    if _countdown.left:
        _countdown.left -= 1
        if not _countdown.left:
            os.write(2, f"fault point: {place}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
