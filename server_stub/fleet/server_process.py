"""A server of the simulation's own: started as an operator would, in a folder that goes with it.

It gets what the simulation needs to be honest (see `settings_for`); whatever SERVER_… stands in the environment
goes before. It ends with whoever started it, in order if it can. prctl(2) PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from server_stub.descriptors import places_for_nodes
from server_stub.fleet.processes import end_with_us
from server_stub.store.engine import sqlite_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from server_stub.fleet.plan import FleetPlan

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
PATIENCE_S: Final = 3600.0
COMMAND: Final = (sys.executable, "-m", "server_stub.cli", "serve")


class ServerNotUp(Exception):  # noqa: N818  # what it is
    """The server did not start; the message has the end of its log."""


def settings_for(plan: FleetPlan) -> dict[str, str]:
    """Give the settings that differ from the defaults, as the environment holds them.

    A node that is only probed has no connections, and would be DEGRADED for their silence, as it should be in
    earnest. Where a plan has such nodes, silence is told so late that only probes speak: they then show what a
    probe finds, and never NOT_READY. A plan whose nodes are all connected runs with the defaults.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = min(2 * plan.nodes + 1000, max(1, places_for_nodes(hard, plan.nodes)))
    settings = {"SERVER_LOG_LEVEL": "warning", "SERVER_CONNECTIONS_LIMIT": str(connections)}
    if plan.nodes > 50_000:
        settings["SERVER_NODES_LIMIT"] = str(plan.nodes)
    if plan.connected < plan.nodes:
        long_s = f"{max(PATIENCE_S, 4 * plan.seconds):g}"
        settings |= {"SERVER_OFFLINE_TIMEOUT_S": long_s, "SERVER_SILENCE_TIMEOUT_S": long_s}
    return settings


class ServerProcess:
    """A folder, and a server in it once it was started. Use as a context manager."""

    def __init__(self, settings: Mapping[str, str], command: Sequence[str] = COMMAND) -> None:
        """Prepare.

        Args:
            settings: goes into the server's environment, unless that has it already.
            command: what to run; `--port`, `--port-file` and `--data-dir` are added.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="nodenanny-fleet-"))
        self.url = ""
        self._settings = settings
        self._command = command
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._popen is not None
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone before its time."""
        return self._popen is not None and self._popen.poll() is not None

    @property
    def database_url(self) -> str:
        """Where its database is, or will be."""
        database = os.environ.get("SERVER_DATABASE") or self._settings.get("SERVER_DATABASE")
        if database is None:
            return sqlite_url(str(self.folder / "server.sqlite3"))
        return database if "://" in database else sqlite_url(database)

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            ServerNotUp: it ended, or did not come up in time.
        """
        port_file = self.folder / "port"
        environ = {**self._settings, **os.environ}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each start compiles everything anew
        with (self.folder / "server.log").open("ab") as log:
            self._popen = subprocess.Popen(
                [
                    *self._command,
                    "--port",
                    "0",
                    "--port-file",
                    str(port_file),
                    "--data-dir",
                    str(self.folder),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                start_new_session=True,
                preexec_fn=end_with_us,  # noqa: PLW1509  # one prctl between fork and exec
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            if self.has_ended or time.monotonic() > deadline:
                raise ServerNotUp(f"the server did not come up:\n{self.tail()}")
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{port_file.read_text().strip()}"

    def __exit__(self, *_: object) -> None:
        """End it, and remove the folder."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join((self.folder / "server.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""
