"""The journal as the nanny uses it: what was acknowledged is there in the next life, once and in order."""

import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nanny.journal.client as client_module
from nanny.journal.events import CompactionDone, Durable, Failed, Opened, Overflow, Reopened, WriterGone
from nanny.journal.records_file import Header, parse, render_body, render_file, render_line
from nanny.journal.unacked import MAX_UNACKED_RECORDS
from nanny.journal.writer import Assignment, write_journal
from tests.support.journal_drive import BOOT, WALL, Drive, journal_files, kinds, newest, numbers_in
from tests.support.processes import wait_until
from tests.support.small_fork import SmallForks


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "journal.jsonl")


def wants_snapshot(drive: Drive) -> bool:
    return drive.client.wants_snapshot


def failing(drive: Drive) -> Failed | None:
    return drive.client.failing


def lines_of(*numbers: int) -> list[bytes]:
    return [render_line(n, render_body({"type": f"t{n}", "wall": WALL, "boot": BOOT})) for n in numbers]


def write_file(path: str, content: bytes, generation: int = 1) -> str:
    file = Path(path).parent / f"journal.{generation:06d}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return str(file)


def test_a_new_journal_has_the_callers_epoch_and_nothing_in_it(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path, "epoch-1")

    opened = drive.start()

    assert opened == Opened((), 0, "epoch-1", created=True, torn_bytes=0, damaged=None)
    drive.close()


def test_what_was_acknowledged_is_there_in_the_next_life(forks: SmallForks, path: str) -> None:
    first = Drive(forks, path, "epoch-1")
    first.start()
    first.until_durable(first.append({"type": "a"}, {"type": "b", "x": [1]}))
    first.writer.send_signal(signal.SIGKILL)
    first.until(lambda event: isinstance(event, WriterGone))

    second = Drive(forks, path, "epoch-2")
    opened = second.start()
    second.until_durable(second.append({"type": "c"}))
    second.close()

    stamp = {"wall": WALL, "boot": BOOT}
    assert opened.records == ({"n": 1, "type": "a", **stamp}, {"n": 2, "type": "b", "x": [1], **stamp})
    assert (opened.epoch, opened.created, opened.last_n) == ("epoch-1", False, 2)
    assert numbers_in(newest(os.path.dirname(path))) == [1, 2, 3]


@pytest.mark.slow
def test_the_last_record_torn_at_any_byte_is_cut_and_the_journal_goes_on(
    forks: SmallForks, path: str
) -> None:
    whole = render_file(Header("e", 1), lines_of(1, 2))
    start = len(whole) - len(lines_of(2)[0])
    for end in range(start, len(whole)):
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)
        write_file(path, whole[:end])
        drive = Drive(forks, path)

        opened = drive.start()
        drive.until_durable(drive.append({"type": "next"}))
        drive.close()

        assert (kinds(opened), opened.torn_bytes, opened.damaged) == (["t1"], end - start, None)
        assert numbers_in(newest(os.path.dirname(path))) == [1, 2]


def test_garbage_in_the_middle_is_reported_kept_aside_and_starts_a_new_epoch(
    forks: SmallForks, path: str
) -> None:
    lines = lines_of(1, 2, 3, 4)
    lines[2] = b"\x00garbage\xff\n"
    content = render_file(Header("old", 1), lines)
    write_file(path, content)
    drive = Drive(forks, path, "new")

    opened = drive.start()
    drive.until_durable(drive.append({"type": "next"}))
    drive.close()

    offset = len(render_file(Header("old", 1), lines[:2]))
    assert opened.damaged == f"offset {offset}: no checksum"
    assert (kinds(opened), opened.epoch, opened.created) == (["t1", "t2"], "new", False)
    assert journal_files(os.path.dirname(path)) == ["journal.000002.jsonl", "journal.jsonl.damaged-1"]
    assert Path(path + ".damaged-1").read_bytes() == content
    assert numbers_in(newest(os.path.dirname(path))) == [1, 2, 3]


