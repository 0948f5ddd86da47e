"""The local control socket: one client protocol for nannyctl and link, JSON lines over an AF_UNIX stream.

A request is ``{"id": n, "do": name, …}``, its answer ``{"id": n, "ok": true, "result": …}`` or
``{"id": n, "ok": false, "error": …}``, with ``"retry": true`` where asking later may help; after ``subscribe`` the
nanny also sends ``{"push": …}`` lines. The peer is whoever the kernel says (SO_PEERCRED), and what it may do follows
from its role. Sizes, clients and output are bounded; whoever breaks a bound loses the connection, and nobody else
notices. When all places are taken, the client that has been silent for longest makes room: forgotten connections
must not lock an operator out.

Whoever has said something stands in line. A turn of the loop goes along that line: from each client one read and one
request at a time, up to a number and a time for all of them together. So whoever says more is answered no sooner, and
beats and deadlines are served in between. unix(7).
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from nanny.event_loop import DeadlineSource
from nanny.linux import peer_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.event_loop import EventLoop
    from nanny.linux.peer_credentials import Credentials

REQUEST_LIMIT_BYTES: Final = 64 << 10
_OUTPUT_LIMIT_BYTES: Final = 4 << 20
_ALL_OUTPUT_LIMIT_BYTES: Final = 8 << 20
"""Of all clients together: who reads least loses the connection."""
_CLIENTS_LIMIT: Final = 64
_TURNS_IN_LINE: Final = 32
_SERVING_S: Final = 0.01
"""Once so much time of a turn of the loop was spent on reads and requests, whoever is next waits for the next one."""
_ACCEPTS_A_CALL: Final = 8
_CHUNK_BYTES: Final = 64 << 10
_ID_LIMIT: Final = 128


class Role(StrEnum):
    """What a peer is to the nanny."""

    OPERATOR = "operator"
    LINK = "link"
    OBSERVER = "observer"


class RequestError(Exception):
    """A request that can't be served; the message says what would be right."""


class NotNow(RequestError):  # noqa: N818  (an answer, not a fault)
    """A request that can't be served now; the same one may be served later."""


@dataclass(slots=True)
class Client:
    """One connection."""

    connection: socket.socket
    peer: Credentials
    role: Role
    received: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)
    """Output that the socket did not take yet."""
    subscribed: bool = False
    is_in_line: bool = False
    """Whether its turn is yet to come: until then its descriptor is not watched."""
    asked_at: float = 0.0
    """When it last said something."""
    searched: int = 0
    """So many bytes of `received` hold no newline."""


