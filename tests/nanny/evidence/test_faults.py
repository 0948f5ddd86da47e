"""What hangs, fills up or dies while evidence is taken: an answer in time, one only, and nothing forgotten."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanny.core.actions import CollectEvidence
from nanny.evidence.desk import ANSWER_MARGIN_S, COLLECTORS_LIMIT
from nanny.evidence.listing import list_bundles
from nanny.linux import pidfd as pidfds
from nanny.linux import procfs
from tests.nanny.evidence.conftest import WITH_STACKS, Node
from tests.nanny.evidence.test_bundle import ASLEEP
from tests.support.dead_mount import dead_mount, why_no_dead_mount

FUSE_WAIT = "request_wait_answer"
NO_DEAD_MOUNT = why_no_dead_mount()
needs_dead_mount = pytest.mark.skipif(NO_DEAD_MOUNT is not None, reason=NO_DEAD_MOUNT or "")


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    """A tmpfs of that size on the directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def order(node: Node, incarnation: object, command_id: str = "") -> None:
    node.desk.collect(CollectEvidence(incarnation, "stalled", post_mortem=False, command_id=command_id))  # type: ignore[arg-type]


@pytest.mark.root
def test_a_full_disk_gets_the_bundle_kept_in_memory(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    with small_disk(Path(node.config.state_dir), "16k"):
        answer = node.collect(life)
        assert os.listdir(f"{node.config.state_dir}/evidence") == []
    assert "kept in memory only" in answer.message
    assert "No space left on device" in answer.message
    assert "in culprit" in node.file(answer.bundle, "stacks.txt", fallback=True)
    (listed,) = list_bundles(node.config.state_dir, node.config.runtime_dir)
    assert (listed.name, listed.is_fallback, listed.is_finished) == (answer.bundle, True, True)


@pytest.mark.root
def test_what_is_kept_in_memory_is_cut_and_of_logs_the_end_stays(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    node.output = b"first" + b"." * 200_000 + b"last"
    with small_disk(Path(node.config.state_dir), "16k"):
        bundles = [node.collect(life, command_id=str(n)).bundle for n in range(6)]
    tail = node.file(bundles[-1], "output.tail", fallback=True)
    assert tail.endswith("last")
    assert len(tail) < 150_000
    assert sorted(os.listdir(f"{node.config.runtime_dir}/evidence")) == bundles[-4:]


def test_without_any_place_the_answer_says_so(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    for directory in (node.config.state_dir, node.config.runtime_dir):
        Path(directory, "evidence").write_text("a file where a directory should be")
    answer = node.collect(life)
    assert answer.bundle == ""
    assert "no bundle" in answer.message
    assert "File exists" in answer.message or "Not a directory" in answer.message


@needs_dead_mount
@pytest.mark.root
@pytest.mark.slow
def test_a_dead_disk_gets_the_bundle_kept_in_memory_before_the_kill_is_due(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    node.configure(evidence_timeout_s=3.0)
    with dead_mount(Path(node.config.state_dir, "evidence")):
        begun_at = time.monotonic()
        order(node, life.incarnation)
        node.turn_until(lambda: node.answers, "the answer")
        took_s = time.monotonic() - begun_at
        (answer,) = node.answers
        assert "the disk hangs" in answer.message
        assert "in culprit" in node.file(answer.bundle, "stacks.txt", fallback=True)
        assert took_s < 3.0 + ANSWER_MARGIN_S
        node.turn_until(lambda: not node.desk._open, "the collector's end")
        # The step that hangs on the disk is left where it is, and counted.
        assert node.desk.collectors == 1
    node.turn_until(lambda: node.desk.collectors == 0, "the freed step to be gone")


@needs_dead_mount
@pytest.mark.root
@pytest.mark.slow
def test_a_victim_that_hangs_on_a_dead_mount_is_told_by_its_descriptors_and_its_kernel_stack(
    node: Node,
) -> None:
    mount = Path(node.config.runtime_dir, "dead")
    with dead_mount(mount):
        life = node.spawn(
            WITH_STACKS
            + f"directory = os.open({str(mount)!r}, os.O_PATH)\nready()\nos.stat('missing', dir_fd=directory)\n"
        )
        node.turn_until(lambda: procfs.read_wchan(life.pid) == FUSE_WAIT, "the worker to hang")
        answer = node.collect(life)
        process = node.file(answer.bundle, "process.txt")
        assert str(mount) in process.split("== descriptors")[1]
        assert f"{FUSE_WAIT} <" in process.split("== kernel stacks")[1].split("==")[0]
        again = node.collect(life)
        assert again.message == f"at kernel:{FUSE_WAIT}; no stacks: the worker sleeps uninterruptibly"
        # Nor is its memory map touched, whose lock such a thread may hold.
        assert node.file(again.bundle, "process.txt").count("(not read: a thread in D state") == 2
        signal.pidfd_send_signal(life.pidfd, signal.SIGKILL)
    node.turn_until(lambda: not node.workers.lives, "the freed worker's death")


@pytest.mark.slow
def test_a_collector_that_hangs_is_ended_and_told_once(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    node.configure(evidence_timeout_s=0.2)
    order(node, life.incarnation)
    (collector,) = node.desk._open.values()
    signal.pidfd_send_signal(collector.helper.pidfd, signal.SIGSTOP)
    begun_at = time.monotonic()
    node.turn_until(lambda: node.answers, "the answer")
    assert time.monotonic() - begun_at < 0.2 + ANSWER_MARGIN_S + 5.0
    node.turn_until(lambda: not node.desk._open, "the collector's death")
    (answer,) = node.answers
    assert (answer.bundle, answer.message) == ("", "the evidence helper did not answer in time")
    assert node.desk.overdue_total == 1


def test_a_collector_that_dies_is_told_at_once(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    order(node, life.incarnation, "command-1")
    (collector,) = node.desk._open.values()
    signal.pidfd_send_signal(collector.helper.pidfd, signal.SIGKILL)
    node.turn_until(lambda: not node.desk._open, "the collector's death")
    (answer,) = node.answers
    assert (answer.bundle, answer.command_id) == ("", "command-1")
    assert "died" in answer.message


def test_with_too_many_collectors_there_is_an_answer_and_no_fork(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    for _ in range(COLLECTORS_LIMIT):
        order(node, life.incarnation)
    held = list(node.desk._open.values())
    for collector in held:
        signal.pidfd_send_signal(collector.helper.pidfd, signal.SIGSTOP)
    order(node, life.incarnation)
    assert node.answers[-1].message == "too many evidence helpers hang"
    assert len(node.desk._open) == COLLECTORS_LIMIT
    for collector in held:
        signal.pidfd_send_signal(collector.helper.pidfd, signal.SIGCONT)
    node.turn_until(lambda: not node.desk._open, "the collectors' end")
    assert len(node.answers) == COLLECTORS_LIMIT + 1


def test_a_worker_that_dies_meanwhile_leaves_a_bundle_of_what_was_had(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    order(node, life.incarnation)
    (collector,) = node.desk._open.values()
    signal.pidfd_send_signal(collector.helper.pidfd, signal.SIGSTOP)
    node.kill(life)
    signal.pidfd_send_signal(collector.helper.pidfd, signal.SIGCONT)
    node.turn_until(lambda: not node.desk._open, "the collector's end")
    (answer,) = node.answers
    assert answer.bundle
    assert json.loads(node.file(answer.bundle, "reason.json"))["pid"] == life.pid


def test_the_nanny_is_held_up_by_no_more_than_a_fork(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    begun_at = time.process_time()
    order(node, life.incarnation)
    assert time.process_time() - begun_at < 0.5
    assert node.answers == []
    node.turn_until(lambda: node.answers, "the answer")


@needs_dead_mount
@pytest.mark.root
@pytest.mark.slow
def test_a_disk_that_stays_dead_costs_one_stuck_step_however_often_evidence_is_taken(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    node.configure(evidence_timeout_s=1.0)
    with dead_mount(Path(node.config.state_dir, "evidence")):
        answers = [node.collect(life) for _ in range(COLLECTORS_LIMIT + 2)]
        assert node.desk.collectors == 1
    assert all(answer.bundle for answer in answers)
    assert "the disk still hangs" in answers[-1].message
    node.turn_until(lambda: node.desk.collectors == 0, "the freed step to be gone")
    assert node.file(node.collect(life).bundle, "reason.json")


def test_a_collector_outlives_its_nanny_and_finishes_the_bundle(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    order(node, life.incarnation)
    (collector,) = node.desk._open.values()
    pidfd = os.dup(collector.helper.pidfd)
    node.desk.close()
    node.turn_until(lambda: pidfds.has_exited(pidfd), "the collector's end")
    os.close(pidfd)
    assert os.listdir(f"{node.config.state_dir}/evidence") == [collector.name]
    assert node.answers == []
