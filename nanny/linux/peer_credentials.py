"""Who is at the other end of an AF_UNIX socket, by the kernel's word and not by the peer's.

`SO_PEERCRED` for streams (the credentials at connect time), `SCM_CREDENTIALS` for each datagram.

The ancillary buffer has room for credentials and nothing else: with one spare slot any sender could install
descriptors in the nanny, datagram by datagram, until it has none left. What slips in nevertheless (a socket
without SO_PASSCRED) is closed at once.

unix(7), cmsg(3), recvmsg(2).
"""

import os
import socket
import struct
from dataclasses import dataclass

# struct ucred: pid_t, uid_t, gid_t.
_UCRED = struct.Struct("iII")
_DESCRIPTOR = struct.Struct("i")
# CMSG_LEN and not CMSG_SPACE: without the padding not even a truncated second header fits.
_ANCILLARY_BYTES = socket.CMSG_LEN(_UCRED.size)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A peer as the kernel knows it; pid 0 is a process outside of our pid namespace."""

    pid: int
    uid: int
    gid: int


def peer_of_stream(sock: socket.socket) -> Credentials:
    """Give who connected (or listened): the credentials at connect(2), which its children may use now.

    Raises:
        OSError: not a connected AF_UNIX stream.
    """
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def enable_passcred(sock: socket.socket) -> None:
    """Have the kernel attach the sender's credentials to each datagram; call it before bind.

    A datagram that was queued before carries pid 0 and the overflow user.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive_with_credentials(
    sock: socket.socket, limit_bytes: int
) -> tuple[bytes, Credentials | None, bool] | None:
    """Take one datagram from the queue; never waits.

    Returns:
        The payload (may be empty), its sender (None without SO_PASSCRED), and whether the payload was cut to
        `limit_bytes`. None if the queue is empty.

    Raises:
        OSError: the socket is broken; an empty queue is no error.
    """
    try:
        payload, ancillary, flags, _address = sock.recvmsg(
            limit_bytes, _ANCILLARY_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        return None
    sender = None
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(content) == _UCRED.size:
            sender = Credentials(*_UCRED.unpack(content))
        elif kind == socket.SCM_RIGHTS:
            _close_all(content)
    return payload, sender, bool(flags & socket.MSG_TRUNC)


def _close_all(content: bytes) -> None:
    whole = len(content) - len(content) % _DESCRIPTOR.size
    for (fd,) in _DESCRIPTOR.iter_unpack(content[:whole]):
        os.close(fd)
