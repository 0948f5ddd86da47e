"""The life of one disposable probe child, from fork to _exit.

It keeps one descriptor, the pipe for its answer, and dies with the probe server (PR_SET_PDEATHSIG). It writes
JSON lines: `{"part": …}` for partial findings, then exactly one `{"end": …}`; without one, it crashed.

Doesn't know deadlines: whoever forked it kills it. See prctl(2), close_range(2), setrlimit(2).
"""

import ctypes
import json
import os
import resource
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

from agent.telemetry.probe_contract import OUTPUT_LIMIT_BYTES, Probe, ProbeFailure, UnknownReason

_PR_SET_PDEATHSIG = 1
_CPU_LIMIT_S = 20  # a driver call that spins ends by SIGXCPU long before anyone's patience does
_DETAIL_LIMIT = 300

_libc = ctypes.CDLL(None, use_errno=True)


def become_probe(probe: Probe, args: Mapping[str, Any], output_fd: int, server_pid: int) -> NoReturn:
    """Runs `probe` and leaves through `_exit`; never returns to the server's code.

    Args:
        probe: the function that may hang.
        args: its arguments.
        output_fd: write end of the answer's pipe; the only descriptor kept above 2.
        server_pid: the parent as it was before the fork.
    """
    status = 1
    try:
        _shed_inheritance(output_fd, server_pid)
        status = 0 if _answer(probe, args, output_fd) else 1
    finally:
        # Neither exit handlers nor destructors: they belong to the server, and a driver's may hang.
        os._exit(status)


def _shed_inheritance(output_fd: int, server_pid: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    os.closerange(3, output_fd)
    os.closerange(output_fd + 1, os.sysconf("SC_OPEN_MAX"))
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server_pid:  # it died before the line above
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # writing a core can hang longer than the probe
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S + 1))


def _answer(probe: Probe, args: Mapping[str, Any], output_fd: int) -> bool:
    written = 0

    def write_line(line: Mapping[str, Any]) -> None:
        nonlocal written
        encoded = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        written += len(encoded)
        if written > OUTPUT_LIMIT_BYTES:
            raise ProbeFailure(UnknownReason.ERROR, f"answer is longer than {OUTPUT_LIMIT_BYTES} bytes")
        view = memoryview(encoded)
        while view:
            view = view[os.write(output_fd, view) :]

    try:
        write_line({"end": {"value": probe(args, lambda part: write_line({"part": part}))}})
    except BaseException as error:  # whatever happened here is the answer; the process ends right after
        if isinstance(error, ProbeFailure):
            reason, detail = error.reason, error.detail
        else:
            reason, detail = UnknownReason.ERROR, f"{type(error).__name__}: {error}"
        written = 0
        write_line({"end": {"reason": reason, "detail": detail[:_DETAIL_LIMIT]}})
        return False
    return True
