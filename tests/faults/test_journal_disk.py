"""Fault 32, and the journal's: its disk full, read-only, broken, frozen, and a journal torn, doubled or dirty.

A real ext4 of the case's own under a real nanny. Whatever the disk does: the worker runs on, restarts go on, what
cannot be made durable is refused with the reason, what was acknowledged is there afterwards, nothing is done twice.
Each byte of a journal's end is cut in test_journal_bytes.py, without a nanny.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_makers as make
from tests.faults.oracles import Expectation, judged
from tests.faults.ordered import Ordered
from tests.faults.registry import fault
from tests.support.loop_disk import LoopDisk, loop_disk, why_no_loop_disk
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.fault_node import FaultNode
    from tests.faults.oracles import JudgedCase

pytestmark = pytest.mark.slow

REPLACED = Expectation(restarts=None, cause=(), explains=(), condition=None, residue=True, journal=False)
"""What the journal holds is judged by each case itself: its disk is the fault."""


def is_degraded(node: FaultNode) -> dict[str, Any]:
    return node.wait_for(lambda status: status["journal_degraded"], "the journal to be degraded")


def is_whole(node: FaultNode) -> dict[str, Any]:
    return node.wait_for(lambda status: not status["journal_degraded"], "the journal to be whole again")


def goes_on_without_its_disk(node: FaultNode, ordered: Ordered, case: JudgedCase) -> dict[str, Any]:
    """A death and an order are dealt with; what would have to last is refused; all of it with a reason."""
    before = node.status()
    make.oom_kill(before["worker"]["pid"])
    status = node.wait_for_next(before)
    is_degraded(node)
    case.detected()
    assert ordered.send(node)
    assert ordered.outcomes == ["done"]
    status = node.wait_for_next(status)
    refused = node.order("stop")
    assert refused["outcome"] == "rejected"
    assert "journal is degraded" in refused["detail"]
    assert node.status()["desired"]["value"] == "up"
    [degraded] = [one for one in status["conditions"] if one["type"] == "JournalDegraded"]
    assert degraded["message"]
    return status


def lost_nothing(node: FaultNode, before: dict[str, Any], ordered: Ordered) -> None:
    """The next nanny knows the worker, what was drained before the fault, and what was ordered during it."""
    node.again()
    after = node.wait_for_phase("running")
    assert (after["incarnation"], after["worker"]["pid"]) == (before["incarnation"], before["worker"]["pid"])
    assert after["draining"]
    assert ordered.send(node)
    assert ordered.outcomes == ["done", "done"]
    assert node.status()["incarnation"] == after["incarnation"], "an order that was done is not done again"


@contextmanager
def on_a_disk_of_its_own(node: FaultNode) -> Iterator[LoopDisk]:
    """A drained node whose state directory is the disk's; the nanny is ended before the disk is."""
    with loop_disk(node.state_dir) as disk:
        node.begin()
        assert node.order("drain")["outcome"] == "done"
        yield disk
        node.end_everything()


@fault("32", "the state directory's disk is full, its reserve used up", by="nanny: ENOSPC from the writer", why_not=why_no_loop_disk)  # fmt: skip
def test_a_full_disk_degrades_the_journal_and_nothing_else(node: FaultNode) -> None:
    with on_a_disk_of_its_own(node) as disk:
        (node.state_dir / "journal.jsonl.reserve").unlink()
        disk.fill()
        ordered = Ordered("restart")
        with judged(node, expects=REPLACED) as case:
            # A page of the journal's last block may still be free: restarts until it is not.
            def is_full() -> bool:
                assert node.order("restart")["outcome"] == "done"
                return bool(node.status()["journal_degraded"])

            wait_until(is_full, 60.0, "the journal's last block to be full")
            wait_until(lambda: "No space left" in node.log(), 20, "the reason in the log")
            goes_on_without_its_disk(node, ordered, case)
            disk.free()
            whole = is_whole(node)
            case.recovered()
            lost_nothing(node, whole, ordered)


@fault("32", "the disk is full, but for the journal's reserve", by="nanny: ENOSPC from the writer", why_not=why_no_loop_disk)  # fmt: skip
def test_the_reserve_keeps_the_journal_whole_on_a_full_disk(node: FaultNode) -> None:
    with on_a_disk_of_its_own(node) as disk:
        disk.fill()
        reserve = node.state_dir / "journal.jsonl.reserve"
        with judged(node, expects=REPLACED):

            def is_used() -> bool:
                assert node.order("restart")["outcome"] == "done"
                return not reserve.exists()

            wait_until(is_used, 60.0, "the reserve to be needed")
            # With the reserve in use, what must last is still taken.
            assert node.order("undrain")["outcome"] == "done"
            assert not node.status()["journal_degraded"]
            disk.free()
            node.again()
            assert not node.wait_for_phase("running")["draining"]


