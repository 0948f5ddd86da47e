"""A service that beats with an sd_notify library (here: sdnotify from PyPI), in the thread that does the work.

    nanny run … -- python sdnotify_service.py

The beat stands where the work is done: a beat from a thread of its own would go on while the work hangs. The
library connects its socket once, and a connected socket stays deaf after the nanny was upgraded or restarted; a
notifier for each message does not. sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import signal
import sys
import time
from types import FrameType

from sdnotify import SystemdNotifier


def tell(message: str) -> None:
    """Send one message; nothing happens without a supervisor, or while it is away."""
    notifier = SystemdNotifier()
    notifier.notify(message)
    if notifier.socket is not None:
        notifier.socket.close()


def leave(_signum: int, _frame: FrameType | None) -> None:
    """End in order."""
    tell("STOPPING=1")
    sys.exit(0)


def main() -> None:
    """Work, and say so after each piece."""
    signal.signal(signal.SIGTERM, leave)
    # Three beats in each timeout: one may be late, one may be lost.
    pause_s = int(os.environ.get("WATCHDOG_USEC", "6000000")) / 3e6
    tell("READY=1\nSTATUS=waiting for work")
    while True:
        time.sleep(pause_s)  # one piece of work goes here
        tell("WATCHDOG=1")


if __name__ == "__main__":
    main()
