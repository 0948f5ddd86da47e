"""What the nanny and a standby worker say to each other over the standby's channel, one datagram a word.

A program that finds ``NANNY_STANDBY_FD`` in its environment is no worker yet: it does what it can do without being
anybody, says ``parked``, and waits on that descriptor, a SOCK_SEQPACKET socket. ``call`` is answered ``here``;
``check`` is answered ``same``, or ``changed`` with the file that is no longer what was loaded. ``wake`` carries the
whole environment of a worker and, as SCM_RIGHTS, the listening socket where there is one, which belongs at descriptor
3, in the channel's place. The channel's end in the program tells that the wake was taken; its end in the nanny is the
program's end. unix(7), sd_listen_fds(3).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Mapping

STANDBY_FD_VARIABLE: Final = "NANNY_STANDBY_FD"
CHANNEL_FD: Final = 3
"""Where the channel is in the program, and afterwards the listening socket."""
FRAME_LIMIT_BYTES: Final = 192 << 10
"""Below the kernel's default for a socket's buffer (net.core.wmem_default)."""

PARKED: Final = b"parked"
CALL: Final = b"call"
HERE: Final = b"here"
CHECK: Final = b"check"
SAME: Final = b"same"
_CHANGED: Final = b"changed "
_WAKE: Final = b"wake "
_REASON_LIMIT: Final = 512


def wake(environ: Mapping[str, str]) -> bytes:
    """The wake message with the environment to go on with.

    Raises:
        ProtocolViolation: the environment is too large for one datagram.
    """
    frame = _WAKE + json.dumps(dict(environ)).encode()
    if len(frame) > FRAME_LIMIT_BYTES:
        raise ProtocolViolation(f"the environment takes {len(frame)} bytes, at most {FRAME_LIMIT_BYTES}")
    return frame


def environment_of(frame: bytes) -> dict[str, str] | None:
    """The environment in a wake message; None for any other message.

    Raises:
        ProtocolViolation: a wake message without one.
    """
    if not frame.startswith(_WAKE):
        return None
    try:
        environ = json.loads(frame[len(_WAKE) :])
    except ValueError as error:
        raise ProtocolViolation(f"wake: {error}") from None
    if not isinstance(environ, dict) or not all(isinstance(value, str) for value in environ.values()):
        raise ProtocolViolation("wake: an object of texts")
    return environ


def changed(what: str) -> bytes:
    """The answer to a check that found `what` to be another file than the one that was loaded."""
    return _CHANGED + what.encode("utf-8", "backslashreplace")[:_REASON_LIMIT]


def change_in(frame: bytes) -> str | None:
    """What has changed, as the answer to a check tells it; None for any other message."""
    if not frame.startswith(_CHANGED):
        return None
    return frame[len(_CHANGED) :][:_REASON_LIMIT].decode("utf-8", "replace")
