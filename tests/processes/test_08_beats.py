"""Design 5.8, beats: unconnected datagrams that outlive the nanny, believed by the kernel's word about the sender."""

import array
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, PRELUDE, RealNanny


def notify_path(node: RealNanny) -> str:
    [path] = node.runtime_dir.glob("notify-*.sock")
    return str(path)


def descriptors(node: RealNanny) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


def test_beats_arrive_at_the_next_nanny_without_the_workers_doing(node: RealNanny) -> None:
    node.start()
    before = node.wait_for_phase("running")
    node.kill()
    time.sleep(0.5)  # beats go nowhere meanwhile
    node.start()
    node.wait_for(lambda status: status["counters"]["beats_total"] >= 3, "beats")
    assert node.status()["worker"]["pid"] == before["worker"]["pid"]
    assert "lost" not in str(node.status()["last_restart"])


def test_a_stranger_is_refused_and_counted_and_its_stopping_stops_nothing(node: RealNanny) -> None:
    node.start(BEATS, "--heartbeat=ready")
    status = node.wait_for_phase("running")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for text in (b"WATCHDOG=1", b"STOPPING=1", b"WATCHDOG=trigger", b"READY=1"):
            stranger.sendto(text, notify_path(node))
    after = node.wait_for(lambda s: s["counters"]["datagrams_refused_total"] >= 4, "the count")
    assert (after["phase"], after["worker"]["pid"]) == ("running", status["worker"]["pid"])


def test_a_child_of_the_worker_counts_only_where_all_may_speak(node: RealNanny) -> None:
    by_a_child = (
        PRELUDE
        + """
if os.fork() == 0:
    beat_for_ever()
time.sleep(600)
"""
    )
    node.start(by_a_child, "--start-timeout-s=60")
    node.wait_for(lambda status: status["counters"]["datagrams_refused_total"] >= 3, "refusals")
    assert node.status()["phase"] == "starting"
    node.stop()
    node.start(by_a_child, "--notify-access=all")
    node.wait_for_phase("running")
    node.wait_for(lambda status: status["counters"]["beats_total"] >= 3, "beats")


def test_stopping_said_by_the_worker_itself_is_followed_by_the_next_worker(node: RealNanny) -> None:
    node.start(PRELUDE + "tell('READY=1\\nWATCHDOG=1'); time.sleep(0.3); tell('STOPPING=1'); time.sleep(0.1)")
    first = node.wait_for_phase("running")
    second = node.wait_for(lambda status: status["incarnation"] != first["incarnation"], "a successor")
    assert second["desired"]["value"] == "up"


def test_descriptors_sent_along_are_not_kept(node: RealNanny) -> None:
    node.start(
        PRELUDE
        + """
import array
tell("READY=1\\nWATCHDOG=1")
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
while True:
    try:
        _notify.sendmsg([b"WATCHDOG=1"], rights, 0, os.environ["NOTIFY_SOCKET"])
    except OSError:
        pass
    time.sleep(0.002)
"""
    )
    node.wait_for(lambda status: status["counters"]["beats_total"] >= 10, "beats")
    before = descriptors(node)
    stranger = array.array("i", [0])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for _ in range(200):
            sender.sendmsg(
                [b"WATCHDOG=1"],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, stranger)],
                0,
                notify_path(node),
            )
    beats = node.status()["counters"]["beats_total"]
    node.wait_for(lambda status: status["counters"]["beats_total"] >= beats + 200, "200 more beats")
    assert abs(descriptors(node) - before) <= 2


@pytest.mark.slow
def test_ten_thousand_hostile_datagrams_leave_the_loop_responsive(node: RealNanny) -> None:
    node.start()
    status = node.wait_for_phase("running")
    flood = f"""
import os, socket
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for n in range(10_000):
    kind = n % 4
    text = (b"WATCHDOG=1", os.urandom(200), b"=" * 15000, b"X_" * 40000)[kind]
    try:
        sender.sendto(text, {notify_path(node)!r})
    except OSError:
        pass
print("done", flush=True)
"""
    flooder = subprocess.Popen([sys.executable, "-c", flood], stdout=subprocess.PIPE)
    slowest = 0.0
    try:
        while flooder.poll() is None:
            began = time.monotonic()
            node.status()
            slowest = max(slowest, time.monotonic() - began)
        output, _ = flooder.communicate(timeout=60)
    finally:
        flooder.kill()
        flooder.wait()
    assert output == b"done\n"
    after = node.wait_for_phase("running")
    assert after["worker"]["pid"] == status["worker"]["pid"]
    assert after["counters"]["datagrams_refused_total"] > 1000
    assert slowest < 1.0, f"an answer took {slowest:.2f} s"
    print(f"slowest answer during the flood: {slowest * 1e3:.1f} ms")


def test_notify_sockets_of_the_dead_are_swept_at_the_start(node: RealNanny) -> None:
    node.runtime_dir.mkdir()
    for name in ("notify-3.sock", "notify-77-abcdef.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(node.runtime_dir / name))
    node.start()
    node.wait_for_phase("running")
    assert len(list(node.runtime_dir.glob("notify-*"))) == 1
    node.order("restart")
    wait_until(lambda: len(list(node.runtime_dir.glob("notify-*"))) == 1, 10, "the old worker's socket to go")
    node.stop()
    assert [path.name for path in node.runtime_dir.iterdir() if "sock" in path.name] == []


@pytest.mark.slow
def test_a_nanny_that_stood_still_does_not_judge_by_its_own_absence(node: RealNanny) -> None:
    node.start(BEATS, "--heartbeat-interval-s=0.3", "--heartbeat-timeout-s=1")
    status = node.wait_for_phase("running")
    node.send(signal.SIGSTOP)
    wait_until(lambda: _state(node.pid) == "T", 10, "the nanny to stand still")
    time.sleep(2.5)
    node.send(signal.SIGCONT)
    node.wait_for(lambda s: "the nanny was late" in node.log(), "the nanny to notice")
    after = node.wait_for_phase("running")
    assert (after["incarnation"], after["last_restart"]) == (status["incarnation"], None)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
