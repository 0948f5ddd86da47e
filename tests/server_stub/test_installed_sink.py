"""A sink that somebody else installs: a distribution of its own, found by its entry point, and no file of ours changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from nanny.protocol.messages import Role
from tests.support.processes import StartedProcess, wait_until
from tests.support.server_peers import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_behind")]

MODULE = """
import json

class FileSink:
    def __init__(self, path):
        self.name = "file"
        self.path = path

    def wants(self, event_type):
        return event_type.startswith("node.")

    async def deliver(self, events):
        with open(self.path, "a") as file:
            for event in events:
                print(json.dumps(event), file=file)

    async def close(self):
        pass

def make(context):
    return FileSink(context.environ["FILE_SINK"])

def broken(context):
    raise RuntimeError("this one cannot be made")
"""


def install(directory: Path) -> None:
    """Lay out a distribution as an installer would."""
    directory.mkdir()
    (directory / "file_sink.py").write_text(MODULE)
    metadata = directory / "file_sink-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: file-sink\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[nodenanny.sinks]\nfile = file_sink:make\nbroken = file_sink:broken\nmissing = no_such_module:make\n"
    )


@contextmanager
def server(directory: Path, site: Path, told: Path) -> Iterator[tuple[StartedProcess, str]]:
    port_file = directory / "port"
    port_file.unlink(missing_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SERVER_")}
    python_path = os.pathsep.join(filter(None, [str(site), environ.get("PYTHONPATH")]))
    argv = ["--port", "0", "--port-file", str(port_file), "--data-dir", str(directory / "data")]
    with (directory / "log").open("ab") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-m", "server_stub.cli", *argv],
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environ | {"PYTHONPATH": python_path, "FILE_SINK": str(told)},
        )
    started = StartedProcess(popen, os.pidfd_open(popen.pid))
    try:
        wait_until(port_file.exists, 60.0, "the port file")
        yield started, f"http://127.0.0.1:{int(port_file.read_text())}"
    finally:
        started.send_signal(signal.SIGKILL)
        popen.wait(10)
        os.close(started.pidfd)


def names(told: Path) -> list[str]:
    lines = told.read_text().splitlines() if told.exists() else []
    return [json.loads(line)["subject"] for line in lines if '"io.nodenanny.node.created"' in line]


async def meet(url: str, node: str) -> None:
    async with aiohttp.ClientSession():
        link = Peer(url, Role.LINK, node)
        await link.connect()
        await link.disconnect()


async def test_an_installed_sink_gets_events_across_a_sigkill_and_a_broken_one_stops_nothing(
    tmp_path: Path,
) -> None:
    site, told = tmp_path / "site", tmp_path / "told"
    install(site)

    with server(tmp_path, site, told) as (started, url):
        await meet(url, "one")
        wait_until(lambda: "one" in names(told), 60.0, "the first event")
        started.send_signal(signal.SIGKILL)
    with server(tmp_path, site, told) as (started, url):
        await meet(url, "two")
        wait_until(lambda: "two" in names(told), 60.0, "the second event")
        started.send_signal(signal.SIGTERM)
        assert started.wait_for_exit(30.0) == 0

    assert list(dict.fromkeys(names(told))) == ["one", "two"]
    assert (tmp_path / "log").read_text().count('"sink left out"') == 4
