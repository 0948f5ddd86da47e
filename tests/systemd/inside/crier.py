"""Run in a box as the worker: a foreign program that says a few lines, is ready, and dies when it is told to.

SIGUSR1: last words, without an end of line, and SIGABRT. SIGTERM: nothing but words; it must be killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time


def die(*_: object) -> None:
    sys.stdout.write("on stdout: the last words")
    sys.stdout.flush()
    sys.stderr.write("\n<2>on stderr: it is over\n")
    sys.stderr.flush()
    os.abort()


def refuse(*_: object) -> None:
    print("told to end, will not", flush=True)


signal.signal(signal.SIGUSR1, die)
signal.signal(signal.SIGTERM, refuse)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
    door.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
print("ready, says", os.environ["NANNY_INCARNATION"], flush=True)
while True:
    time.sleep(3600)