def test_a_file_without_a_header_is_kept_aside_and_a_new_journal_begins(forks: SmallForks, path: str) -> None:
    write_file(path, b"", generation=4)
    write_file(path, render_file(Header("older", 3), lines_of(1)), generation=3)
    drive = Drive(forks, path, "new")

    opened = drive.start()
    drive.close()

    assert (opened.records, opened.epoch, opened.created) == ((), "new", True)
    assert opened.damaged == "offset 0: no line at all"
    assert journal_files(os.path.dirname(path)) == [
        "journal.000005.jsonl",
        "journal.jsonl.damaged-1",
        "journal.jsonl.damaged-2",
    ]


def test_a_tail_that_was_sent_twice_is_replayed_once(forks: SmallForks, path: str) -> None:
    write_file(path, render_file(Header("e", 1), lines_of(1, 2, 3, 2, 3)))
    drive = Drive(forks, path)

    opened = drive.start()
    drive.close()

    assert kinds(opened) == ["t1", "t2", "t3"]
    assert numbers_in(newest(os.path.dirname(path))) == [1, 2, 3]


def test_records_appended_before_the_journal_was_read_follow_what_is_in_it(
    forks: SmallForks, path: str
) -> None:
    write_file(path, render_file(Header("e", 1), lines_of(1, 2)))
    drive = Drive(forks, path)
    ticket = drive.append({"type": "early"})

    drive.start()
    drive.until_durable(ticket)
    drive.close()

    assert ticket == 1
    assert numbers_in(newest(os.path.dirname(path))) == [1, 2, 3]


