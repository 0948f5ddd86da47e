"""Starts the probe server as a fresh interpreter: one socket, a short environment, nothing else inherited.

Call `launch_probe_server` before the agent has threads; a restart later goes through a thread, since an exec
can hang as long as the file system under the interpreter does.

Knows nothing of what is asked over the channel. See unix(7), pidfd_open(2), execve(2).
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_TABLE = "agent.telemetry.probes"

# An allow-list: NOTIFY_SOCKET, LISTEN_FDS, tokens and what nobody thought of stay behind.
_KEPT_VARIABLES = frozenset({"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "RES_OPTIONS", "LOCALDOMAIN"})
_KEPT_PREFIXES = ("NVIDIA_", "CUDA_", "NVML_")

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# -I keeps the working directory and PYTHON* variables out; a checkout's root is then named by hand, last.
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from agent.telemetry.probe_server import main; "
    "main(int(sys.argv[2]), sys.argv[3])"
)


@dataclass(frozen=True, slots=True)
class LaunchedServer:
    """A started probe server.

    Attributes:
        process: for its exit status; reaped by whoever holds this.
        pidfd: readable at its death; owned by the holder.
        channel: our end of the pair, non-blocking; closing it ends the server.
    """

    process: subprocess.Popen[bytes]
    pidfd: int
    channel: socket.socket


def launch_probe_server(
    table: str = DEFAULT_TABLE, extra_environment: Mapping[str, str] | None = None
) -> LaunchedServer:
    """Starts a probe server; returns when the exec is done, not when it is ready.

    Args:
        table: module whose `PROBES` maps names to functions.
        extra_environment: variables to add to the few that are kept.

    Raises:
        OSError: the interpreter could not be started, or no process or descriptor was left.
    """
    # vfork(2) would suspend us, holding the GIL, for as long as the exec takes: for ever on a dead mount.
    setattr(subprocess, "_USE_VFORK", False)  # noqa: B010 - the documented switch, which its stub calls final
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        ours.setblocking(False)
        command = [sys.executable, "-I", "-c", _BOOT, _PACKAGE_ROOT, str(theirs.fileno()), table]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_environment(extra_environment or {}),
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is for the agent, which then closes the channel
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return LaunchedServer(process, os.pidfd_open(process.pid), ours)


async def see_off(server: LaunchedServer, grace_s: float) -> None:
    """Waits for the server's end, at most `grace_s`, then kills it; reaps it unless it is unkillable."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(server.pidfd, gone.set)
    try:
        for patience_s in (grace_s, 1.0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await gone.wait()
                break
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(server.pidfd, signal.SIGKILL)
    finally:
        loop.remove_reader(server.pidfd)
        os.close(server.pidfd)
        server.channel.close()
        server.process.poll()


async def launch_in_thread(launch: Callable[[], LaunchedServer]) -> LaunchedServer:
    """Runs `launch` in a daemon thread and gives its result.

    An executor's thread would be joined at exit, and an exec may never return.

    Raises:
        OSError: as `launch_probe_server`.
    """
    loop = asyncio.get_running_loop()
    launched: asyncio.Future[LaunchedServer] = loop.create_future()

    def deliver(server: LaunchedServer | None, error: BaseException | None) -> None:
        if launched.cancelled():
            if server is not None:
                server.channel.close()  # it ends by itself
                os.close(server.pidfd)
        elif server is not None:
            launched.set_result(server)
        elif error is not None:
            launched.set_exception(error)

    def work() -> None:
        server, problem = None, None
        try:
            server = launch()
        except BaseException as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent is leaving
            loop.call_soon_threadsafe(deliver, server, problem)

    threading.Thread(target=work, name="probe-launch", daemon=True).start()
    return await launched


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in _KEPT_VARIABLES or k.startswith(_KEPT_PREFIXES)}
    return kept | dict(extra)
