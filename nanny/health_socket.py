"""The listening socket for /healthz, which belongs to the nanny and is inherited by every worker.

Found in this order: inherited (socket unit, FDSTORE, our own re-execution), duplicated from the adopted worker,
bound anew; without one the nanny goes on under a condition and tries again at each incarnation. Also the
fallback responder on it, wired into the loop. socket(7) SO_ACCEPTCONN, pidfd_getfd(2), sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from nanny.core import events as e
from nanny.event_loop import DeadlineSource
from nanny.fallback_responder import WORDS_LIMIT_BYTES, FallbackResponder
from nanny.linux import inherited_sockets, pidfd
from nanny.worker_spec import LISTENER_FD, LISTENER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.config import NannyConfig
    from nanny.event_loop import EventLoop
    from nanny.linux.systemd_notify import SystemdNotifier
    from nanny.supervisor import Supervisor

_BACKLOG: Final = 1024
_WORDS_EVERY_S: Final = 1.0


class HealthSocket:
    """Holds the listener, or knows why there is none.

    Attributes:
        listener: the socket, None without.
        responder: answers while nobody else does.
    """

    def __init__(
        self, config: NannyConfig, loop: EventLoop, log: LogLines, notifier: SystemdNotifier
    ) -> None:
        self._config = config
        self._loop = loop
        self._log = log
        self._notifier = notifier
        self.listener: socket.socket | None = None
        self.responder: FallbackResponder | None = None
        self._is_watched = False
        self._bound: tuple[str, int] | None = None
        self._is_unshared = False
        """Bound anew while a worker lives, which does not have it."""
        self._words: Callable[[], dict[str, Any]] = dict
        self._words_at = 0.0
        self._supervisor: Supervisor | None = None

    @property
    def fd(self) -> int:
        """The descriptor to hand to a worker; -1 without."""
        return -1 if self.listener is None else self.listener.fileno()

    @property
    def address(self) -> str:
        """Where it listens, as host:port; empty without."""
        if self.listener is None:
            return ""
        return _address_of(self.listener)

    def find(self, inherited: dict[str, list[int]], worker_pidfd: int | None) -> str:
        """Get hold of the listener; an empty text, or why there is none."""
        # While a worker lives it goes on where it listens. Without one nothing holds us at an address that was left.
        is_free = worker_pidfd is None and self._config.port is not None
        for fd in inherited.get(LISTENER_NAME, []):
            if self._take(fd, as_configured=is_free):
                return ""
            self._notifier.remove_stored(LISTENER_NAME)
        if self._config.port is None:
            return ""
        if worker_pidfd is not None:
            try:
                if self._take(pidfd.get_fd(worker_pidfd, LISTENER_FD), as_configured=True):
                    self._notifier.store_fds([self.fd], LISTENER_NAME)
                    return ""
            except OSError as error:
                self._log.warning("the worker's listener could not be duplicated", error=str(error))
        return self._bind()

    def _bind(self) -> str:
        # Once bound, a port that the kernel chose is ours to keep.
        host, port = self._bound or (self._config.host, self._config.port)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.socket(family, socket.SOCK_STREAM)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind((host, port))
                bound.listen(_BACKLOG)
                bound.setblocking(False)
            except OSError:
                bound.close()
                raise
        except OSError as error:
            return f"{host}:{port} can't be bound ({error.strerror}); is another program listening there?"
        fd = bound.detach()
        if not self._take(fd):
            return f"{host}:{port} can't be watched"
        self._notifier.store_fds([fd], LISTENER_NAME)
        return ""

    def _take(self, fd: int, *, as_configured: bool = False) -> bool:
        try:
            found = socket.socket(fileno=fd)
        except OSError as error:
            self._log.warning("an inherited descriptor is no socket", fd=fd, error=str(error))
            os.close(fd)
            return False
        why = "" if inherited_sockets.is_listening(found) else "it does not listen; somebody has shut it down"
        if not why and as_configured and not self._is_as_configured(found):
            why = "it is not at the address that is configured"
        if not why:
            try:
                self.responder = FallbackResponder(found, self._config.fallback_after_s, b"{}")
            except OSError as error:
                why = str(error)
        if why:
            self._log.warning("a listener was not taken", why=why)
            found.close()
            return False
        # Its O_NONBLOCK is left as it is: a living worker relies on it.
        os.set_inheritable(found.fileno(), False)
        self.listener = found
        if found.family in {socket.AF_INET, socket.AF_INET6}:
            self._bound = found.getsockname()[:2]
        return True

    def _is_as_configured(self, found: socket.socket) -> bool:
        """A worker may have a listener of its own at that number, if it was started when there was none of ours."""
        if found.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        host, port = found.getsockname()[:2]
        return host == self._config.host and self._config.port in {0, port}

    def serve(self, supervisor: Supervisor, words: Callable[[], dict[str, Any]]) -> None:
        """Wire the responder into the loop; ``words`` gives what the nanny says in the worker's stead."""
        self._words = words
        self._loop.add_source(DeadlineSource(self._next_deadline, self._on_due))
        self._supervisor = supervisor
        self._arm()

    def retry(self) -> None:
        """Try again to listen, at a new incarnation."""
        if self.listener is not None and inherited_sockets.is_listening(self.listener):
            if self._is_unshared:
                self._is_unshared = False
                self._tell(e.HealthSocketRestored())
            return
        self._drop()
        if self._config.port is None:
            return
        why = self._bind()
        self._arm()
        self._is_unshared = False
        self._tell(e.HealthSocketLost(why) if why else e.HealthSocketRestored())

    def _tell(self, event: e.HealthSocketLost | e.HealthSocketRestored) -> None:
        if self._supervisor is not None:
            self._supervisor.tell(event)

    def _is_shut_down(self) -> bool:
        """Whether another holder's shutdown() closed it; then it is bound anew, for our own answers at least."""
        if self.listener is None or inherited_sockets.is_listening(self.listener):
            return False
        self._drop()
        why = "" if self._config.port is None else self._bind()
        self._arm()
        self._is_unshared = self.listener is not None
        what = "another holder shut the listening socket down"
        self._log.error(what, rebound=self._is_unshared, why=why)
        if self._is_unshared:
            self._tell(e.HealthSocketLost(f"{what}; bound anew, the next incarnation gets it"))
        else:
            self._tell(e.HealthSocketLost(why or what))
        return True

    def _drop(self) -> None:
        """Any holder's shutdown() closes a listener for all: let it go."""
        if self.responder is not None:
            if self._is_watched:
                self._loop.unwatch(self.responder.fileno())
                self._is_watched = False
            self.responder.close()
            self.responder = None
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def worker_started(self) -> None:
        """A worker was released: it may accept from now on."""
        if self.responder is not None:
            self.responder.worker_started(self._loop.now)
            self._arm()

    def worker_showed_life(self, now: float) -> None:
        """A beat came."""
        if self.responder is not None:
            self.responder.worker_showed_life(now)
            self._arm()

    def worker_gone(self) -> None:
        """The worker is dead: nobody accepts."""
        if self.responder is not None:
            self._refresh_words(force=True)
            self.responder.worker_gone(self._loop.now)
            self._arm()

    def _arm(self) -> None:
        if self.responder is None:
            return
        wanted = self.responder.wants_readable()
        if wanted and not self._is_watched:
            self._loop.watch(self.responder.fileno(), self._on_readable)
        elif not wanted and self._is_watched:
            self._loop.unwatch(self.responder.fileno())
        self._is_watched = wanted

    def _on_readable(self) -> None:
        if not self._is_shut_down() and self.responder is not None:
            self._refresh_words(force=False)
            self.responder.on_readable(self._loop.now)
            self._arm()

    def _next_deadline(self) -> float | None:
        return None if self.responder is None else self.responder.next_deadline()

    def _on_due(self, now: float) -> None:
        if not self._is_shut_down() and self.responder is not None:
            self._refresh_words(force=False)
            self.responder.on_deadline(now)
            self._arm()

    def words_changed(self) -> None:
        """What the nanny would say has changed: it is asked anew before the next answer."""
        self._words_at = -1e9

    def _refresh_words(self, *, force: bool) -> None:
        if self.responder is None or (not force and self._loop.now - self._words_at < _WORDS_EVERY_S):
            return
        self._words_at = self._loop.now
        told = json.dumps({"status": "fallback", **self._words()}).encode()
        if len(told) > WORDS_LIMIT_BYTES:
            told = b'{"status":"fallback"}'
        self.responder.set_words(told)

    def close(self) -> None:
        """Close everything."""
        self._drop()


def _address_of(listener: socket.socket) -> str:
    if listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return str(listener.getsockname())
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
