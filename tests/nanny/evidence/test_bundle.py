"""Bundles of real workers that hang, crash, are stopped or speak no Python: what is in them, and what is not done."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from nanny.core.actions import CollectEvidence, ReleaseWorker, SpawnWorker
from nanny.evidence.bundle_name import UNFINISHED, parse_name
from nanny.evidence.listing import list_bundles
from nanny.evidence.stacks import WAIT_S
from nanny.examination import UNKNOWN_BASELINE
from nanny.life import Arrival
from nanny.linux import procfs
from nanny.linux.cgroup import SubCgroup, own_cgroup_dir
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.notify_format import Beat
from nanny.protocol.stack_signal import STACK_SIGNAL
from tests.nanny.evidence.conftest import WITH_STACKS, Node

FILES = {
    "beats.jsonl",
    "cgroup.txt",
    "kernel.log",
    "manifest.json",
    "output.tail",
    "recording.jsonl.gz",
    "pressure.txt",
    "process.txt",
    "reason.json",
    "stacks.txt",
    "status.json",
    "summary.txt",
}

# Ready is said by the culprit: from then on it is on the stack, whenever that is looked at.
ASLEEP = """
def culprit():
    os.write(1, b"ready\\n")
    time.sleep(600)
culprit()
"""
SPINNING = """
def culprit():
    os.write(1, b"ready\\n")
    while True:
        pass
culprit()
"""
HOLDING_THE_GIL = """
libc = ctypes.PyDLL(None)
def culprit():
    os.write(1, b"ready\\n")
    libc.sleep(600)
