"""Reload: the settings are read again by a helper, applied as far as they can be, the rest is named.

Reading files may hang, so the nanny asks a child of its own (``nanny resolve``) and reads its answer from a pipe,
with a deadline. What can't change without a restart of the nanny stays as it is, and a condition says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nanny import fork_gate
from nanny.core import events as e
from nanny.errors import HostError
from nanny.event_loop import DeadlineSource
from nanny.linux import pidfd

if TYPE_CHECKING:
    from nanny.core.actions import ReloadConfig
    from nanny.event_loop import EventLoop
    from nanny.reaper import Reaper
    from nanny.supervisor import Supervisor

_TIMEOUT_S: Final = 10.0
_ANSWER_LIMIT_BYTES: Final = 256 << 10
_SIGKILL: Final = 9


@dataclass(frozen=True, slots=True)
class _Read:
    """What the helper said."""

    settings: dict[str, Any]
    reloadable: frozenset[str]


_Asker = Callable[["_Read | str"], None]
"""Gets the settings, or why there are none."""


class Reloader:
    """One reading at a time; what is asked for meanwhile is answered by another one afterwards.

    Attributes:
        settings: in force.
        latest: as last read, including those that are not in force yet; for a re-execution.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        resolve_argv: tuple[str, ...],
        supervisor: Supervisor,
        loop: EventLoop,
        reaper: Reaper,
        apply: Callable[[dict[str, Any]], None],
    ) -> None:
        self.settings = settings
        self.latest = dict(settings)
        self._resolve_argv = resolve_argv
        self._supervisor = supervisor
        self._loop = loop
        self._reaper = reaper
        self._apply = apply
        self._waiting: list[_Asker] = []
        self._asking: list[_Asker] = []
        self._answer = bytearray()
        self._fd = -1
        self._pidfd = -1
        self._deadline: float | None = None
        loop.add_source(DeadlineSource(lambda: self._deadline, lambda _now: self._give_up()))

    def reload(self, action: ReloadConfig) -> None:
        """Read the settings again and apply what can be."""

        def told(read: _Read | str) -> None:
            if isinstance(read, str):
                self._supervisor.tell(e.ConfigRejected(read[:2000], action.command_id))
                return
            applicable, stale = self._take_over(read)
            self._supervisor.tell(e.ConfigReloaded(applicable, stale, action.command_id))

        self._ask(told)

    def read(self, done: Callable[[str], None]) -> None:
        """Read the settings into ``latest`` and apply nothing; ``done`` gets an empty text or what is wrong."""

        def told(read: _Read | str) -> None:
            if not isinstance(read, str):
                self.latest = dict(read.settings)
            done(read if isinstance(read, str) else "")

        self._ask(told)

    def _take_over(self, read: _Read) -> tuple[tuple[str, ...], tuple[str, ...]]:
        changed = [key for key, value in read.settings.items() if self.settings.get(key) != value]
        applicable = tuple(key for key in changed if key in read.reloadable)
        self.latest = dict(read.settings)
        self.settings |= {key: read.settings[key] for key in applicable}
        self._apply(self.settings)
        return applicable, tuple(key for key in changed if key not in read.reloadable)

    def _ask(self, told: _Asker) -> None:
        self._waiting.append(told)
        if self._fd < 0:
            self._begin()

    def _begin(self) -> None:
        self._asking, self._waiting = self._waiting, []
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            spec = fork_gate.ChildSpec(
                argv=self._resolve_argv, environ=dict(os.environ), descriptors=((write_fd, 1),)
            )
            parked = fork_gate.park(spec)
        except (HostError, OSError) as error:
            os.close(read_fd)
            self._tell(f"no helper could be made to read the settings: {error}")
            return
        finally:
            os.close(write_fd)
        fork_gate.release(parked)
        os.close(parked.exec_error_fd)
        self._reaper.register(parked.pid, lambda _pid, _status: None)
        self._pidfd, self._fd = parked.pidfd, read_fd
        os.set_blocking(read_fd, False)
        self._deadline = self._loop.now + _TIMEOUT_S
        self._loop.watch(read_fd, self._on_readable)

    def _on_readable(self) -> None:
        try:
            chunk = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self._answer += chunk
        if chunk and len(self._answer) <= _ANSWER_LIMIT_BYTES:
            return
        answer = bytes(self._answer)
        self._finish()
        self._tell(_parse(answer))

    def _give_up(self) -> None:
        with suppress(OSError):
            pidfd.send_signal(self._pidfd, _SIGKILL)
        self._finish()
        self._tell(f"the settings could not be read within {_TIMEOUT_S:g} s; is their file system dead?")

    def _finish(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        os.close(self._pidfd)
        self._fd, self._pidfd, self._deadline = -1, -1, None
        self._answer.clear()

    def _tell(self, read: _Read | str) -> None:
        asking, self._asking = self._asking, []
        for told in asking:
            told(read)
        if self._waiting and self._fd < 0:
            self._begin()


def _parse(answer: bytes) -> _Read | str:
    try:
        plain = json.loads(answer)
        if "error" in plain:
            return str(plain["error"])
        return _Read(dict(plain["settings"]), frozenset(plain["reloadable"]))
    except (ValueError, KeyError, TypeError) as error:
        return f"the settings could not be read: {error}"
