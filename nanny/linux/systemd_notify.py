"""What the nanny tells the service manager above it: sd_notify(3), without libsystemd.

Every message is one unconnected, non-blocking datagram: a connected socket would stay dead after the
manager's restart, and a full queue must not hold the loop. Failures are counted and never raised: supervision
goes on whether or not anybody listens. Without a path everything is a no-op that reports False.

It does not know *when* to say what. sd_notify(3), sd_watchdog_enabled(3), sd_pid_notify_with_fds(3).
"""

import array
import os
import socket
from collections.abc import Mapping, Sequence


class SystemdNotifier:
    """Says our state to the socket named by NOTIFY_SOCKET.

    Args:
        path: a file system path, '@name' in the abstract namespace, or None if nobody asked.

    Attributes:
        sent_total: messages that the kernel took.
        failed_total: messages that it refused.
        last_errno: why it refused the last of those, 0 if none; stays until the next failure.
    """

    def __init__(self, path: str | None) -> None:
        self.sent_total = 0
        self.failed_total = 0
        self.last_errno = 0
        self._address = f"\0{path[1:]}" if path and path[0] == "@" else path
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # close-on-exec by PEP 446
            self._socket.setblocking(False)

    @property
    def enabled(self) -> bool:
        """True if there is somebody to tell."""
        return self._socket is not None

    def ready(self) -> bool:
        """Say that start-up (or a reload) is finished."""
        return self.send({"READY": "1"})

    def status(self, text: str) -> bool:
        """Give the line that `systemctl status` shows."""
        return self.send({"STATUS": text})

    def watchdog(self) -> bool:
        """Pet the manager's watchdog; from the nanny's own loop only, never on the worker's behalf."""
        return self.send({"WATCHDOG": "1"})

    def stopping(self) -> bool:
        """Say that we are on our way out."""
        return self.send({"STOPPING": "1"})

    def reloading(self, monotonic_usec: int) -> bool:
        """Say that a reload begins, at this CLOCK_MONOTONIC instant (Type=notify-reload); `ready` ends it."""
        return self.send({"RELOADING": "1", "MONOTONIC_USEC": str(monotonic_usec)})

    def extend_timeout(self, extension_s: float) -> bool:
        """Ask for that much more time, from now, in starting or stopping."""
        return self.send({"EXTEND_TIMEOUT_USEC": str(int(extension_s * 1e6))})

    def store_fds(self, fds: Sequence[int], name: str) -> bool:
        """Leave duplicates of descriptors with the manager; they come back by LISTEN_FDS at the next start.

        Storing a descriptor twice keeps one. The manager drops those that hang up (a dead pidfd).
        """
        rights = array.array("i", fds)
        return self._send({"FDSTORE": "1", "FDNAME": name}, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def remove_stored(self, name: str) -> bool:
        """Have the manager close what it stored under this name."""
        return self.send({"FDSTOREREMOVE": "1", "FDNAME": name})

    def send(self, fields: Mapping[str, str]) -> bool:
        """Say any fields in one message; a newline in a value becomes a blank. True if the kernel took it."""
        return self._send(fields, [])

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, fields: Mapping[str, str], ancillary: list[tuple[int, int, "array.array[int]"]]) -> bool:
        if self._socket is None:
            return False
        lines = (f"{key}={value.replace(chr(10), ' ')}" for key, value in fields.items())
        payload = "\n".join(lines).encode("utf-8", "replace")
        try:
            self._socket.sendmsg([payload], ancillary, socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            self.failed_total += 1
            # Python itself refuses a path that is too long for sun_path, without an errno.
            self.last_errno = error.errno or 0
            return False
        self.sent_total += 1
        return True


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Give WatchdogSec in seconds, None if the manager expects no petting from this process.

    It kills when a whole interval passes without: pet at half of it.
    """
    meant_for = environ.get("WATCHDOG_PID", "")
    if meant_for and meant_for != str(os.getpid()):
        return None
    value = environ.get("WATCHDOG_USEC", "")
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        return None
    return int(value) / 1e6 or None