class ControlSocket:
    """Accepts clients, checks them, answers requests.

    Attributes:
        refused_total: peers and requests refused.
    """

    def __init__(
        self,
        path: str,
        loop: EventLoop,
        log: LogLines,
        role_of: Callable[[Credentials], Role | None],
        group_id: int | None = None,
    ) -> None:
        self._path = path
        self._loop = loop
        self._log = log
        self._role_of = role_of
        self._requests: dict[str, tuple[frozenset[Role], Callable[[dict[str, Any], Client], Any]]] = {}
        self._clients: dict[int, Client] = {}
        self._line: dict[int, Client] = {}
        """Those who have said something, in the order in which they are heard and served."""
        self.refused_total = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._listener.bind(path)
        if group_id is not None:
            os.chown(path, -1, group_id)
        # Connecting is not being served: the role decides. Without a group, only root and our own user connect.
        os.chmod(path, 0o660 if group_id is not None else 0o600)
        self._listener.listen(_CLIENTS_LIMIT)
        loop.watch(self._listener.fileno(), self._accept)
        loop.add_source(
            DeadlineSource(lambda: self._loop.now if self._line else None, self._go_along_the_line)
        )

    def serve(self, name: str, roles: frozenset[Role], run: Callable[[dict[str, Any], Client], Any]) -> None:
        """Say who may ask for what; ``run`` gives the result, None when the answer comes later."""
        self._requests[name] = (roles, run)

    def push(self, message: dict[str, Any]) -> None:
        """Send a line to every subscriber."""
        subscribers = [one for one in self._clients.values() if one.subscribed]
        line = _line(message) if subscribers else b""
        for client in subscribers:
            self._send_line(client, line)

    def answer(self, client: Client, request_id: Any, result: Any) -> None:
        """Answer a request later; nothing happens when the client has gone meanwhile."""
        if self._clients.get(client.connection.fileno()) is client:
            self.send(client, {"id": request_id, "ok": True, "result": result})

    def refuse(self, client: Client, request_id: Any, error: str, *, is_passing: bool = False) -> None:
        """Refuse a request; ``is_passing`` tells the client to ask again later."""
        self.refused_total += 1
        again = {"retry": True} if is_passing else {}
        self.send(client, {"id": request_id, "ok": False, "error": error, **again})

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_CALL):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # No descriptor is left, or the like: it stays ready, and trying at once would only spin.
                self._log.warning("control connection not accepted", error=str(error))
                self._loop.rest(self._listener.fileno())
                return
            connection.setblocking(False)
            peer = peer_credentials.peer_of_stream(connection)
            role = self._role_of(peer)
            if role is None:
                why = f"uid {peer.uid} may not use this socket"
                self.refused_total += 1
                self._log.warning("control client refused", why=why, pid=peer.pid, uid=peer.uid)
                with suppress(OSError):
                    connection.send(json.dumps({"id": None, "ok": False, "error": why}).encode() + b"\n")
                connection.close()
                continue
            if len(self._clients) >= _CLIENTS_LIMIT:
                self._make_room()
            client = Client(connection, peer, role, asked_at=self._loop.now)
            self._clients[connection.fileno()] = client
            self._loop.watch(connection.fileno(), lambda client=client: self._ready(client))  # type: ignore[misc]

    def _make_room(self) -> None:
        """Drop the client that has been silent for longest, an observer before an operator, link last."""
        order = (Role.OBSERVER, Role.OPERATOR, Role.LINK)
        silent = min(self._clients.values(), key=lambda one: (order.index(one.role), one.asked_at))
        self.refused_total += 1
        self._log.warning("control client dropped", why="too many clients", pid=silent.peer.pid)
        self._drop(silent)

    def _ready(self, client: Client) -> None:
        """It has said something, or takes output again: it stands in line, and is not watched meanwhile."""
        fd = client.connection.fileno()
        client.asked_at = self._loop.now
        client.is_in_line = True
        self._line[fd] = client
        self._loop.unwatch(fd)

    def _go_along_the_line(self, _now: float) -> None:
        """A turn's share, until the number or the time is spent: who asks for more stands at the end again."""
        until = monotonic() + _SERVING_S
        for _ in range(_TURNS_IN_LINE):
            if not self._line:
                return
            self._attend_to(next(iter(self._line)))
            if monotonic() > until:
                return

    def _attend_to(self, fd: int) -> None:
        client = self._line.pop(fd)
        is_asking = self._hear_and_serve(client)
        if client.connection.fileno() != fd:
            return
        if is_asking:
            self._line[fd] = client
            return
        client.is_in_line = False
        self._loop.watch(fd, lambda: self._ready(client))
        if client.waiting:
            self._await_room(client)

    def _hear_and_serve(self, client: Client) -> bool:
        """One client's turn: one read unless a request is here, then one request; whether another one is here."""
        if client.waiting:
            self._flush(client)
        end = self._end_of_request(client)
        if end < 0 and self._hear(client):
            end = self._end_of_request(client)
        if end < 0:
            return False
        line = bytes(client.received[:end])
        del client.received[: end + 1]
        client.searched = 0
        self._serve_line(client, line)
        return self._end_of_request(client) >= 0

    def _hear(self, client: Client) -> bool:
        """Read once; whether anything came that may make a request whole."""
        if client.connection.fileno() < 0:
            return False
        try:
            chunk = client.connection.recv(_CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._drop(client)
            return False
        # Empty lines ask for nothing, and are not even kept.
        client.received += chunk if client.received else chunk.lstrip()
        return True

    def _end_of_request(self, client: Client) -> int:
        """Where the first request ends, -1 where none is whole; who asks too much loses the connection."""
        if client.received[:1].isspace():
            client.received = client.received.lstrip()
            client.searched = 0
        end = client.received.find(b"\n", client.searched)
        if end < 0:
            client.searched = len(client.received)
            if client.searched > REQUEST_LIMIT_BYTES:
                self.refuse(client, None, f"a request has at most {REQUEST_LIMIT_BYTES} bytes")
                self._drop(client)
        return end

    def _serve_line(self, client: Client, line: bytes) -> None:
        if not line.strip():
            return
        request_id: Any = None
        try:
            request = _parse(line)
            request_id = _id_of(request)
            name = request.get("do")
            roles, run = self._requests.get(name if isinstance(name, str) else "", (frozenset(), None))
            if run is None:
                raise RequestError(f"unknown request {name!r}; known: {', '.join(sorted(self._requests))}")
            if client.role not in roles:
                raise RequestError(f"{client.role} may not {name}")
            result = run(request, client)
        except RequestError as error:
            self.refuse(client, request_id, str(error), is_passing=isinstance(error, NotNow))
        except Exception as error:
            self._log.error("control request failed", error=repr(error))
            self.refuse(client, request_id, "internal error; the nanny's log has it")
        else:
            if result is not None:
                self.answer(client, request_id, result)

    def send(self, client: Client, message: dict[str, Any]) -> None:
        """Queue a line; a client that does not read loses its connection."""
        self._send_line(client, _line(message))

    def _send_line(self, client: Client, line: bytes) -> None:
        if client.connection.fileno() < 0:
            return
        client.waiting += line
        self._flush(client)
        if not client.waiting or client.connection.fileno() < 0:
            return
        clients = self._clients.values()
        idlest = max(clients, key=lambda one: len(one.waiting), default=client)
        is_too_much = sum(len(one.waiting) for one in clients) > _ALL_OUTPUT_LIMIT_BYTES
        for one, is_over in ((client, len(client.waiting) > _OUTPUT_LIMIT_BYTES), (idlest, is_too_much)):
            if is_over:
                self._log.warning("control client does not read", pid=one.peer.pid)
                self._drop(one)

    def _flush(self, client: Client) -> None:
        try:
            while client.waiting:
                sent = client.connection.send(client.waiting[:_CHUNK_BYTES])
                del client.waiting[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(client)
            return
        if not client.is_in_line:
            self._await_room(client)

    def _await_room(self, client: Client) -> None:
        fd = client.connection.fileno()
        self._loop.watch_writable(fd, lambda: self._ready(client), wanted=bool(client.waiting))

    def _drop(self, client: Client) -> None:
        fd = client.connection.fileno()
        if fd >= 0:
            self._clients.pop(fd, None)
            self._line.pop(fd, None)
            self._loop.unwatch(fd)
            client.connection.close()

    def close(self) -> None:
        """Close everything and remove the path."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _id_of(request: dict[str, Any]) -> Any:
    """What the answer repeats: small, and nothing that can be read but not written again (depth, NaN)."""
    given = request.get("id")
    try:
        if len(json.dumps(given, allow_nan=False)) <= _ID_LIMIT:
            return given
    except (ValueError, RecursionError):
        pass
    raise RequestError(f"id: a number, a text or the like, at most {_ID_LIMIT} characters of JSON")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not a JSON object: {error}") from None
    if not isinstance(request, dict):
        raise RequestError("a request is a JSON object with id and do")
    return request
