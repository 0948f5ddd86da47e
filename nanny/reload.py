"""Reload: the settings are read again by a helper, applied as far as they can be, the rest is named.

Reading files may hang, so the nanny asks a child of its own (``nanny resolve``) and reads its answer from a pipe,
with a deadline. What can't change without a restart of the nanny stays as it is, and a condition says so.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nanny import fork_gate
from nanny.core import events as e
from nanny.errors import HostError
from nanny.event_loop import DeadlineSource
from nanny.linux import pidfd

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.core.actions import ReloadConfig
    from nanny.event_loop import EventLoop
    from nanny.reaper import Reaper
    from nanny.supervisor import Supervisor

_TIMEOUT_S: Final = 10.0
_ANSWER_LIMIT_BYTES: Final = 256 << 10
_SIGKILL: Final = 9


class Reloader:
    """One reload at a time; a second one that is asked for meanwhile starts afterwards."""

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
        self._resolve_argv = resolve_argv
        self._supervisor = supervisor
        self._loop = loop
        self._reaper = reaper
        self._apply = apply
        self._asked: list[str] = []
        self._answer = bytearray()
        self._fd = -1
        self._pidfd = -1
        self._deadline: float | None = None
        loop.add_source(DeadlineSource(lambda: self._deadline, lambda _now: self._give_up()))

    def reload(self, action: ReloadConfig) -> None:
        """Read the settings again."""
        self._asked.append(action.command_id)
        if self._fd >= 0:
            return
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            environ = dict(os.environ)
            spec = fork_gate.ChildSpec(argv=self._resolve_argv, environ=environ, descriptors=((write_fd, 1),))
            parked = fork_gate.park(spec)
        except (HostError, OSError) as error:
            os.close(read_fd)
            self._reject(f"no helper could be made to read the settings: {error}")
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
        try:
            plain = json.loads(answer)
            if "error" in plain:
                self._reject(str(plain["error"]))
                return
            wanted, reloadable = dict(plain["settings"]), set(plain["reloadable"])
        except (ValueError, KeyError, TypeError) as error:
            self._reject(f"the settings could not be read: {error}")
            return
        changed = [key for key, value in wanted.items() if self.settings.get(key) != value]
        applicable = [key for key in changed if key in reloadable]
        stale = [key for key in changed if key not in reloadable]
        self.settings |= {key: wanted[key] for key in applicable}
        self._apply(self.settings)
        for command_id in self._take_asked():
            self._supervisor.tell(e.ConfigReloaded(tuple(applicable), tuple(stale), command_id))

    def _give_up(self) -> None:
        with suppress(OSError):
            pidfd.send_signal(self._pidfd, _SIGKILL)
        self._finish()
        self._reject(f"the settings could not be read within {_TIMEOUT_S:g} s; is their file system dead?")

    def _finish(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        os.close(self._pidfd)
        self._fd, self._pidfd, self._deadline = -1, -1, None
        self._answer.clear()

    def _reject(self, message: str) -> None:
        for command_id in self._take_asked():
            self._supervisor.tell(e.ConfigRejected(message[:2000], command_id))

    def _take_asked(self) -> list[str]:
        asked, self._asked = self._asked, []
        return asked