culprit()
"""


@pytest.mark.parametrize("hang", [ASLEEP, SPINNING, HOLDING_THE_GIL], ids=["asleep", "spinning", "gil-held"])
def test_the_stacks_of_a_hung_worker_name_the_culprit(node: Node, hang: str) -> None:
    life = node.spawn(WITH_STACKS + hang)
    answer = node.collect(life)
    reason = json.loads(node.file(answer.bundle, "reason.json"))
    assert reason["stalled_at"].split(":")[:2] == ["<string>", "culprit"]
    assert reason["signature"] == "<string>:culprit < <string>:<module>"
    assert "in culprit" in node.file(answer.bundle, "stacks.txt")
    assert "<string>:culprit" in node.file(answer.bundle, "summary.txt").split("WHERE")[1].split("\n")[0]


def test_a_bundle_holds_every_file_and_tells_what_it_is_about(node: Node) -> None:
    life = node.spawn(
        WITH_STACKS + "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()" + ASLEEP
    )
    answer = node.collect(life, reason="lost", command_id="command-1")
    assert {entry.name for entry in Path(node.config.state_dir, "evidence", answer.bundle).iterdir()} == FILES
    reason = json.loads(node.file(answer.bundle, "reason.json"))
    told = {name: reason[name] for name in ("verdict", "incarnation", "pid", "command_id", "node", "boot_id")}
    assert told == {
        "verdict": "lost",
        "incarnation": "epoch/7",
        "pid": life.pid,
        "command_id": "command-1",
        "node": "node-under-test",
        "boot_id": procfs.boot_id(),
    }
    process = node.file(answer.bundle, "process.txt")
    assert "== threads" in process
    assert "-c" in process.split("== command line")[1]
    assert "/memfd:stacks-7" in process.split("== descriptors")[1]
    assert "== memory map" in process
    assert node.file(answer.bundle, "output.tail") == "ready\n"
    assert "MemAvailable" in node.file(answer.bundle, "pressure.txt")
    assert json.loads(node.file(answer.bundle, "status.json")) == node.status()
    assert reason["versions"]["nanny"] == "1.2.3"
    steps = json.loads(node.file(answer.bundle, "manifest.json"))["steps"]
    assert {step["step"] for step in steps} >= {
        "stacks",
        "memory",
        "process",
        "cgroup",
        "pressure",
        "process-details",
    }
    assert (answer.incarnation, answer.command_id) == (life.incarnation, "command-1")


def test_the_answer_and_the_saved_bundle_name_the_place(node: Node) -> None:
    answer = node.collect(node.spawn(WITH_STACKS + ASLEEP))
    (saved,) = node.saved
    assert saved.name == answer.bundle
    assert saved.stalled_at.startswith("<string>:culprit:")
    assert answer.message == f"at {saved.stalled_at}"


def test_a_worker_is_asked_again_and_again_and_each_bundle_has_its_own_stacks(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    bundles = [node.collect(life, command_id=str(n)).bundle for n in range(3)]
    assert bundles == sorted(set(bundles))
    assert {node.file(bundle, "stacks.txt").count("in culprit") for bundle in bundles} == {1}


def test_a_full_memfd_makes_room_for_fresh_stacks(node: Node) -> None:
    life = node.spawn(WITH_STACKS + "os.write(stacks_fd, b'x' * (4 << 20))\n" + ASLEEP)
    assert "in culprit" in node.file(node.collect(life).bundle, "stacks.txt")
    assert "in culprit" in node.file(node.collect(life).bundle, "stacks.txt")


def test_an_adopted_worker_is_asked_through_its_own_descriptor(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    assert life.stacks_fd is not None
    os.close(life.stacks_fd)
    life.stacks_fd = None
    bundle = node.collect(life).bundle
    assert "in culprit" in node.file(bundle, "stacks.txt")


def test_a_worker_without_a_stack_signal_lives_on(node: Node) -> None:
    life = node.spawn("import os, time\nos.write(1, b'ready')\ntime.sleep(600)")
    answer = node.collect(life)
    assert procfs.read_stat(life.pid).state == "S"
    assert answer.message == "no stacks: the worker handles no stack signal"
    assert "process-details" in node.file(answer.bundle, "manifest.json")


def test_a_stopped_worker_gets_no_signal_and_a_bundle_without_stacks(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    signal.pidfd_send_signal(life.pidfd, signal.SIGSTOP)
    node.turn_until(lambda: procfs.read_stat(life.pid).state == "T", "the worker to stop")
    answer = node.collect(life)
    assert answer.message == "no stacks: the worker is stopped"
    assert not procfs.has_signal(procfs.read_status(life.pid).shared_pending, STACK_SIGNAL)
    (stacks,) = [
        step
        for step in json.loads(node.file(answer.bundle, "manifest.json"))["steps"]
        if step["step"] == "stacks"
    ]
    assert (stacks["outcome"], stacks["took_ms"] < 1000 * WAIT_S) == ("failed", True)


@pytest.mark.parametrize(
    ("crash", "status", "fatal"),
    [
        ("ctypes.string_at(0)", "SIGSEGV", "Segmentation fault"),
        ("os.abort()", "SIGABRT", "Aborted"),
    ],
)
def test_a_crash_is_told_post_mortem_by_what_the_memfd_holds(
    node: Node, crash: str, status: str, fatal: str
) -> None:
    life = node.spawn(
        WITH_STACKS + f"def culprit():\n    {crash}\nready()\ntime.sleep(0.2)\nculprit()\n", number=8
    )
    node.turn_until(lambda: life.incarnation not in node.workers.lives, "the crash")
    answer = node.collect(life, reason="exited")
    reason = json.loads(node.file(answer.bundle, "reason.json"))
    assert reason["exit_status"].startswith(status)
    assert reason["signature"].startswith(f"{fatal}: ")
    assert "culprit" in reason["signature"]
    assert reason["post_mortem"]
    assert "in culprit" in node.file(answer.bundle, "stacks.txt")


def test_an_exit_without_stacks_is_grouped_by_its_status(node: Node) -> None:
    life = node.spawn("import os\nos.write(1, b'Traceback: no such module\\n')\nos._exit(3)")
    node.turn_until(lambda: not node.workers.lives, "the exit")
    answer = node.collect(life, reason="exited")
    reason = json.loads(node.file(answer.bundle, "reason.json"))
    assert (reason["signature"], reason["exit_status"]) == ("exit code 3", "exit code 3")
    assert "no such module" in node.file(answer.bundle, "summary.txt")
    assert not Path(node.config.state_dir, "evidence", answer.bundle, "process.txt").exists()


def test_of_an_unknown_incarnation_there_is_an_answer_and_no_bundle(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    node.kill(life)
    node.workers.ended.remove(life)
    assert life.stacks_fd is not None
    os.close(life.stacks_fd)
    answer = node.collect(life)
    assert (answer.bundle, answer.message) == ("", "nothing is known of this incarnation any more")


def test_a_status_that_cannot_be_told_costs_no_bundle(node: Node) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("a bug in the view")

    node.status = broken
    answer = node.collect(node.spawn(WITH_STACKS + ASLEEP))
    assert "a bug in the view" in node.file(answer.bundle, "status.json")


def test_nothing_unfinished_stays_and_names_are_of_our_form(node: Node) -> None:
    node.collect(node.spawn(WITH_STACKS + ASLEEP), reason="ordered by uid 0 (nannyctl)")
    (name,) = os.listdir(f"{node.config.state_dir}/evidence")
    parsed = parse_name(name)
    assert parsed is not None
    assert (parsed.number, parsed.reason) == (7, "ordered-by-uid-0-nannyctl")
    assert not name.startswith(UNFINISHED)


def test_bundles_are_for_their_owner_and_group_only(node: Node) -> None:
    answer = node.collect(node.spawn(WITH_STACKS + ASLEEP))
    bundle = Path(node.config.state_dir, "evidence", answer.bundle)
    modes = {path.stat().st_mode & 0o007 for path in (bundle, *bundle.iterdir())}
    assert modes == {0}


@pytest.mark.root
def test_the_cgroups_account_is_in_the_bundle(node: Node) -> None:
    own = own_cgroup_dir()
    if own is None:
        pytest.skip("no writable v2 cgroup")
    parent = SubCgroup(f"{own}/evidence-test-{os.getpid()}")
    parent.create()
    try:
        life = node.spawn(WITH_STACKS + ASLEEP, cgroup_dir=parent.path)
        text = node.file(node.collect(life).bundle, "cgroup.txt")
        assert str(life.pid) in text.split("== processes")[1]
        assert "usage_usec" in text
        node.kill(life)
    finally:
        node.turn_until(parent.remove, "the cgroup to go")


def test_old_bundles_make_room_and_the_listing_shows_the_rest(node: Node) -> None:
    node.configure(evidence_keep=2)
    life = node.spawn(WITH_STACKS + ASLEEP)
    bundles = [node.collect(life, command_id=str(n)).bundle for n in range(4)]
    listed = list_bundles(node.config.state_dir, node.config.runtime_dir)
    assert [bundle.name for bundle in listed] == bundles[:1:-1]
    assert {(bundle.incarnation, bundle.is_finished, bundle.is_fallback) for bundle in listed} == {
        ("epoch/7", True, False)
    }
    assert all(bundle.stalled_at.startswith("<string>:culprit") for bundle in listed)


def test_two_orders_at_once_get_two_bundles(node: Node) -> None:
    life = node.spawn(WITH_STACKS + ASLEEP)
    for command_id in ("a", "b"):
        node.desk.collect(
            CollectEvidence(life.incarnation, "stalled", post_mortem=False, command_id=command_id)
        )
    node.turn_until(lambda: len(node.answers) == 2, "both answers")
    assert {answer.command_id for answer in node.answers} == {"a", "b"}
    assert len({answer.bundle for answer in node.answers} - {""}) == 2


def test_a_worker_that_forgets_its_stack_descriptor_is_not_asked_for_another_files_sake(node: Node) -> None:
    life = node.spawn(WITH_STACKS + "os.dup2(os.open('/dev/null', os.O_RDWR), stacks_fd)\n" + ASLEEP)
    assert life.stacks_fd is not None
    os.close(life.stacks_fd)
    life.stacks_fd = None
    answer = node.collect(life)
    assert answer.message == "no stacks: the worker has no memfd for stacks"


def test_a_foreign_program_gets_a_bundle(node: Node) -> None:
    node.configure(command=("/bin/sh", "-c", "echo ready; exec sleep 600"))
    incarnation = Incarnation("epoch", 9)
    node.workers.spawn(SpawnWorker(incarnation))
    node.workers.release(ReleaseWorker(incarnation))
    node.turn_until(lambda: node.output, "the program's output")
    life = node.workers.lives[incarnation]
    answer = node.collect(life)
    assert answer.bundle
    assert "sleep" in node.file(answer.bundle, "process.txt")
    assert subprocess.run(["kill", "-0", str(life.pid)], check=False).returncode == 0


def test_beats_are_kept_and_stand_in_where_no_stacks_are_to_be_had(node: Node) -> None:
    life = node.spawn("import os, time\nos.write(1, b'ready')\ntime.sleep(600)")
    beat = Beat(
        watchdog=True,
        loop_lag_s=31.5,
        stalled_at="app.pool:acquire:88",
        stall_stack="acquire /srv/pool.py:88",
    )
    life.beats.append(Arrival(node.loop.now - 2.0, beat, UNKNOWN_BASELINE))
    answer = node.collect(life)
    (line,) = node.file(answer.bundle, "beats.jsonl").splitlines()
    assert json.loads(line)["loop_lag_s"] == 31.5
    assert "acquire /srv/pool.py:88" in node.file(answer.bundle, "stacks.txt")
    reason = json.loads(node.file(answer.bundle, "reason.json"))
    assert (reason["stalled_at"], reason["signature"]) == ("app.pool:acquire:88", "app.pool:acquire")
    assert 2.0 <= reason["beat_age_s"] < 20.0