@pytest.mark.parametrize(
    "breaks",
    [pytest.param(LoopDisk.turn_read_only, id="EROFS"), pytest.param(LoopDisk.fail, id="EIO")],
)
@fault("32", "the disk turns read-only, or answers EIO", by="nanny: an error from the writer", why_not=why_no_loop_disk)  # fmt: skip
def test_a_broken_disk_degrades_the_journal_and_nothing_else(
    node: FaultNode, breaks: Callable[[LoopDisk], None]
) -> None:
    with on_a_disk_of_its_own(node) as disk:
        breaks(disk)
        ordered = Ordered("restart")
        with judged(node, expects=REPLACED) as case:
            goes_on_without_its_disk(node, ordered, case)
            disk.mend()
            whole = is_whole(node)
            case.recovered()
            lost_nothing(node, whole, ordered)


@fault("32", "the disk hangs: a sync in D state", by="nanny: no answer from the writer", why_not=why_no_loop_disk)  # fmt: skip
def test_a_frozen_disk_holds_its_writer_and_nobody_else(node: FaultNode) -> None:
    with on_a_disk_of_its_own(node) as disk:
        disk.freeze()
        ordered = Ordered("restart")
        with judged(node, expects=REPLACED) as case:
            status = goes_on_without_its_disk(node, ordered, case)
            # The next nanny's disk hangs as well: it adopts by what /run knows.
            node.again()
            after = node.wait_for_phase("running")
            assert after["incarnation"] == status["incarnation"]
            assert ordered.send(node)
            assert node.status()["incarnation"] == after["incarnation"]
            disk.thaw()
            whole = is_whole(node)
            case.recovered()
            assert ordered.outcomes == ["done", "done"]
            ordered.outcomes.pop()
            lost_nothing(node, whole, ordered)


@fault("32", "loss of power after an outcome was told", by="nobody: what was told had been synced", why_not=why_no_loop_disk)  # fmt: skip
def test_what_was_told_outlives_a_loss_of_power(node: FaultNode) -> None:
    with on_a_disk_of_its_own(node) as disk:
        for kind in ("undrain", "drain", "undrain", "drain"):
            ordered = Ordered(kind)
            assert ordered.send(node)
            disk.fail()
            node.kill()
            disk.mend()
            node.start()
            status = node.wait_for_phase("running")
            assert status["draining"] == (kind == "drain")
            assert ordered.send(node)
            assert ordered.outcomes == ["done", "done"]


# What a crash, a disk or a person can leave behind the last good record


def cut(content: bytes, keep: float) -> bytes:
    """The last record torn, so much of it kept."""
    start = content.rindex(b"\n", 0, -1) + 1
    return content[: start + int((len(content) - start) * keep)]


TAILS: dict[str, Callable[[bytes], bytes]] = {
    "its last record without its end": lambda content: content[:-1],
    "half of its last record": lambda content: cut(content, 0.5),
    "one byte of its last record": lambda content: cut(content, 0.01),
    "nothing of its last record": lambda content: cut(content, 0),
    "garbage behind it": lambda content: content + bytes(range(256)) * 3,
    "zeros behind it": lambda content: content + bytes(4096),
    "its last line twice": lambda content: content + content[content.rindex(b"\n", 0, -1) + 1 :],
    "its last lines twice": lambda content: content + b"".join(content.splitlines(keepends=True)[-3:]),
    "a line of another journal behind it": lambda content: (
        content + b'00000000 {"n":1,"type":"desired-set"}\n'
    ),
}


@pytest.mark.parametrize("facts", [True, False], ids=["with-facts", "without-facts"])
@fault("32", "the journal torn, doubled, dirty at its end", by="the writer: checksums and numbers")
def test_a_journal_with_a_bad_end_loses_nothing_and_does_nothing_twice(node: FaultNode, facts: bool) -> None:
    node.begin()
    assert node.order("drain")["outcome"] == "done"
    ordered = Ordered("restart")
    assert ordered.send(node)
    # What stands last in the journal when it is damaged is of no weight.
    for name, spoil in TAILS.items():
        assert node.order("clear")["outcome"] == "done"
        before = node.status()
        node.kill()
        newest: Path = max(node.state_dir.glob("journal.0*.jsonl"))
        wait_until(lambda: newest.read_bytes().endswith(b"\n"), 10, "the writer's last words")  # noqa: B023
        newest.write_bytes(spoil(newest.read_bytes()))
        if not facts:
            (node.runtime_dir / "facts").unlink()
        node.start()
        after = node.wait_for_phase("running")
        assert (after["incarnation"], after["worker"]["pid"]) == (
            before["incarnation"],
            before["worker"]["pid"],
        ), name
        assert after["draining"], name
        assert ordered.send(node), name
        assert set(ordered.outcomes) == {"done"}, name
        assert node.status()["incarnation"] == before["incarnation"], name
        node.assert_unharmed()
