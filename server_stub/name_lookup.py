"""Addresses of names, by getaddrinfo in a few threads of its own, with a cache; literal addresses pass by it.

getaddrinfo cannot be broken off and may hang for a minute when the resolver is gone: it then holds one of
THREADS daemon threads, names queue behind it, and who asked gives up by his own deadline. What a name last
resolved to is used for as long as the resolver doesn't say otherwise, so that a resolver's outage makes no
node unreachable that was known before. Knows no probes. getaddrinfo(3), inet_pton(3).
"""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from server_stub.clock import Clock

THREADS: Final = 4
TTL_S: Final = 60.0
FAILED_TTL_S: Final = 5.0
NAMES_LIMIT: Final = 100_000

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family and what connect(2) takes in it."""


def literal(host: str, port: int) -> Address | None:
    """Give the socket address of an IPv4 or IPv6 address; None if `host` is not one as it stands."""
    for family, address in (
        (socket.AF_INET, (host, port)),
        (socket.AF_INET6, (host, port, 0, 0)),
    ):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return family, address
    return None


@dataclass(slots=True)
class _Name:
    addresses: tuple[Address, ...] = ()
    fresh_until: float = float("-inf")
    is_asked: bool = False
    waiting: list[Callable[[tuple[Address, ...]], None]] = field(default_factory=list)


class NameLookup:
    """Names and their addresses. `close` ends the threads that can be ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._names: dict[tuple[str, int], _Name] = {}
        self._questions: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def find(self, host: str, port: int, found: Callable[[tuple[Address, ...]], None]) -> None:
        """Have `found` called with the addresses, at once if they are known; none: the name has none.

        It isn't called at all while the resolver hangs, nor after `close`.
        """
        address = literal(host, port)
        if address is not None:
            found((address,))
            return
        if len(self._names) >= NAMES_LIMIT:
            self._names = {key: name for key, name in self._names.items() if name.waiting}
        name = self._names.setdefault((host, port), _Name())
        if self._clock.monotonic() >= name.fresh_until and not name.is_asked:
            name.is_asked = True
            self._ask((host, port))
        if name.addresses or not name.is_asked:
            found(name.addresses)
        else:
            name.waiting.append(found)

    def close(self) -> None:
        """Ask and tell no more; a thread that hangs in the resolver ends with the process."""
        self._is_closed = True
        for name in self._names.values():
            name.waiting.clear()
        for _ in self._threads:
            self._questions.put(None)

    def _ask(self, question: tuple[str, int]) -> None:
        if len(self._threads) < THREADS:
            thread = threading.Thread(
                target=self._answer_questions, name=f"names {len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._questions.put(question)

    def _answer_questions(self) -> None:
        while (question := self._questions.get()) is not None and not self._is_closed:
            addresses = resolve(*question)
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._learn, question, addresses)

    def _learn(self, question: tuple[str, int], addresses: tuple[Address, ...]) -> None:
        name = self._names.get(question)
        if self._is_closed or name is None:
            return
        name.is_asked = False
        name.fresh_until = self._clock.monotonic() + (TTL_S if addresses else FAILED_TTL_S)
        name.addresses = addresses or name.addresses
        waiting, name.waiting = name.waiting, []
        for found in waiting:
            found(name.addresses)


def resolve(host: str, port: int) -> tuple[Address, ...]:
    """Give the addresses of a name, none if it has none or is no name at all. Blocks."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError, ValueError):
        return ()
    return tuple((family, address) for family, _, _, _, address in found)
