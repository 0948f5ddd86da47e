"""How the lean supervising process gets its settings, and what it keeps over a re-execution.

The command line reads files, environment and flags (which may hang on a dead mount, and costs memory), then
executes the nanny in its own place with the resolved settings as JSON in a memfd. ``reexec`` does the same from the
running nanny: same pid, same children, the listening socket and the lock inherited. execve(2), memfd_create(2).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanny.config import NannyConfig

_START = "import sys; sys.path.insert(0, {path!r}); from nanny.lean_start import main; main()"
_FD_VARIABLE = "NANNY_LAUNCH_FD"
WAITING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
"""Blocked over execve: whoever takes them over unblocks them."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What one execution of the nanny starts from."""

    settings: dict[str, Any]
    """As ``settings.as_json`` gives them."""
    resolve_argv: tuple[str, ...]
    """The command that prints the settings anew as JSON, for a reload."""
    version: str
    node_id: str
    node_name: str
    lock_fd: int = -1
    """Inherited by a re-execution; -1 at a first start."""
    claim_fd: int = -1
    """Likewise: the claim on the state directory."""
    listeners: dict[str, list[int]] = field(default_factory=dict)
    """Inherited by a re-execution: name -> descriptors."""
    reexecuted: int = 0
    """How many times this process has executed itself anew."""


def execute(launch: Launch, environ: Mapping[str, str]) -> NoReturn:
    """Become the nanny; does not return.

    Raises:
        OSError: the interpreter could not be executed; nothing has changed.
    """
    plain = {name: getattr(launch, name) for name in Launch.__slots__}
    fd = os.memfd_create("nanny-launch", 0)
    try:
        os.write(fd, json.dumps(plain).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        for inherited in (
            launch.lock_fd,
            launch.claim_fd,
            *(one for fds in launch.listeners.values() for one in fds),
        ):
            if inherited >= 0:
                os.set_inheritable(inherited, True)
        # A signal that comes now waits for the new image's handlers instead of ending it unheard.
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITING_SIGNALS)
        # Without site (-S): the nanny needs the standard library and its own package, nothing that is installed.
        start = _START.format(path=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        program = [sys.executable, "-I", "-S", "-c", start]
        os.execve(program[0], program, {**environ, _FD_VARIABLE: str(fd)})  # noqa: S606  # no shell on purpose
    finally:
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)


def settings(launch: Launch) -> NannyConfig:
    """The settings by attribute, without the declarations of ``nanny.config``."""
    return cast("NannyConfig", as_attributes(launch.settings))


def as_attributes(plain: Mapping[str, Any]) -> SimpleNamespace:
    """JSON values as attributes, lists as tuples."""
    return SimpleNamespace(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    )


def take() -> Launch:
    """Read what ``execute`` left.

    Raises:
        KeyError, ValueError, OSError: the process was not started by ``execute``.
    """
    fd = int(os.environ.pop(_FD_VARIABLE))
    try:
        plain = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    finally:
        os.close(fd)
    plain["resolve_argv"] = tuple(plain["resolve_argv"])
    # Another version of the nanny may have written this; what it lacks has a default here.
    return Launch(**{name: value for name, value in plain.items() if name in Launch.__slots__})
