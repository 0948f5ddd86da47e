"""Where a standby waits: everything that takes time is done, nothing that makes it somebody is.

`wait_for_wake` says ``parked`` and returns once the wake has come, with the environment of a worker in `os.environ`
and the listening socket, if there is one, at descriptor 3: the program goes on as if it had just been started so. At
the channel's end (the nanny is gone, or wants another one) the process exits. Nothing here may touch a file.

The words are `nanny.protocol.standby_words`'. Call it in a process without threads. unix(7), cmsg(3).
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from nanny.protocol import standby_words
from nanny.protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from agent.code_stamp import Comparison

_DESCRIPTORS_LIMIT = 4
_EXIT_DROPPED = 0
_EXIT_NOT_UNDERSTOOD = 1


def is_standby(environ: MutableMapping[str, str]) -> bool:
    """Whether we were started to park."""
    return standby_words.STANDBY_FD_VARIABLE in environ


def wait_for_wake(environ: MutableMapping[str, str], comparison: Comparison) -> None:
    """Park; returns as a worker, or never.

    Args:
        environ: usually os.environ; replaced by the wake's.
        comparison: answers whether the program's files have changed.

    Raises:
        OSError, ValueError: the environment names no channel.
    """
    channel = socket.socket(fileno=int(environ[standby_words.STANDBY_FD_VARIABLE]))
    channel.set_inheritable(False)
    _say(channel, standby_words.PARKED)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == comparison.fd:
                poll.unregister(fd)
                what = comparison.finish()
                _say(channel, standby_words.changed(what) if what else standby_words.SAME)
            elif _obeyed(channel, environ, poll, comparison):
                comparison.leave()
                return


def _obeyed(
    channel: socket.socket, environ: MutableMapping[str, str], poll: select.poll, comparison: Comparison
) -> bool:
    """Take one word; True when it was the wake."""
    frame, descriptors, _, _ = socket.recv_fds(channel, standby_words.FRAME_LIMIT_BYTES, _DESCRIPTORS_LIMIT)
    if not frame:
        os._exit(_EXIT_DROPPED)
    if frame == standby_words.CALL:
        _say(channel, standby_words.HERE)
        return False
    if frame == standby_words.CHECK:
        if comparison.begin(channel.fileno()):
            poll.register(comparison.fd, select.POLLIN)
        return False
    try:
        woken = standby_words.environment_of(frame)
    except ProtocolViolation:
        os._exit(_EXIT_NOT_UNDERSTOOD)
    if woken is None:
        return False  # a word of a later nanny
    environ.clear()
    environ.update(woken)
    _take_over(channel, descriptors)
    return True


def _take_over(channel: socket.socket, descriptors: list[int]) -> None:
    """Put the listening socket in the channel's place; whose end tells the nanny that the wake was taken."""
    number = channel.detach()
    if not descriptors:
        os.close(number)
        return
    os.dup2(descriptors[0], number)
    for fd in descriptors:
        os.close(fd)


def _say(channel: socket.socket, word: bytes) -> None:
    try:
        channel.send(word)
    except OSError:
        os._exit(_EXIT_DROPPED)
