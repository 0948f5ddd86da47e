"""Run in link's sandbox: try everything that link may not do, and the little it may: sandbox_probe.py PID.

PID is the worker's. Prints a JSON object: name of the attempt -> "done", or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER = int(sys.argv[1])
C_LIBRARY = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def call(name: str, *arguments: object) -> None:
    if getattr(C_LIBRARY, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def open_socket(family: int, kind: int = socket.SOCK_STREAM) -> None:
    socket.socket(family, kind).close()


def execute_own_file() -> None:
    path = Path("/tmp/own")
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o700)
    os.posix_spawn(str(path), [str(path)], {})


def ask_nanny() -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect("/run/nodenanny/control.sock")
        asking.sendall(b'{"id":1,"do":"healthcheck"}\n')
        assert json.loads(asking.recv(65536))["ok"]


def resolve_as_link_does() -> None:
    socket.getaddrinfo("localhost", 8470)


def ask_server() -> None:
    urllib.request.urlopen("http://127.0.0.1:8470/v1/nodes", timeout=10).close()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "read the settings": lambda: Path("/etc/nodenanny/nodenanny.toml").read_text(),
    "ask the nanny": ask_nanny,
    "ask the server": ask_server,
    "resolve a name": resolve_as_link_does,
    "read the state": lambda: os.listdir("/var/lib/nodenanny"),
    "read the facts": lambda: Path("/run/nodenanny/facts").read_text(),
    "read passwords": lambda: Path("/etc/shadow").read_text(),
    "see other processes": lambda: Path(f"/proc/{WORKER}/cmdline").read_text(),
    "read sysctls": lambda: os.listdir("/proc/sys"),
    "see a home": lambda: os.listdir("/root"),
    "write settings": lambda: Path("/etc/nodenanny/nodenanny.toml").write_text(""),
    "write the program": lambda: Path("/opt/nodenanny/x").write_text(""),
    "write state": lambda: Path("/var/x").write_text(""),
    "kill the worker": lambda: os.kill(WORKER, signal.SIGTERM),
    "kill init": lambda: os.kill(1, signal.SIGTERM),
    "trace the worker": lambda: call("ptrace", 16, WORKER, 0, 0),
    "become root": lambda: os.setuid(0),
    "change an owner": lambda: os.chown("/tmp", 0, 0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "leave a namespace": lambda: call("unshare", CLONE_NEWNET),
    "raise a limit": lambda: os.sched_setaffinity(0, {0}),
    "speak netlink": lambda: open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "capture packets": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "make code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "execute a file of its own": execute_own_file,
    "use a device": lambda: os.listdir("/dev/net"),
}


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception as error:
        return repr(error)
    return "done"


print(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}))
