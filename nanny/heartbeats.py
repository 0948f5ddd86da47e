"""The notify socket: datagrams in, attributed to their sender by the kernel, parsed, counted.

In sd_notify's format, so any program that speaks to systemd can be supervised. The sender's pid comes from
SCM_CREDENTIALS, never from the text. Malformed and foreign datagrams are counted and refused.

Anybody may send here, as fast as a core allows. So a turn of the loop reads a bounded number, still more than any
queue holds (net.unix.max_dgram_qlen), and of beats in a row that say the same only the last is handed on.
sd_notify(3), unix(7).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nanny.linux import peer_credentials
from nanny.protocol import notify_format
from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.event_loop import EventLoop
    from nanny.linux.peer_credentials import Credentials
    from nanny.protocol.notify_format import Beat

DATAGRAM_LIMIT_BYTES: Final = 16 << 10
_DATAGRAMS_A_TURN: Final = 1024
_PARSED_BYTES_A_TURN: Final = 512 << 10


class NotifySocket:
    """One bound notify socket, watched by the loop.

    Attributes:
        path: what NOTIFY_SOCKET is set to.
        received_total, refused_total: datagrams.
    """

    def __init__(
        self,
        path: str,
        loop: EventLoop,
        log: LogLines,
        accepts: Callable[[Credentials], bool],
        on_beat: Callable[[Beat, Credentials], None],
    ) -> None:
        self.path = path
        self._loop = loop
        self._log = log
        self._accepts = accepts
        self._on_beat = on_beat
        self.received_total = 0
        self.refused_total = 0
        self._logged_at = -1e9
        self._turn = -1
        self._datagrams = self._parsed_bytes = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # Before bind: a datagram that arrives without credentials could be anyone's.
        peer_credentials.enable_passcred(self._socket)
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._socket.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  # whoever sends is told by the kernel, not by the file's mode
        loop.watch(self._socket.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        if self._turn != self._loop.turns_total:
            self._turn = self._loop.turns_total
            self._datagrams = self._parsed_bytes = 0
        latest: tuple[Beat, Credentials] | None = None
        while self._datagrams < _DATAGRAMS_A_TURN and self._parsed_bytes < _PARSED_BYTES_A_TURN:
            if self._socket.fileno() < 0:
                return  # a beat had consequences
            received = peer_credentials.receive_with_credentials(self._socket, DATAGRAM_LIMIT_BYTES)
            if received is None:
                break
            self._datagrams += 1
            heard = self._understood(*received)
            if heard is None:
                continue
            if latest is not None and not _supersedes(heard, latest):
                self._on_beat(*latest)
            latest = heard
        if latest is not None:
            self._on_beat(*latest)

    def _understood(
        self,
        payload: bytes,
        sender: Credentials | None,
        truncated: bool,  # noqa: FBT001  (as it was received)
    ) -> tuple[Beat, Credentials] | None:
        self.received_total += 1
        if truncated or sender is None:
            self._refuse("truncated or without credentials", sender)
        elif not self._accepts(sender):
            self._refuse("not from the supervised process", sender)
        else:
            self._parsed_bytes += len(payload)
            try:
                return notify_format.parse(payload), sender
            except ProtocolViolation as violation:
                self._refuse(str(violation), sender)
        return None

    def _refuse(self, why: str, sender: Credentials | None) -> None:
        self.refused_total += 1
        if self._loop.now - self._logged_at < 1.0:
            return
        self._logged_at = self._loop.now
        pid = None if sender is None else sender.pid
        self._log.warning("datagram refused", why=why, sender_pid=pid, refused_total=self.refused_total)

    def close(self) -> None:
        """Stop listening and remove the path."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)


def _supersedes(later: tuple[Beat, Credentials], earlier: tuple[Beat, Credentials]) -> bool:
    """Whether the later one says all that counts of the earlier one: a state is known by its last telling."""
    (new, new_sender), (old, old_sender) = later, earlier
    return (
        new_sender.pid == old_sender.pid
        and _flags(new) == _flags(old)
        and (old.extend_timeout_s is None or new.extend_timeout_s is not None)
        and (old.vitals_tid is None or new.vitals_tid is not None)
    )


def _flags(beat: Beat) -> tuple[bool, ...]:
    return beat.ready, beat.stopping, beat.reloading, beat.watchdog, beat.trigger
