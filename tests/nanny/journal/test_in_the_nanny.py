"""The journal, facts and log pipe fit the nanny: its fork gate, its small imports."""

import json
import os
import select
import signal
import time
from pathlib import Path

import pytest

from nanny.fork_gate import fork_helper
from nanny.journal.client import JournalClient
from nanny.journal.events import Durable
from nanny.log_writer import LogFiles, LogPipe, Source
from tests.support.journal_drive import newest, numbers_in
from tests.support.processes import spawn_python

HEAVY = [
    "asyncio", "ssl", "logging", "subprocess", "pathlib", "tempfile", "shutil", "tomllib", "argparse", "hashlib",
    "threading", "uuid", "random", "msgpack", "aiohttp", "structlog", "psutil", "datetime", "ctypes",
]  # fmt: skip


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, json, nanny.journal.client, nanny.facts, nanny.log_writer\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), flush=True)"
    )
    with spawn_python(code) as process:
        assert json.loads(process.read_line()) == []
        process.wait_for_exit()


def ended(pid: int, pidfd: int) -> int:
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_nannys_own_fork_gate_makes_the_writer(leaves_nothing_behind: None, tmp_path: Path) -> None:
    client = JournalClient(fork_helper, str(tmp_path / "journal.jsonl"), "e", "boot")
    client.start(time.monotonic())
    writer = client.writer
    assert writer is not None
    ticket = client.append([{"type": "t"}], time.monotonic())
    deadline = time.monotonic() + 20
    while client.durable_ticket != ticket:
        assert time.monotonic() < deadline
        select.select([client.fileno()], [], [], 0.1)
        client.on_readable(time.monotonic())
    client.close()

    assert ended(writer.pid, writer.pidfd) == 0
    assert numbers_in(newest(str(tmp_path))) == [1]


def test_a_writer_killed_by_its_client_is_killed_even_if_the_reaper_closed_its_pidfd(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    client = JournalClient(fork_helper, str(tmp_path / "journal.jsonl"), "e", "boot")
    client.start(time.monotonic())
    writer = client.writer
    assert writer is not None
    own_pidfd = os.pidfd_open(writer.pid)
    os.close(writer.pidfd)

    client.abandon()

    assert ended(writer.pid, own_pidfd) == -signal.SIGKILL


def test_the_nannys_own_fork_gate_makes_the_log_writer(leaves_nothing_behind: None, tmp_path: Path) -> None:
    pipe = LogPipe(fork_helper, LogFiles(str(tmp_path)))
    pipe.start()
    writer = pipe.writer

    pipe.write(Source.WORKER, [b"a line"])
    pipe.close()

    assert ended(writer.pid, writer.pidfd) == 0
    assert (tmp_path / "worker.log").read_bytes() == b"a line\n"


@pytest.mark.parametrize("records", [1, 100])
def test_the_wall_clock_in_a_record_is_for_people(
    tmp_path: Path, leaves_nothing_behind: None, records: int
) -> None:
    client = JournalClient(fork_helper, str(tmp_path / "journal.jsonl"), "e", "boot")
    client.append([{"type": "t"}] * records, 0.0)
    client.start(time.monotonic())
    writer = client.writer
    assert writer is not None
    events = []
    while client.durable_ticket < records:
        select.select([client.fileno()], [], [], 0.1)
        events += client.on_readable(time.monotonic())
    client.close()
    ended(writer.pid, writer.pidfd)

    with open(newest(str(tmp_path)), "rb") as file:
        line = json.loads(file.read().splitlines()[1][9:])
    assert time.strptime(line["wall"][:19], "%Y-%m-%dT%H:%M:%S").tm_year >= 2025
    assert sum(isinstance(event, Durable) for event in events) <= 2