def test_ten_thousand_appends_share_their_syncs(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    started_at = time.monotonic()
    acknowledgements = 0

    ticket = 0
    while ticket < 10_000:
        ticket = drive.append({"type": "t", "i": ticket})
        if ticket - drive.client.durable_ticket > 2_000:
            acknowledgements += len(drive.turn(20.0))
    drive.until_durable(ticket)

    assert time.monotonic() - started_at < 20
    assert sum(isinstance(event, Durable) for event in drive.events) < 5_000
    drive.close()
    assert numbers_in(newest(os.path.dirname(path))) == list(range(1, 10_001))


def test_the_writer_writes_what_it_was_sent_after_the_nanny_is_gone(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.writer.send_signal(signal.SIGSTOP)
    for _ in range(100):
        drive.append({"type": "t"})
    drive.client.close()

    drive.writer.send_signal(signal.SIGCONT)

    assert forks.wait_for_exit(drive.writer) == 0
    assert numbers_in(newest(os.path.dirname(path))) == list(range(1, 101))


def test_what_was_sent_is_written_even_if_the_nanny_left_acknowledgements_unread(
    forks: SmallForks, path: str
) -> None:
    """Closing a socket with unread packets in it gives the other end one ECONNRESET: unix(7)."""
    drive = Drive(forks, path)
    drive.start()
    drive.append({"type": "t"})
    wait_until(lambda: numbers_in_prefix(newest(os.path.dirname(path))) == [1], 10, "the first record")
    wait_until(lambda: select.select([drive.client.fileno()], [], [], 0)[0], 10, "its acknowledgement")
    drive.writer.send_signal(signal.SIGSTOP)
    for _ in range(50):
        drive.append({"type": "t"})
    drive.client.close()

    drive.writer.send_signal(signal.SIGCONT)

    assert forks.wait_for_exit(drive.writer) == 0
    assert numbers_in(newest(os.path.dirname(path))) == list(range(1, 52))


def test_the_signals_that_end_the_nanny_do_not_end_its_writer(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        drive.writer.send_signal(signum)
    drive.until_durable(drive.append({"type": "last words"}))

    drive.close()


# A writer that hangs


def test_a_stopped_writer_is_noticed_and_appends_do_not_wait_for_it(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.writer.send_signal(signal.SIGSTOP)
    assert not drive.client.is_hung(time.monotonic() + 3600, 1.0)

    for _ in range(MAX_UNACKED_RECORDS):
        drive.append({"type": "t", "text": "x" * 500})
    oldest = drive.client.oldest_unacked_at

    assert oldest is not None
    assert not drive.client.is_hung(oldest, 1.0)
    wait_until(lambda: drive.client.is_hung(time.monotonic(), 0.5), 10, "the client to notice")
    drive.client.abandon()


def test_a_writer_that_cannot_even_open_is_hung(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.client.start(0.0)
    drive.writer.send_signal(signal.SIGSTOP)

    assert not drive.client.is_hung(0.9, 1.0)
    assert drive.client.is_hung(1.1, 1.0)
    drive.client.abandon()


def test_a_new_writer_takes_over_with_all_that_was_not_acknowledged(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.until_durable(drive.append({"type": "before"}))
    hung = drive.writer
    hung.send_signal(signal.SIGSTOP)
    ticket = drive.append({"type": "meanwhile"}, {"type": "meanwhile"})

    drive.client.restart(time.monotonic())
    drive.until_durable(ticket)

    assert forks.wait_for_exit(hung) == -signal.SIGKILL
    drive.close()
    assert numbers_in(newest(os.path.dirname(path))) == [1, 2, 3]


def test_a_hung_writer_that_wakes_up_after_its_successor_harms_nothing(forks: SmallForks, path: str) -> None:
    """The old nanny's writer holds appends and a compaction of its own when it is let go."""
    old = Drive(forks, path)
    old.start()
    old.until_durable(old.append({"type": "common"}))
    old.writer.send_signal(signal.SIGSTOP)
    old.append(*[{"type": "stale"}] * 10)
    old.client.compact([{"type": "stale-snapshot"}], time.monotonic())
    old.append({"type": "stale"})
    old.client.compact([{"type": "stale-snapshot"}], time.monotonic())

    new = Drive(forks, path)
    assert kinds(new.start()) == ["common"]
    new.until_durable(new.append({"type": "fresh"}))
    old.writer.send_signal(signal.SIGCONT)
    old.until(lambda event: isinstance(event, WriterGone))
    new.until_durable(new.append({"type": "fresh"}))
    new.client.restart(time.monotonic())
    new.until(lambda event: isinstance(event, Reopened))
    new.until_durable(new.append({"type": "fresh"}))
    new.close()

    assert any(isinstance(event, Failed) and event.operation == "fenced" for event in old.events)
    last = Drive(forks, path)
    assert kinds(last.start()) == ["common", "fresh", "fresh", "fresh"]
    last.close()
    assert journal_files(os.path.dirname(path)) == [os.path.basename(newest(os.path.dirname(path)))]


def test_a_file_that_a_fenced_writer_slipped_in_is_not_taken_by_a_life_that_has_begun(
    forks: SmallForks, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new life has read generation 1; the stale writer makes 2 before the new one could."""
    stale = render_file(Header("e", 2, base=2, snapshot=1, replaces=1, reason="compaction"), lines_of(2))

    def slip_in(step: str) -> None:
        if step == "draft-synced":
            write_file(path, stale, generation=2)

    write_file(path, render_file(Header("e", 1), lines_of(1)))
    drive = Drive(forks, path)
    with monkeypatch.context() as patch:
        patch.setattr(client_module, "write_journal", lambda a, s: write_journal(a, s, slip_in))
        drive.client.start(time.monotonic())
    drive.until(lambda event: isinstance(event, WriterGone))
    ticket = drive.append({"type": "fresh"})
    drive.client.start(time.monotonic())
    drive.until_durable(ticket)
    drive.close()

    again = Drive(forks, path)
    assert kinds(again.start()) == ["t1", "fresh"]
    again.close()


def test_a_record_that_a_fenced_writer_slipped_in_is_not_taken_by_a_life_that_has_begun(
    forks: SmallForks, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new life has read one record; the stale writer appends a second before there is a new file."""
    file = write_file(path, render_file(Header("e", 1), lines_of(1)))

    def slip_in(step: str) -> None:
        if step == "draft-synced":
            with open(file, "ab") as stale:
                stale.write(lines_of(2)[0])
            os.kill(os.getpid(), signal.SIGKILL)

    drive = Drive(forks, path)
    with monkeypatch.context() as patch:
        patch.setattr(client_module, "write_journal", lambda a, s: write_journal(a, s, slip_in))
        drive.client.start(time.monotonic())
    drive.until(lambda event: isinstance(event, WriterGone))
    ticket = drive.append({"type": "fresh"})
    drive.client.start(time.monotonic())
    drive.until_durable(ticket)
    drive.close()

    again = Drive(forks, path)
    assert kinds(again.start()) == ["t1", "fresh"]
    again.close()


# A writer that dies


def dying_at(step: str, count: int) -> Callable[[Assignment, socket.socket], None]:
    """Give a stand-in for write_journal that is killed at the count-th time of the step."""
    left = count

    def die(seen: str) -> None:
        nonlocal left
        left -= seen == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda assignment, connection: write_journal(assignment, connection, die)


@pytest.mark.parametrize("step", ["written", "synced"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_killed_between_any_two_records_nothing_is_lost_or_doubled(
    forks: SmallForks, path: str, monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    drive = Drive(forks, path)
    with monkeypatch.context() as patch:
        patch.setattr(client_module, "write_journal", dying_at(step, count))
        drive.start()
    for i in range(1, 6):
        ticket = drive.append({"type": f"t{i}"})
        while drive.client.durable_ticket < ticket and drive.client.fileno() >= 0:
            drive.turn(20.0)
        if drive.client.fileno() < 0:
            assert i == count
            drive.client.start(time.monotonic())
            drive.until_durable(ticket)
    drive.close()

    again = Drive(forks, path)
    assert kinds(again.start()) == ["t1", "t2", "t3", "t4", "t5"]
    again.close()


def test_killed_at_any_moment_of_a_stream_nothing_is_lost_or_doubled(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    ticket = 0
    for life in range(15):
        for _ in range(30 * life):  # 3,150 in all, should no writer live long enough to acknowledge one
            ticket = drive.append({"type": "t", "i": ticket})
        drive.writer.send_signal(signal.SIGKILL)
        drive.until(lambda event: isinstance(event, WriterGone))
        acknowledged = drive.client.durable_ticket
        assert acknowledged <= len(numbers_in_prefix(newest(os.path.dirname(path))))
        drive.client.start(time.monotonic())
        drive.until(lambda event: isinstance(event, Opened | Reopened))
    drive.until_durable(ticket)
    drive.close()

    again = Drive(forks, path)
    assert [record["i"] for record in again.start().records] == list(range(ticket))
    again.close()


def numbers_in_prefix(file: str) -> list[int]:
    return [record["n"] for record in parse(Path(file).read_bytes()).records]


# Compaction


def test_a_compaction_replaces_the_file_and_keeps_the_one_before_as_history(
    forks: SmallForks, path: str
) -> None:
    drive = Drive(forks, path)
    drive.start()
    for _ in range(2):
        drive.append({"type": "old"}, {"type": "old"})
        drive.client.compact([{"type": "snapshot"}], time.monotonic())
        drive.until_durable(drive.append({"type": "new"}))
    drive.close()

    assert journal_files(os.path.dirname(path)) == ["journal.000003.jsonl", "journal.jsonl.1"]
    assert numbers_in(newest(os.path.dirname(path))) == [5, 6]
    assert numbers_in(path + ".1") == [2, 3, 4, 5]
    again = Drive(forks, path)
    assert kinds(again.start()) == ["snapshot", "new"]
    again.close()


COMPACTION_STEPS = [
    "draft-opened",
    "draft-written",
    "draft-synced",
    "linked",
    "directory-synced",
    "draft-removed",
    "swept",
]


@pytest.mark.parametrize("step", COMPACTION_STEPS)
@pytest.mark.parametrize("who_comes_next", ["the same life", "the next life"])
def test_a_crash_at_any_step_of_a_compaction_leaves_a_readable_journal(
    forks: SmallForks, path: str, monkeypatch: pytest.MonkeyPatch, step: str, who_comes_next: str
) -> None:
    first = Drive(forks, path)
    first.start()
    first.until_durable(first.append({"type": "a"}, {"type": "b"}))
    first.close()
    drive = Drive(forks, path)
    with monkeypatch.context() as patch:
        # The take-over makes these steps once, before the compaction.
        patch.setattr(client_module, "write_journal", dying_at(step, 2))
        drive.start()
    drive.client.compact([{"type": "ab"}], time.monotonic())
    ticket = drive.append({"type": "c"})
    drive.until(lambda event: isinstance(event, WriterGone))

    if who_comes_next == "the same life":
        drive.client.start(time.monotonic())
        drive.until_durable(ticket)
        drive.close()
        expected = [["ab", "c"]]
    else:
        expected = [["a", "b"], ["ab"]]
    again = Drive(forks, path)
    opened = again.start()
    again.close()

    assert kinds(opened) in expected
    assert (opened.torn_bytes, opened.damaged, opened.epoch) == (0, None, "epoch-1")
    assert set(journal_files(os.path.dirname(path))) <= {
        os.path.basename(newest(os.path.dirname(path))),
        "journal.jsonl.1",
    }


@pytest.mark.parametrize("compacted_anew", [False, True])
def test_what_a_snapshot_stands_for_is_not_written_again_behind_it(
    forks: SmallForks, path: str, compacted_anew: bool
) -> None:
    """The acknowledgements were never read: the next writer is sent everything again."""
    drive = Drive(forks, path)
    drive.start()
    drive.append(*[{"type": "too large for one packet", "text": "x" * 60_000}] * 2)
    drive.client.compact([{"type": "ab"}], time.monotonic())
    ticket = drive.append({"type": "c"})
    wait_until(
        lambda: numbers_in_prefix(newest(os.path.dirname(path))) == [2, 3], 10, "the writer to be done"
    )
    assert drive.client.durable_ticket == 0

    drive.client.restart(time.monotonic())
    if compacted_anew:
        drive.client.compact([{"type": "abc"}], time.monotonic())
        drive.until(lambda event: isinstance(event, CompactionDone))
    drive.until_durable(ticket)
    drive.close()

    file = newest(os.path.dirname(path))
    assert numbers_in(file) == ([3] if compacted_anew else [2, 3])
    assert numbers_in(path + ".1") == ([2, 3] if compacted_anew else [2])


def test_a_snapshot_larger_than_the_sockets_buffer_arrives(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()

    drive.client.compact([{"type": "s", "text": "x" * 60_000}] * 100, time.monotonic())
    drive.until(lambda event: isinstance(event, CompactionDone))
    drive.close()

    again = Drive(forks, path)
    assert len(again.start().records) == 100
    again.close()


def test_an_empty_snapshot_empties_the_journal_and_keeps_the_count(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.append({"type": "a"})
    drive.client.compact([], time.monotonic())
    drive.until_durable(drive.append({"type": "b"}))
    drive.close()

    assert numbers_in(newest(os.path.dirname(path))) == [2]


# Too much, and losses


def test_what_is_refused_for_want_of_room_is_healed_by_a_snapshot(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.writer.send_signal(signal.SIGSTOP)
    for _ in range(MAX_UNACKED_RECORDS):
        drive.append({"type": "t"})

    assert drive.client.append([{"type": "t"}], 0.0) == Overflow(1)
    drive.writer.send_signal(signal.SIGCONT)
    drive.until_durable(MAX_UNACKED_RECORDS)

    # There is room now, but a record after a hole would be replayed into a wrong state.
    assert drive.client.append([{"type": "t"}, {"type": "t"}], 0.0) == Overflow(3)
    assert wants_snapshot(drive)
    drive.client.compact([{"type": "whole"}], time.monotonic())
    drive.until(lambda event: isinstance(event, CompactionDone))
    assert not wants_snapshot(drive)
    drive.until_durable(drive.append({"type": "after"}))
    drive.close()
    again = Drive(forks, path)
    assert kinds(again.start()) == ["whole", "after"]
    again.close()


def test_what_was_refused_after_the_snapshot_was_taken_needs_another_one(
    forks: SmallForks, path: str
) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.writer.send_signal(signal.SIGSTOP)
    assert isinstance(drive.client.append([{"type": "t"}] * (MAX_UNACKED_RECORDS + 1), 0.0), Overflow)
    drive.client.compact([{"type": "first"}], time.monotonic())
    assert isinstance(drive.client.append([{"type": "t"}], 0.0), Overflow)
    drive.writer.send_signal(signal.SIGCONT)

    drive.until(lambda event: isinstance(event, CompactionDone))
    assert wants_snapshot(drive)
    drive.client.compact([{"type": "second"}], time.monotonic())
    drive.until(lambda event: isinstance(event, CompactionDone))
    assert not wants_snapshot(drive)
    drive.close()


def test_four_mebibytes_are_the_most_that_waits(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)

    for _ in range(69):
        drive.append({"type": "t", "text": "x" * 60_000})

    assert isinstance(drive.client.append([{"type": "t", "text": "x" * 60_000}], 0.0), Overflow)


def test_a_file_removed_under_the_writer_is_made_again_from_memory(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.until_durable(drive.append({"type": "a"}))
    shutil.rmtree(os.path.dirname(path))

    drive.until_durable(drive.append({"type": "b"}))
    drive.close()

    assert numbers_in(newest(os.path.dirname(path))) == [1, 2]


def test_records_that_the_disk_lost_between_two_writers_are_asked_for(forks: SmallForks, path: str) -> None:
    drive = Drive(forks, path)
    drive.start()
    drive.until_durable(drive.append({"type": "a"}, {"type": "b"}))
    drive.writer.send_signal(signal.SIGKILL)
    drive.until(lambda event: isinstance(event, WriterGone))
    shutil.rmtree(os.path.dirname(path))
    ticket = drive.append({"type": "c"})

    drive.client.start(time.monotonic())
    drive.until(lambda event: isinstance(event, Failed) and event.operation == "gap")
    assert wants_snapshot(drive)
    assert drive.client.durable_ticket == 2
    drive.client.compact([{"type": "abc"}], time.monotonic())
    drive.until_durable(ticket)
    drive.until_durable(drive.append({"type": "d"}))
    drive.close()

    again = Drive(forks, path)
    assert kinds(again.start()) == ["abc", "d"]
    again.close()


def test_after_a_failed_sync_everything_is_written_to_a_fresh_file(
    forks: SmallForks, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a lost write once; a second fdatasync on the same file would call it saved."""
    sync, calls = os.fdatasync, []

    def failing_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    drive = Drive(forks, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing_once)
        drive.start()
    drive.until_durable(drive.append({"type": "a"}))
    ticket = drive.append({"type": "b"})
    failed = drive.until(lambda event: isinstance(event, Failed))
    assert failing(drive) == failed
    drive.until_durable(ticket)
    drive.close()

    assert failed == Failed("append", 5, "[Errno 5] Input/output error")
    assert failing(drive) is None
    assert os.path.basename(newest(os.path.dirname(path))) == "journal.000002.jsonl"
    assert numbers_in(newest(os.path.dirname(path))) == [1, 2]
