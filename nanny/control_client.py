"""A blocking client of the nanny's control socket: ask, and hear pushes, each with a deadline.

For programs that may wait (nannyctl, tests, scripts), never for the nanny or link. Every wait ends: a nanny that is
stopped or hung is an error with words about what to do next, and nobody hangs on it. Answers and pushes may come in
any order; pushes that arrive while an answer is awaited are kept for `next_push`. Knows the frames of
``nanny/control.py``, and nothing of what is asked. unix(7).
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from nanny.errors import NannyError

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_TIMEOUT_S: Final = 5.0
LINE_LIMIT_BYTES: Final = 16 << 20
"""More than the nanny ever sends: its own limit is 4 MiB a client."""
_CHUNK_BYTES: Final = 256 << 10


class ControlError(NannyError):
    """What came of a try to speak with the nanny.

    Attributes:
        advice: what to do next, for people; may be empty.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        self.advice = advice
        super().__init__(message)


class NannyUnreachable(ControlError):  # noqa: N818  # it says what is the case
    """Nobody there, or nobody who answers."""


class NotPermitted(ControlError):  # noqa: N818  # likewise
    """The socket's mode, or the nanny, does not let this user."""


class RequestRefused(ControlError):  # noqa: N818  # likewise
    """The nanny answered no."""


class TryAgain(RequestRefused):
    """The nanny answered: not now."""


class ControlClient:
    """One connection to ``control.sock``; not for more than one thread."""

    def __init__(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Connect.

        Args:
            path: of the socket.
            timeout_s: for connecting, and for each answer unless said otherwise.

        Raises:
            NannyUnreachable: there is no nanny, or it takes no connection in time.
            NotPermitted: this user may not open the socket.
        """
        self.path = path
        self._timeout_s = timeout_s
        self._received = bytearray()
        self._pushes: deque[dict[str, Any]] = deque()
        self._last_id = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(max(timeout_s, 0.001))
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise _cannot_connect(path, error, timeout_s) from error

    def request(self, do: str, *, timeout_s: float | None = None, **fields: Any) -> dict[str, Any]:
        """Ask, and give the result.

        Args:
            do: the request's name.
            timeout_s: for this answer.
            fields: of the request; None is sent as null.

        Raises:
            NannyUnreachable: no answer in time, or the connection was lost.
            NotPermitted: the peer's role does not allow it.
            TryAgain: refused for the moment.
            RequestRefused: refused.
        """
        deadline = monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        self._last_id += 1
        self._send({"id": self._last_id, "do": do, **fields})
        while True:
            message = self._receive(deadline)
            if message is None:
                raise NannyUnreachable(
                    f"the nanny at {self.path} did not answer {do} in time",
                    "it may hang or be stopped: systemctl status nodenanny (its watchdog ends it if it hangs)",
                )
            if "push" in message:
                self._pushes.append(message)
            elif message.get("id") in {self._last_id, None}:
                return _result(message, do)

    def subscribe(self) -> dict[str, Any]:
        """From now on pushes arrive; gives the status as it is."""
        return self.request("subscribe")

    def next_push(self, timeout_s: float) -> dict[str, Any] | None:
        """Give the next push, oldest first; None if none came in time.

        Raises:
            NannyUnreachable: the connection was lost.
        """
        if self._pushes:
            return self._pushes.popleft()
        deadline = monotonic() + timeout_s
        while True:
            message = self._receive(deadline)
            if message is None or "push" in message:
                return message

    def close(self) -> None:
        """Let go; what was ordered stands."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._socket.settimeout(max(self._timeout_s, 0.001))
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n", socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Refused peers are told why before they are cut off: that line may still be read.
        except OSError as error:
            raise _lost(self.path, error) from error

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """Give the next line; None at the deadline."""
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > LINE_LIMIT_BYTES:
                raise NannyUnreachable(f"{self.path} sends no lines: this is no nanny")
            # At the deadline what has arrived already still counts.
            self._socket.settimeout(max(deadline - monotonic(), 0.0))
            try:
                chunk = self._socket.recv(_CHUNK_BYTES)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError as error:
                raise _lost(self.path, error) from error
            if not chunk:
                raise _lost(self.path, None)
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise NannyUnreachable(f"{self.path} does not speak JSON: this is no nanny") from error
        if not isinstance(message, dict):
            raise NannyUnreachable(f"{self.path} does not send JSON objects: this is no nanny")
        return message


def _result(message: dict[str, Any], do: str) -> dict[str, Any]:
    if message.get("ok") is True:
        result = message.get("result")
        return result if isinstance(result, dict) else {}
    # The control socket gives no codes: its words are the contract here, and tests hold them.
    error = str(message.get("error", "refused without a reason"))
    if "may not" in error:
        raise NotPermitted(
            f"{do}: {error}", "be root, or one of control_users (control_observers may look, not order)"
        )
    if "try again" in error or error == "too many clients":
        raise TryAgain(f"{do}: {error}", "nothing was done; the same command can be given again")
    raise RequestRefused(f"{do}: {error}")


def _lost(path: str, error: OSError | None) -> NannyUnreachable:
    why = "closed the connection" if error is None else f"lost the connection ({error.strerror})"
    return NannyUnreachable(f"the nanny at {path} {why}", "it may be restarting: ask again in a second")


def _cannot_connect(path: str, error: OSError, timeout_s: float) -> ControlError:
    where = os.path.dirname(path) or "."
    elsewhere = "--runtime-dir or NANNY_RUNTIME_DIR names another directory"
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return NotPermitted(f"uid {os.geteuid()} may not open {path}", _who_may(path))
        case errno.ENOENT | errno.ENOTDIR:
            is_there = os.path.isdir(where)
            return NannyUnreachable(
                f"no nanny in {where}: " + ("it has no control.sock" if is_there else "no such directory"),
                f"is it running (systemctl status nodenanny)? {elsewhere}; nannyctl history works without it",
            )
        case errno.ECONNREFUSED:
            return NannyUnreachable(
                f"nobody listens on {path}: that nanny is dead",
                "the worker goes on without it; systemctl status nodenanny, then nannyctl history",
            )
        case errno.ENOTSOCK | errno.EPROTOTYPE:
            return NannyUnreachable(f"{path} is no nanny's socket", elsewhere)
    if isinstance(error, TimeoutError | BlockingIOError):
        return NannyUnreachable(
            f"the nanny at {path} took no connection within {timeout_s:g} s",
            "it may hang or be stopped: systemctl status nodenanny",
        )
    return NannyUnreachable(f"{path}: {error.strerror or error}", elsewhere)


def _who_may(path: str) -> str:
    """Name the group that may open the socket, as far as it can be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return f"become root, or a user who may enter {os.path.dirname(path)}"
    if not found.st_mode & 0o060:
        return "become root; for others, set sockets_group and control_users (or control_observers)"
    import grp  # noqa: PLC0415  # only for this message

    try:
        name = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        name = str(found.st_gid)
    return f"become root, or a member of the group {name}"
