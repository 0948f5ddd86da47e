"""A program that can be a standby, without any code of ours: docs/standby.md in thirty lines.

`PARKING_WORKER` is for `tests.support.nodes.running_nanny`: it parks where it is told to, beats as a worker, and
appends ``parked PID`` and ``runs PID INCARNATION`` to the file in ``LIFE_LOG``. SIGUSR1 makes a parked one say that its
code has changed. `parking_node` is a node of such workers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.nodes import RunningNanny, running_nanny

PARKING = """\
import json

def log(*words):
    with open(os.environ["LIFE_LOG"], "a") as file:
        print(*words, file=file)

def park(channel):
    log("parked", os.getpid())
    signal.signal(signal.SIGUSR1, lambda *_: channel.send(b"changed worker.py"))
    channel.send(b"parked")
    while True:
        word, fds, _, _ = socket.recv_fds(channel, 1 << 18, 4)
        if not word:
            os._exit(0)
        if word == b"call":
            channel.send(b"here")
        elif word == b"check":
            channel.send(b"same")
        elif word.startswith(b"wake "):
            os.environ.clear()
            os.environ.update(json.loads(word[5:]))
            number = channel.detach()
            if fds:
                os.dup2(fds[0], number)
                os.close(fds[0])
            else:
                os.close(number)
            return

if "NANNY_STANDBY_FD" in os.environ:
    park(socket.socket(fileno=int(os.environ["NANNY_STANDBY_FD"])))
log("runs", os.getpid(), os.environ["NANNY_INCARNATION"])
"""
PARKING_WORKER = (
    PARKING
    + """\
while True:
    notify("READY=1\\nWATCHDOG=1")  # in each of them: a nanny that was adopting may have missed the first
    time.sleep(0.1)
"""
)


@contextmanager
def parking_node(worker_code: str = PARKING_WORKER, **settings: Any) -> Iterator[RunningNanny]:
    """A node whose worker can park; a standby is made 0.1 s after READY=1."""
    wanted: dict[str, Any] = {"standby": "on", "standby_after_s": 0.1, "standby_min_available_bytes": 0}
    # On a busy machine it answers late, and a test of what follows wants it promoted all the same.
    wanted["standby_answer_timeout_s"] = 20.0
    with running_nanny(worker_code, start=False, **(wanted | settings)) as node:
        node.environ["LIFE_LOG"] = f"{node.root}/lives"
        node.start()
        yield node


def lives(node: RunningNanny) -> list[list[str]]:
    """What the workers of a node have logged, a list of words a line."""
    try:
        with open(f"{node.root}/lives") as file:
            return [line.split() for line in file]
    except FileNotFoundError:
        return []


def wait_until_parked(node: RunningNanny) -> int:
    """Wait for a parked standby beside a running worker; its pid."""
    status = node.wait_for(
        lambda status: status["phase"] == "running" and status["standby"]["stage"] == "parked",
        "a parked standby",
    )
    return int(status["standby"]["pid"])
