"""A table of probes for the probe server that behave as badly as real ones can."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agent.telemetry.probe_contract import Emit, Probe, ProbeFailure, UnknownReason


def echo(args: Mapping[str, Any], _emit: Emit) -> Any:
    return args["value"]


def inheritance(_args: Mapping[str, Any], _emit: Emit) -> dict[str, Any]:
    libc = ctypes.CDLL(None)
    dumpable_signal = ctypes.c_int()
    libc.prctl(2, ctypes.byref(dumpable_signal))  # PR_GET_PDEATHSIG
    descriptors = []
    for fd in range(3, 256):
        with suppress(OSError):
            descriptors.append(os.readlink(f"/proc/self/fd/{fd}"))
    return {
        "variables": sorted(os.environ),
        "descriptors": descriptors,
        "parent_death_signal": dumpable_signal.value,
        "threads": len(os.listdir("/proc/self/task")),
        "modules_of_agent": sorted(
            name for name in __import__("sys").modules if name in {"asyncio", "uvloop", "aiohttp", "psutil"}
        ),
        "has_default_term": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    }


def sleep(args: Mapping[str, Any], emit: Emit) -> str:
    emit("asleep")
    time.sleep(args["for_s"])
    return "awake"


def die(args: Mapping[str, Any], emit: Emit) -> None:
    emit("dying")
    signal.raise_signal(args["signal"])


def leave(args: Mapping[str, Any], _emit: Emit) -> None:
    os._exit(args["status"])


def fail(_args: Mapping[str, Any], _emit: Emit) -> None:
    raise ProbeFailure(UnknownReason.NO_DEVICE, "nothing here")


def raise_error(_args: Mapping[str, Any], _emit: Emit) -> None:
    raise RuntimeError("oh no")


def flood(_args: Mapping[str, Any], _emit: Emit) -> str:
    return "x" * 1_000_000


def _is_open(fd: int) -> bool:
    with suppress(OSError):
        return bool(os.fstat(fd))
    return False


def garble(_args: Mapping[str, Any], _emit: Emit) -> None:
    output = next(fd for fd in range(3, 256) if _is_open(fd))
    os.write(output, b"no json\n")
    os._exit(0)


def touch(args: Mapping[str, Any], _emit: Emit) -> int:
    return os.stat(args["path"]).st_ino


def kill_server(_args: Mapping[str, Any], emit: Emit) -> None:
    emit(os.getpid())
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def stop_server(_args: Mapping[str, Any], _emit: Emit) -> None:
    os.kill(os.getppid(), signal.SIGSTOP)


PROBES: dict[str, Probe] = {
    "echo": echo,
    "inheritance": inheritance,
    "sleep": sleep,
    "die": die,
    "leave": leave,
    "fail": fail,
    "raise": raise_error,
    "flood": flood,
    "garble": garble,
    "touch": touch,
    "kill-server": kill_server,
    "stop-server": stop_server,
}
