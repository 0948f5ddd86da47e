"""Run in a box: everything that tests ask of a node, in one JSON object on stdout.

`units`: what systemd says of each unit; `nanny`: the nanny's status, null without an answer; `server`: what the
server says of its nodes, null without one. Standard library only, by the box's own Python. systemctl(1).
"""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from contextlib import suppress
from typing import Any

UNITS = ("nodenanny.service", "nodenanny-link.service")
PROPERTIES = "Id,ActiveState,SubState,MainPID,NRestarts,Result,StatusText,NFileDescriptorStore,ControlGroup"
SERVER = "http://127.0.0.1:8470/v1/nodes"
TIMEOUT_S = 2.0


def units() -> dict[str, dict[str, str]]:
    told = subprocess.run(
        ["systemctl", "show", "-p", PROPERTIES, *UNITS],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in told.split("\n\n")]
    return {block["Id"].removesuffix(".service"): block for block in blocks}


def nanny() -> Any:
    with suppress(OSError, ValueError, EOFError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(TIMEOUT_S)
        asking.connect("/run/nodenanny/control.sock")
        asking.sendall(b'{"id":1,"do":"status"}\n')
        told = b""
        while not told.endswith(b"\n"):
            chunk = asking.recv(65536)
            if not chunk:
                return None
            told += chunk
        return json.loads(told)["result"]
    return None


def server() -> Any:
    with suppress(OSError, ValueError), urllib.request.urlopen(SERVER, timeout=TIMEOUT_S) as answer:
        return json.load(answer)["nodes"]
    return None


print(json.dumps({"units": units(), "nanny": nanny(), "server": server()}))
