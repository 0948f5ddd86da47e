"""One nanny a state directory, without touching that directory: its disk may hang.

The claim is a listening socket in the abstract namespace, named after the configured path; the kernel gives it up
with the last process that holds it, and says who that is (SO_PEERCRED). It sees neither other names of the same
directory nor other network namespaces: there the journal's own fence is what keeps two from writing. A squatter
of another user does not keep a nanny from starting. unix(7).
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from zlib import crc32

from nanny.linux import peer_credentials
from nanny.linux.file_lock import AlreadyLocked

_BACKLOG = 16


def claim(state_dir: str) -> socket.socket | None:
    """Claim the directory; None where a stranger sits on the name or abstract names can't be had.

    Raises:
        AlreadyLocked: another nanny of ours has it.
    """
    path = os.path.normpath(state_dir)
    name = f"\0nodenanny/{crc32(path.encode()):08x}/{path}"[:107]
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(name)
        claimed.listen(_BACKLOG)
        claimed.setblocking(False)
    except OSError as error:
        claimed.close()
        if error.errno != errno.EADDRINUSE:
            return None
    else:
        return claimed
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
            holder = peer_credentials.peer_of_stream(asking)
        except OSError:
            # Given up in this moment, or nobody takes the question: the lock and the fence decide.
            return None
    if holder.uid not in {0, os.geteuid()}:
        return None
    raise AlreadyLocked(state_dir, holder.pid)


def let_ask(claimed: socket.socket) -> None:
    """Take the questions of nannies that were refused, so that the next one can ask."""
    with suppress(OSError):
        while True:
            asking, _ = claimed.accept()
            asking.close()


def resume(fd: int) -> socket.socket:
    """Take over the claim that came along over execve(2)."""
    os.set_inheritable(fd, False)
    claimed = socket.socket(fileno=fd)
    claimed.setblocking(False)
    return claimed
