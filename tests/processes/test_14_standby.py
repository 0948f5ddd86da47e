"""Design 5.1, further along: a parked standby takes the dead worker's place, and never gets into a cold start's way.

Real nannies with a worker that parks (tests.support.parking), and one with the real agent. Whoever waits, waits for a
state: nothing here depends on how fast a promotion is.
"""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.nodes import RunningNanny, running_nanny
from tests.support.parking import PARKING, PARKING_WORKER, lives, parking_node, wait_until_parked
from tests.support.processes import wait_until
from tests.support.vitals_subject import Answer, http_get

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")
WHY_NOT = why_no_dead_mount()
PROMOTIONS = 50


def kill(pid: int, signum: int = signal.SIGKILL) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signum)
    finally:
        os.close(pidfd)


def is_dead(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def kill_worker(node: RunningNanny) -> dict[str, Any]:
    """SIGKILL the worker, and wait for the next one to run; the status then."""
    before = node.status()
    kill(before["worker"]["pid"])
    return node.wait_for(
        lambda status: status["phase"] == "running" and status["incarnation"] != before["incarnation"],
        "the next worker",
    )


def start_unharmed(node: RunningNanny) -> None:
    """Start a nanny that falls nowhere."""
    at = node.argv.index("--fault-point")
    node.argv = (*node.argv[:at], *node.argv[at + 2 :])
    node.start()


def number_of(status: dict[str, Any]) -> int:
    return int(status["incarnation"].rpartition("/")[2])


def test_the_standby_becomes_the_next_worker() -> None:
    with parking_node() as node:
        standby = wait_until_parked(node)
        first = node.status()
        status = kill_worker(node)
        assert status["worker"]["pid"] == standby
        assert number_of(status) == number_of(first) + 1
        assert status["standby"]["promoted_total"] == 1
        assert [words for words in lives(node) if words[0] == "runs"][1:] == [
            ["runs", str(standby), status["incarnation"]]
        ]


def test_before_its_wake_it_is_nobody() -> None:
    """No identity, no voice, no listener; and it alone is to be killed when memory runs out."""
    with parking_node() as node:
        standby = wait_until_parked(node)
        environ = Path(f"/proc/{standby}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0] for entry in environ}
        assert not names & {b"NANNY_INCARNATION", b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"LISTEN_FDS"}
        assert Path(f"/proc/{standby}/oom_score_adj").read_text().strip() == "1000"
        inode = listener_inode(node)
        assert inode in sockets_of(node.worker_pid)
        assert inode not in sockets_of(standby)
        assert cgroup_of(standby) != cgroup_of(node.worker_pid)

        status = kill_worker(node)
        assert status["worker"]["pid"] == standby
        assert inode in sockets_of(standby)
        ours = Path("/proc/self/oom_score_adj").read_text()
        assert Path(f"/proc/{standby}/oom_score_adj").read_text() == ours


def listener_inode(node: RunningNanny) -> str:
    port = int(node.status()["healthz"].rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
            return fields[9]
    raise AssertionError("nobody listens")


def sockets_of(pid: int) -> set[str]:
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            name = os.readlink(fd)
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found


def files_of(pid: int) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(fd))
    return found


def cgroup_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next((line for line in lines if line.startswith("0::")), "")


def test_a_life_without_a_notify_socket_costs_the_standby_and_leaves_nothing() -> None:
    with parking_node() as node:
        standby = wait_until_parked(node)
        before = node.status()
        epoch = before["incarnation"].rpartition("/")[0]
        # Where the next life is to be heard something stands that can neither be bound nor unlinked.
        Path(node.runtime_dir, f"notify-{number_of(before) + 1}-{epoch[-6:]}.sock").mkdir()
        status = kill_worker(node)
        assert number_of(status) == number_of(before) + 2
        failed = [one for one in node.journal() if one.get("reason") == "spawn-failed"]
        assert [one["incarnation"] for one in failed] == [f"{epoch}/{number_of(before) + 1}"]
        wait_until(lambda: is_dead(standby), 20, "the standby to end")

        wait_until(
            lambda: not any("stacks-standby-1 " in one for one in files_of(node.nanny_pid)),
            20,
            "its descriptors to be closed",
        )
        wait_until(
            lambda: not any(Path(one, "worker-standby-1").exists() for one in node.cgroup_dirs()),
            20,
            "its cgroup to be removed",
        )


def test_it_is_on_record_before_it_is_woken() -> None:
    with parking_node(fault_point="standby-recorded") as node:
        standby = wait_until_parked(node)
        kill(node.worker_pid)
        assert node.wait_for_exit() == -signal.SIGKILL
        started = [one for one in node.journal() if one["type"] == "incarnation-started"]
        assert started[-1]["pid"] == standby
        wait_until(lambda: is_dead(standby), 20, "the standby to meet the channel's end")
        assert [words for words in lives(node) if words[:2] == ["runs", str(standby)]] == []

        start_unharmed(node)
        status = node.wait_for_phase("running")
        assert status["incarnation"] != started[-1]["incarnation"]
        assert status["worker"]["pid"] != standby


def test_a_nanny_that_dies_right_after_the_wake_finds_its_worker_again() -> None:
    with parking_node(fault_point="standby-woken") as node:
        standby = wait_until_parked(node)
        kill(node.worker_pid)
        assert node.wait_for_exit() == -signal.SIGKILL
        wait_until(lambda: ["runs", str(standby)] in [words[:2] for words in lives(node)], 20, "the worker")
        start_unharmed(node)
        assert node.wait_for_phase("running")["worker"]["pid"] == standby
        # Its cgroup is found again, too, or it would be swept as a left-over.
        next_one = wait_until_parked(node)
        assert kill_worker(node)["worker"]["pid"] == next_one


def test_a_parked_one_ends_with_its_nanny() -> None:
    with parking_node() as node:
        standby = wait_until_parked(node)
        worker = node.worker_pid
        node.kill()
        wait_until(lambda: is_dead(standby), 20, "the standby to end")
        assert not is_dead(worker)
        node.start()
        assert node.wait_for_phase("running")["worker"]["pid"] == worker
        assert wait_until_parked(node) != standby


def test_a_hung_standby_is_killed_and_the_worker_starts_from_cold() -> None:
    with parking_node() as node:
        standby = wait_until_parked(node)
        kill(standby, signal.SIGSTOP)
        status = kill_worker(node)
        assert status["worker"]["pid"] != standby
        assert status["standby"]["dropped_total"] == {"no-answer": 1}
        wait_until(lambda: is_dead(standby), 20, "the hung one to be gone")


def test_one_that_does_not_answer_is_killed_and_the_worker_starts_from_cold() -> None:
    with parking_node(PARKING_WORKER.replace('b"here"', 'b"what?"'), standby_answer_timeout_s=0.2) as node:
        standby = wait_until_parked(node)
        status = kill_worker(node)
        assert status["worker"]["pid"] != standby
        assert status["standby"]["dropped_total"] == {"no-answer": 1}
        wait_until(lambda: is_dead(standby), 20, "the deaf one to be gone")


@pytest.mark.parametrize("how", ["reload", "code", "death"])
def test_it_is_replaced(how: str) -> None:
    with parking_node() as node:
        standby = wait_until_parked(node)
        worker = node.worker_pid
        if how == "reload":
            node.signal_nanny(signal.SIGHUP)
        else:
            kill(standby, signal.SIGUSR1 if how == "code" else signal.SIGKILL)
        wait_until(lambda: is_dead(standby), 20, "the old one to end")
        if how == "death":
            # Not at once: what kills a standby may kill the next.
            status = node.wait_for(lambda status: status["standby"]["failed_total"] == 1, "its end")
            assert status["standby"]["stage"] == "none"
        else:
            assert wait_until_parked(node) != standby
        assert node.worker_pid == worker


def test_an_ordered_restart_loads_the_program_anew() -> None:
    with parking_node() as node:
        standby = wait_until_parked(node)
        before = node.status()
        order(node, "restart")
        status = node.wait_for(
            lambda status: status["phase"] == "running" and status["incarnation"] != before["incarnation"],
            "the next worker",
        )
        assert status["worker"]["pid"] != standby
        assert status["standby"]["dropped_total"] == {"ordered": 1}
        assert wait_until_parked(node) != standby


def order(node: RunningNanny, kind: str) -> None:
    from nanny.common.identifiers import uuid7

    node.request(
        "command", command_id=uuid7(1_700_000_000_000, os.urandom(10)), kind=kind, reason="test", actor="t"
    )


def test_two_that_die_quickly_and_the_next_start_is_cold() -> None:
    # Good from cold, broken when woken: what a standby must not hide.
    code = (
        PARKING.replace('log("runs"', 'was_parked = number_of_wakes()\nlog("runs"')
        .replace("def log(", "wakes = []\ndef number_of_wakes():\n    return len(wakes)\n\ndef log(", 1)
        .replace("            return\n", "            wakes.append(1)\n            return\n")
    )
    code += "if was_parked:\n    sys.exit(3)\nnotify('READY=1\\nWATCHDOG=1')\nbeat_for_ever()\n"
    with parking_node(code) as node:
        for deaths in (1, 2):
            wait_until_parked(node)
            kill(node.worker_pid)
            node.wait_for(
                lambda status: status["phase"] == "running" and status["standby"]["promoted_total"] == deaths,  # noqa: B023
                "the cold start after the quick death",
            )
        status = node.wait_for(lambda status: status["standby"]["is_cold"], "no standby any more")
        assert status["standby"]["stage"] == "none"
        assert kill_worker(node)["standby"]["promoted_total"] == 2
        node.signal_nanny(signal.SIGHUP)
        wait_until_parked(node)


def test_a_program_that_cannot_park_costs_its_worker_nothing() -> None:
    code = "if 'NANNY_STANDBY_FD' in os.environ:\n    sys.exit(78)\nnotify('READY=1\\nWATCHDOG=1')\nbeat_for_ever()\n"
    with running_nanny(code, standby="on", standby_after_s=0, standby_min_available_bytes=0) as node:
        status = node.wait_for(
            lambda status: status["phase"] == "running" and status["standby"]["failed_total"], "its end"
        )
        assert "exit code 78" in status["standby"]["why_none"]
        assert kill_worker(node)["standby"]["cold_total"] == 2


def test_the_program_in_the_documents_parks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "standby.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    code = code.replace("import everything_that_takes_time", "pass")
    with parking_node(code + "notify('READY=1\\nWATCHDOG=1')\nbeat_for_ever()\n") as node:
        standby = wait_until_parked(node)
        assert kill_worker(node)["worker"]["pid"] == standby


def test_there_is_none_where_memory_is_low() -> None:
    with parking_node(standby_min_available_bytes=1 << 60) as node:
        status = node.wait_for(lambda status: status["standby"]["why_none"] == "memory is low", "the reason")
        assert (status["standby"]["made_total"], status["phase"]) == (0, "running")


@pytest.mark.parametrize("standby", ["off", "auto"])
def test_a_program_of_others_gets_none_unless_it_is_said_to_park(standby: str) -> None:
    with parking_node(standby=standby) as node:
        first = node.wait_for_phase("running")
        assert first["standby"] is None
        assert number_of(kill_worker(node)) == number_of(first) + 1
        assert [words[0] for words in lives(node)] == ["runs", "runs"]


@pytest.mark.slow
def test_fifty_promotions_leave_nothing_behind() -> None:
    with parking_node(stable_after_s=0.05) as node:

        def owned() -> tuple[int, int, int]:
            wait_until_parked(node)
            fds = len(os.listdir(f"/proc/{node.nanny_pid}/fd"))
            return fds, len(node.pids()), sum(len(os.listdir(each)) for each in node.cgroup_dirs())

        for _ in range(3):
            wait_until_parked(node)
            kill_worker(node)
        settled = owned()
        for _ in range(PROMOTIONS):
            standby = wait_until_parked(node)
            assert kill_worker(node)["worker"]["pid"] == standby
        # The evidence of each death is still being collected; what it holds goes with it.
        wait_until(lambda: owned() <= settled, 30, f"what it had before: {settled}")
        assert len(node.sockets()) <= 3
        status = node.status()
        assert status["standby"]["promoted_total"] == PROMOTIONS + 3
        assert (status["nanny"]["errors_total"], status["nanny"]["violations_total"]) == (0, 0)


@pytest.mark.root
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_program_whose_disk_has_died_lives_on_in_its_standby(tmp_path: Path) -> None:
    """A cold start cannot even read the program."""
    from tests.support.nodes import NOTIFY_PRELUDE

    alive, link = tmp_path / "alive", tmp_path / "program"
    alive.mkdir()
    (alive / "worker.py").write_text(NOTIFY_PRELUDE + PARKING_WORKER)
    link.symlink_to(alive)
    command = [sys.executable, "-I", "-S", str(link / "worker.py")]
    with parking_node(command=command) as node:
        standby = wait_until_parked(node)
        with dead_mount(tmp_path / "dead") as dead:
            link.unlink()
            link.symlink_to(dead)
            assert kill_worker(node)["worker"]["pid"] == standby
            # The next standby meets the dead disk, and so does the cold start: the nanny waits for neither.
            before = node.status()["incarnation"]
            kill(node.worker_pid)
            status = node.wait_for(lambda status: status["incarnation"] != before, "the cold start")
            assert status["phase"] == "starting"
            assert status["nanny"]["late_s"] < 1.0
            link.unlink()
            link.symlink_to(alive)
        # The disk is back.
        node.wait_for_phase("running")


@pytest.fixture
def agent_node() -> Callable[..., Any]:
    program = shutil.which("node-agent", path=os.path.dirname(sys.executable))
    assert program is not None
    return lambda **settings: running_nanny(
        command=[program],
        standby="auto",
        standby_after_s=0.1,
        standby_min_available_bytes=0,
        standby_answer_timeout_s=20,
        environ={"AGENT_SAMPLE_INTERVAL_S": "1"},
        **settings,
    )


@pytest.mark.slow
def test_the_agent_parks_by_itself_and_takes_over_with_everything_a_worker_has(
    agent_node: Callable[..., Any],
) -> None:
    with agent_node() as node:
        for _ in range(2):
            standby = wait_until_parked(node)
            status = kill_worker(node)
            assert status["worker"]["pid"] == standby
            host, _, port = status["healthz"].rpartition(":")
            answers: list[Answer] = []

            def answers_itself(
                address: tuple[str, int] = (host, int(port)), found: list[Answer] = answers
            ) -> bool:
                with suppress(OSError, socket.timeout):
                    found.append(http_get(address, "/healthz"))
                return bool(found) and found[-1].status == 200

            wait_until(answers_itself, 20, "the promoted worker's answer")
            assert answers[-1].json["incarnation"] == status["incarnation"]
            # As a worker from cold has it: the listener at 3, the memfd for stacks at 4.
            assert os.readlink(f"/proc/{standby}/fd/3").startswith("socket:")
            assert os.readlink(f"/proc/{standby}/fd/4").startswith("/memfd:stacks")
