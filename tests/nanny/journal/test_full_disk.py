"""The journal on a disk that is full or read-only: it says so, loses nothing that it acknowledged, recovers."""

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest

from nanny.journal.events import Failed
from nanny.journal.generations import RESERVE_BYTES
from nanny.journal.records_file import parse
from tests.support.journal_drive import Drive, kinds, newest
from tests.support.processes import wait_until
from tests.support.small_fork import SmallForks

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs"),
]

DISK_BYTES = 512 << 10


@pytest.fixture
def disk() -> Iterator[str]:
    """A file system of our own with DISK_BYTES."""
    directory = tempfile.mkdtemp(prefix="journal-disk-")
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "journal-test", directory],
            check=True,
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        shutil.rmtree(directory)
        pytest.skip("cannot mount here")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)
    os.rmdir(directory)


def remount(disk: str, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def while_there_is_room(descriptor: int) -> None:
    while True:
        os.write(descriptor, bytes(4096))


def fill(disk: str) -> str:
    """Take all the space there is."""
    path = os.path.join(disk, "somebody-elses-logs")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        while_there_is_room(descriptor)
    os.close(descriptor)
    return path


def test_a_disk_that_fills_up_costs_first_the_reserve_then_waits(disk: str, forks: SmallForks) -> None:
    drive = Drive(forks, f"{disk}/journal.jsonl")
    drive.start()
    drive.until_durable(drive.append({"type": "before"}))
    filler = fill(disk)
    record = {"type": "t", "text": "x" * 1000}

    ticket = drive.append(*[record] * 20)
    drive.until_durable(ticket)
    drive.until(lambda e: isinstance(e, Failed) and (e.errno, e.operation) == (errno.ENOSPC, "reserve"))
    assert drive.client.failing is None

    acknowledged = ticket
    ticket = drive.append(*[record] * (RESERVE_BYTES // 1000 + 10))
    failed = drive.until(lambda e: isinstance(e, Failed))
    assert isinstance(failed, Failed)
    assert (failed.errno, failed.operation) == (errno.ENOSPC, "append")
    assert drive.client.durable_ticket == acknowledged
    assert not drive.client.is_hung(time.monotonic(), 5.0)
    # What was half written is cut off again: a reader finds whole lines only.
    wait_until(lambda: has_whole_lines_only(disk, acknowledged), 10, "the half-written batch to be cut off")

    os.unlink(filler)
    drive.until_durable(ticket)
    drive.close()
    again = Drive(forks, f"{disk}/journal.jsonl")
    assert kinds(again.start()) == ["before"] + ["t"] * (ticket - 1)
    again.close()


def has_whole_lines_only(disk: str, count: int) -> bool:
    with open(newest(disk), "rb") as file:
        parsed = parse(file.read())
    return (len(parsed.records), parsed.torn_bytes, parsed.is_damaged) == (count, 0, False)


def test_a_compaction_without_room_leaves_the_journal_as_it_is(disk: str, forks: SmallForks) -> None:
    drive = Drive(forks, f"{disk}/journal.jsonl")
    drive.start()
    drive.until_durable(drive.append({"type": "before"}))
    filler = fill(disk)

    drive.client.compact([{"type": "s", "text": "x" * 60_000}] * 4, time.monotonic())
    ticket = drive.append({"type": "after"})
    failed = drive.until(lambda e: isinstance(e, Failed))
    drive.until_durable(ticket)
    drive.close()
    os.unlink(filler)

    assert isinstance(failed, Failed)
    assert (failed.errno, failed.operation) == (errno.ENOSPC, "compact")
    again = Drive(forks, f"{disk}/journal.jsonl")
    assert kinds(again.start()) == ["before", "after"]
    again.close()


def test_a_full_disk_at_the_start_still_gives_the_records_back(disk: str, forks: SmallForks) -> None:
    first = Drive(forks, f"{disk}/journal.jsonl")
    first.start()
    first.until_durable(first.append({"type": "before"}))
    first.close()
    os.unlink(f"{disk}/journal.jsonl.reserve")
    filler = fill(disk)

    drive = Drive(forks, f"{disk}/journal.jsonl")
    drive.client.start(time.monotonic())
    failed = drive.until(lambda e: isinstance(e, Failed))
    ticket = drive.append({"type": "after"})
    assert isinstance(failed, Failed)
    assert (failed.errno, failed.operation) == (errno.ENOSPC, "open")
    assert [getattr(event, "last_n", None) for event in drive.events] == [1, None]
    os.unlink(filler)
    drive.until_durable(ticket)
    drive.close()

    again = Drive(forks, f"{disk}/journal.jsonl")
    assert kinds(again.start()) == ["before", "after"]
    again.close()


def test_a_read_only_disk_gives_the_records_back_and_is_used_once_writable(
    disk: str, forks: SmallForks
) -> None:
    first = Drive(forks, f"{disk}/journal.jsonl")
    first.start()
    first.until_durable(first.append({"type": "before"}))
    first.close()
    remount(disk, "ro")

    drive = Drive(forks, f"{disk}/journal.jsonl")
    drive.client.start(time.monotonic())
    ticket = drive.append({"type": "after"})
    failed = drive.until(lambda e: isinstance(e, Failed))
    assert isinstance(failed, Failed)
    assert (failed.errno, failed.operation) == (errno.EROFS, "open")
    assert drive.client.failing == failed
    remount(disk, "rw")
    drive.until_durable(ticket)
    drive.close()

    again = Drive(forks, f"{disk}/journal.jsonl")
    assert kinds(again.start()) == ["before", "after"]
    again.close()


def test_an_unreadable_directory_is_reported_and_tried_again(disk: str, forks: SmallForks) -> None:
    with open(f"{disk}/state", "wb"):
        pass
    drive = Drive(forks, f"{disk}/state/journal.jsonl")
    drive.client.start(time.monotonic())

    failed = drive.until(lambda e: isinstance(e, Failed))
    os.unlink(f"{disk}/state")
    drive.until_durable(drive.append({"type": "a"}))
    drive.close()

    assert isinstance(failed, Failed)
    assert (failed.errno, failed.operation) == (errno.ENOTDIR, "open")
