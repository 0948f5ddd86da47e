"""Sockets handed from parent to child by number and name: the LISTEN_FDS protocol, in both directions.

Upwards: what systemd (socket units, the descriptor store) or an execve in place left to the nanny.
Downwards: the variables under which the worker finds the nanny's listening socket. Placing the descriptors at
3, 4, ... is the fork gate's work, since only it knows which numbers it uses itself.

sd_listen_fds(3), socket(7) for SO_ACCEPTCONN.
"""

import os
import socket
from collections.abc import MutableMapping, Sequence

FIRST_FD = 3
_UNNAMED = "unknown"
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def take_inherited(environ: MutableMapping[str, str]) -> dict[str, list[int]]:
    """Take the descriptors meant for this process and give them by name; a name may stand for several.

    They become close-on-exec, and the variables go, meant for us or not: no child of ours shall believe that
    they are for it. Nameless ones are called "unknown", as systemd calls them; a number that is not open is
    left out. Malformed variables count as none: the nanny starts without, and binds its own.
    """
    taken = {name: environ.pop(name, "") for name in _VARIABLES}
    try:
        meant_for, count = int(taken["LISTEN_PID"]), int(taken["LISTEN_FDS"])
    except ValueError:
        return {}
    if meant_for != os.getpid():
        return {}
    names = taken["LISTEN_FDNAMES"].split(":")
    inherited: dict[str, list[int]] = {}
    # A count beyond the limit of descriptors is malformed, too, and must not cost a long loop.
    for index in range(min(count, os.sysconf("SC_OPEN_MAX"))):
        fd = FIRST_FD + index
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue
        name = names[index] if index < len(names) and names[index] else _UNNAMED
        inherited.setdefault(name, []).append(fd)
    return inherited


def environment_for_child(names: Sequence[str], pid: int | None = None) -> dict[str, str]:
    """Give the variables for a child that finds the named descriptors at 3, 4, ... in this order.

    Args:
        names: one for each descriptor; empty gives no variable at all.
        pid: the child. If None the calling process, for use in the forked child right before its exec.

    Raises:
        ValueError: a name that LISTEN_FDNAMES cannot carry.
    """
    for name in names:
        if not (0 < len(name) <= 255 and name.isascii() and name.isprintable() and ":" not in name):
            raise ValueError(f"{name!r} is no name for a descriptor: 1 to 255 printable ASCII, no ':'")
    if not names:
        return {}
    return {
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(names),
    }


def is_listening(sock: socket.socket) -> bool:
    """Tell whether it still accepts connections: shutdown(2) by any holder ends that for all of them."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
