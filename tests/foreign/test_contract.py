"""What `nanny run` promises to any program, kept to programs that nobody here wrote, as the recipes run them."""

import functools
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.dask_scheduler import dask_scheduler
from tests.support.foreign_programs import (
    GUNICORN,
    GUNICORN_WITH_VITALS,
    QUICK,
    SDNOTIFY,
    SHELL,
    START_TIMEOUT_S,
    ForeignProgram,
    are_gone,
    children,
    dask_worker,
    environment,
    kill,
    nannyctl,
    running_program,
    wait_for_beats,
    wait_for_next,
)
from tests.support.nodes import RunningNanny, running_nanny
from tests.support.processes import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]

if shutil.which("systemd-notify") is None:
    NO_SYSTEMD_NOTIFY: tuple[Any, ...] = (
        pytest.mark.skip(reason="no systemd-notify: apt-get install systemd"),
    )
else:
    NO_SYSTEMD_NOTIFY = ()
EVERY = [
    pytest.param("shell", marks=NO_SYSTEMD_NOTIFY),
    "sdnotify",
    "gunicorn",
    "gunicorn with vitals",
    "dask",
]
BEATING = [one for one in EVERY if one != "gunicorn"]


@contextmanager
def node_of(name: str) -> Iterator[tuple[RunningNanny, ForeignProgram]]:
    """A node on which the program of this name is ready."""
    programs = {one.name: one for one in (SHELL, SDNOTIFY, GUNICORN, GUNICORN_WITH_VITALS)}
    if name != "dask":
        with running_program(programs[name]) as node:
            yield node, programs[name]
        return
    with dask_scheduler() as scheduler:
        program = dask_worker(scheduler.address, "ours")
        with running_program(program) as node:
            yield node, program


@pytest.mark.parametrize("name", EVERY)
def test_a_killed_one_is_followed_twice_and_no_process_of_it_is_left(
    leaves_nothing_behind: None, name: str
) -> None:
    with node_of(name) as (node, program):
        status = node.status()
        for _ in range(2):
            if program.beats:
                wait_for_beats(node)
            before = {status["worker"]["pid"], *children(status["worker"]["pid"])}
            kill(status["worker"]["pid"])
            status = wait_for_next(node, status)
            assert status["last_restart"]["reason"] == "exited"
            assert status["worker"]["pid"] not in before
            # What it had started ended with it: the successor does not share the node with a ghost.
            wait_until(functools.partial(are_gone, node, before), 30, "the end of all that belonged to it")
        assert status["counters"]["ends_total"] == {"exited": 2}


@pytest.mark.parametrize("name", BEATING)
def test_a_stopped_one_is_found_by_its_silence_and_followed(leaves_nothing_behind: None, name: str) -> None:
    with node_of(name) as (node, program):
        status = wait_for_beats(node)
        pid = status["worker"]["pid"]
        [beater] = children(pid) if program.beater_is_child else [pid]
        kill(beater, signal.SIGSTOP)
        after = wait_for_next(node, status)
        assert after["last_restart"]["reason"] == "lost"
        assert "lost" in nannyctl(node, "explain")
        wait_for_beats(node)


@pytest.mark.parametrize("name", EVERY)
def test_nannyctl_stop_is_an_orderly_end_and_the_node_stays_down_until_start(
    leaves_nothing_behind: None, name: str
) -> None:
    with node_of(name) as (node, program):
        status = wait_for_beats(node) if program.beats else node.status()
        nannyctl(node, "stop", "--reason", "maintenance")
        down = node.wait_for_phase("down")
        assert (down["desired"]["value"], down["worker"]["pid"] or None) == ("down", None)
        assert down["last_restart"] is None or down["last_restart"]["reason"] == "stop-ordered"
        # In order: SIGTERM was enough, nothing had to be forced.
        ends = [record["status"] for record in node.journal() if record["type"] == "incarnation-ended"]
        assert ends == ["exit code 0"], node.log_tail()
        assert "maintenance" in nannyctl(node, "explain")
        nannyctl(node, "start")
        after = wait_for_next(node, status)
        assert after["desired"]["value"] == "up"


def test_a_new_nanny_adopts_it_and_hears_its_beats(leaves_nothing_behind: None) -> None:
    with running_program(SDNOTIFY) as node:
        pid = wait_for_beats(node)["worker"]["pid"]
        node.kill()
        node.start()
        # For longer than it would wait for a silent one.
        heard_from = time.monotonic()
        while time.monotonic() < heard_from + 1.5 * QUICK["heartbeat_timeout_s"]:
            status = wait_for_beats(node)
        assert (status["worker"]["pid"], status["phase"]) == (pid, "running")


@pytest.mark.skipif(bool(NO_SYSTEMD_NOTIFY), reason="no systemd-notify: apt-get install systemd")
def test_long_work_that_systemd_notify_announced_is_no_silence(leaves_nothing_behind: None) -> None:
    announce = "systemd-notify --ready; systemd-notify WATCHDOG=1 EXTEND_TIMEOUT_USEC=60000000; touch told; sleep 600"
    settings = {**QUICK, "notify_access": "all", "heartbeat_timeout_s": 1.0}
    with running_nanny(command=("sh", "-c", announce), **settings) as node:
        wait_until(Path(node.root, "told").exists, START_TIMEOUT_S, "the announcement")
        status = node.status()
        time.sleep(2.5 * settings["heartbeat_timeout_s"])
        after = node.status()
        assert (after["phase"], after["incarnation"]) == ("running", status["incarnation"])


@pytest.mark.root
@pytest.mark.parametrize(("access", "is_heard"), [("main", False), ("all", True)])
@pytest.mark.skipif(bool(NO_SYSTEMD_NOTIFY), reason="no systemd-notify: apt-get install systemd")
def test_systemd_notify_of_an_unprivileged_shell_is_heard_only_with_notify_access_all(
    leaves_nothing_behind: None, access: str, is_heard: bool
) -> None:
    # As root systemd-notify sends in its parent's name; else in its own, which is a child's.
    with running_nanny(
        command=("./loop.sh",),
        environ=environment(),
        start=False,
        **{**QUICK, "notify_access": access, "worker_user": "nobody", "start_timeout_s": 4.0},
    ) as node:
        Path(node.root).chmod(0o755)
        shutil.copy(SHELL.command[0], Path(node.root, "loop.sh"))
        node.start()
        if is_heard:
            node.wait_for_phase("running")
            wait_for_beats(node)
        else:
            status = node.wait_for(lambda status: status["last_restart"], "the end of the unheard one")
            assert status["last_restart"]["reason"] == "start-timeout"
            assert "not from the supervised process" in node.log()


def test_recipes_are_whole_programs_that_need_no_test() -> None:
    recipes = Path(SHELL.command[0]).parent
    for path in recipes.glob("*.sh"):
        subprocess.run(["sh", "-n", str(path)], check=True)
    page = (recipes.parent / "recipes.md").read_text()
    files = sorted(path.name for path in recipes.iterdir() if path.is_file())
    assert [name for name in files if name not in page] == []
