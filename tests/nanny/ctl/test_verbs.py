"""Each verb as an operator uses it, against a real nanny: what it answers, what it does, how it exits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nanny.ctl.conftest import Background, Ctl, answer
from tests.support.nodes import NOTIFY_PRELUDE, RunningNanny, running_nanny
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]

ORDER_ID = "01a1fc84-de95-733c-a570-16526a3f9ecc"


def test_status_is_for_people_and_for_programs(node: RunningNanny, ctl: Ctl) -> None:
    shown = ctl(node, "status")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"● {node.node_name}  RUNNING\n")
    assert f"pid {node.worker_pid}, ready for" in shown.stdout
    assert "\x1b" not in shown.stdout
    told = answer(ctl(node, "--json", "status"))
    assert told["phase"] == "running"
    assert told["state_dir"] == node.state_dir


def test_explain_tells_the_story(node: RunningNanny, ctl: Ctl) -> None:
    shown = ctl(node, "explain")
    assert shown.returncode == 0
    assert f"{node.node_name} is RUNNING: " in shown.stdout
    assert "\nNext     " in shown.stdout
    told = answer(ctl(node, "explain", "--json"))
    assert told["phase"] == "running"
    assert isinstance(told["advice"], list)


def test_restart_ends_the_worker_and_waits_for_the_next(node: RunningNanny, ctl: Ctl) -> None:
    before = node.wait_for_phase("running")
    done = ctl(node, "restart", "--reason", "trying it")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("restart done: ")
    for word in ("accepted", "stopping", "starting", "running"):
        assert word in done.stderr
    after = node.status()
    assert after["incarnation"] != before["incarnation"]
    assert after["last_restart"]["detail"].endswith("trying it")
    assert f"(uid {os.geteuid()})" in after["last_restart"]["detail"]


def test_the_same_order_twice_has_one_effect_and_one_outcome(node: RunningNanny, ctl: Ctl) -> None:
    first = answer(ctl(node, "restart", "--id", ORDER_ID, "--json"))
    incarnation = node.status()["incarnation"]
    second = answer(ctl(node, "restart", "--id", ORDER_ID, "--json"))
    assert (first["outcome"], second["outcome"]) == ("done", "done")
    assert node.status()["incarnation"] == incarnation


def test_a_restart_can_be_aimed(node: RunningNanny, ctl: Ctl) -> None:
    current = node.wait_for_phase("running")["incarnation"]
    epoch, _, number = current.rpartition("/")
    never_was = ctl(node, "restart", "--target", f"{epoch}/{int(number) + 50}")
    assert never_was.returncode == 1
    assert "restart rejected: aimed at" in never_was.stdout
    assert ctl(node, "restart", "--target", number).returncode == 0
    outlived = answer(ctl(node, "restart", "--target", current, "--json"))
    assert outlived["outcome"] == "already-satisfied"
    assert ctl(node, "restart", "--target", "any").returncode == 0
    assert ctl(node, "restart", "--target", "latest").returncode == 64


def test_stop_stays_and_is_shown_everywhere_until_start(node: RunningNanny, ctl: Ctl) -> None:
    assert ctl(node, "stop", "--reason", "bad DIMM").returncode == 0
    try:
        assert "stop already-satisfied: stopped by" in ctl(node, "stop").stdout
        for verb in ("status", "explain"):
            shown = ctl(node, verb).stdout
            assert "DOWN" in shown
            assert "STOPPED by" in shown
            assert "bad DIMM" in shown
        unhealthy = ctl(node, "healthcheck", "--answer-timeout", "5s")
        assert unhealthy.returncode == 1
        assert unhealthy.stdout.startswith("unhealthy: down, stopped by ")
        rejected = ctl(node, "restart")
        assert rejected.returncode == 1
        assert "order start instead" in rejected.stdout
        assert "DOWN by" in ctl(node, "history").stdout
    finally:
        started = ctl(node, "start", "--reason", "DIMM changed")
    assert started.returncode == 0
    assert started.stdout.startswith("start done: ")
    assert ctl(node, "start").returncode == 0


def test_drain_and_undrain(node: RunningNanny, ctl: Ctl) -> None:
    assert ctl(node, "drain", "--reason", "rack move").returncode == 0
    assert "[draining]" in ctl(node, "status").stdout
    assert ctl(node, "healthcheck", "--answer-timeout", "5s").returncode == 0
    strict = ctl(node, "healthcheck", "--answer-timeout", "5s", "--fail-when-draining")
    assert strict.returncode == 1
    assert strict.stdout.startswith("unhealthy: running, draining")
    assert ctl(node, "undrain").returncode == 0
    assert "already-satisfied" in ctl(node, "undrain").stdout


def test_hold_and_release(node: RunningNanny, ctl: Ctl) -> None:
    assert ctl(node, "hold", "--for", "30m", "--reason", "gdb").returncode == 0
    hold = node.status()["hold"]
    assert 1700 < hold["remaining_s"] <= 1800
    assert "by root" in ctl(node, "explain").stdout or os.geteuid() != 0
    assert ctl(node, "release").returncode == 0
    assert node.status()["hold"] is None
    too_long = ctl(node, "hold", "--for", "25h")
    assert too_long.returncode == 1
    assert ctl(node, "hold").returncode == 64


@pytest.mark.parametrize("verb", ["clear", "reload"])
def test_clear_and_reload_have_outcomes(node: RunningNanny, ctl: Ctl, verb: str) -> None:
    done = answer(ctl(node, verb, "--json"))
    assert (done["kind"], done["outcome"]) == (verb, "done")


def test_no_wait_is_content_with_acceptance(node: RunningNanny, ctl: Ctl) -> None:
    done = answer(ctl(node, "clear", "--no-wait", "--json", "--id", "01a1fc84-de95-733c-a570-0000000000aa"))
    assert done["command_id"] == "01a1fc84-de95-733c-a570-0000000000aa"
    assert done.get("state") == "accepted" or done.get("outcome") == "done"


def test_logs_are_the_last_lines_and_can_be_followed(
    node: RunningNanny, ctl: Ctl, ctl_running: Background
) -> None:
    assert ctl(node, "logs", "-n", "1").stdout.startswith("hello from ")
    with ctl_running(node, "logs", "-f", "-n", "1") as following:
        first = following.read_line()
        assert ctl(node, "restart").returncode == 0
        fresh = following.read_line()
        assert fresh.startswith("hello from ")
        assert fresh != first
        following.send_signal(signal.SIGINT)
        assert following.wait_for_exit() == 0


def test_evidence_is_collected_listed_and_shown(node: RunningNanny, ctl: Ctl) -> None:
    done = answer(ctl(node, "evidence", "collect", "--reason", "a look", "--json"))
    assert done["outcome"] == "done", done
    name = done["detail"]
    assert name in [one["name"] for one in answer(ctl(node, "evidence", "--json"))]
    assert name in ctl(node, "evidence", "list").stdout
    for chosen in ("latest", name, name[:22]):
        shown = ctl(node, "evidence", "show", chosen)
        assert shown.returncode == 0, shown.stderr
        assert name in shown.stdout
        assert "summary.txt" in shown.stdout
    reason = ctl(node, "evidence", "show", name, "reason.json")
    assert json.loads(reason.stdout)["bundle"] == name
    for bundle, file in (
        ("nothing", None),
        ("latest", "../reason.json"),
        ("latest", "missing"),
        ("../..", None),
    ):
        refused = ctl(node, "evidence", "show", bundle, *([] if file is None else [file]))
        assert refused.returncode == 1, (bundle, file, refused)
        assert "next: nannyctl evidence" in refused.stderr


def test_history_is_a_story_with_and_without_a_nanny(ctl: Ctl, ctl_running: Background) -> None:
    with running_nanny() as node:
        node.wait_for_phase("running")
        with ctl_running(node, "history", "-f") as following:
            assert "started     worker" in following.read_line()
            assert "ready       worker" in following.read_line()
            assert ctl(node, "drain", "--reason", "rack move").returncode == 0
            assert "ordered     drain by" in following.read_line()
            following.send_signal(signal.SIGINT)
            assert following.wait_for_exit() == 0
        node.stop()
        dead = ctl(node, "history", "--state-dir", node.state_dir, "-n", "3")
        assert dead.returncode == 0
        lines = dead.stdout.splitlines()
        assert len(lines) == 3
        assert "ended       worker" in lines[-1]
        records = [json.loads(one) for one in ctl(
            node, "history", "--json", "--all", environ={"NANNY_STATE_DIR": node.state_dir}
        ).stdout.splitlines()]  # fmt: skip
        assert records == node.journal()
        assert ctl(node, "history", "--state-dir", node.state_dir, "--since", "2h").stdout.count("\n") == len(
            [one for one in records if one["type"] not in {"epoch-minted", "numbers-reserved"}]
        )
        assert ctl(node, "history", "--state-dir", node.state_dir, "--since", "2100-01-01").stdout == ""
        assert ctl(node, "history", "--state-dir", node.state_dir, "--since", "soon").returncode == 64


@pytest.mark.parametrize(("arguments", "code"), [(("history",), 0), (("restart", "--target", "999999"), 1)])
def test_a_reader_who_has_enough_ends_it_quietly(
    node: RunningNanny, arguments: tuple[str, ...], code: int
) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    argv = [sys.executable, "-m", "nanny.nannyctl", *arguments, "--runtime-dir", node.runtime_dir]
    try:
        done = subprocess.run(
            argv, check=False, stdout=write_fd, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(write_fd)
    assert (done.returncode, done.stderr) == (code, "")


def test_reexec_upgrades_in_place_and_proves_it(node: RunningNanny, ctl: Ctl) -> None:
    node.wait_for_phase("running")
    worker_pid, before = node.worker_pid, node.status()["nanny"]["reexecuted"]
    told = answer(ctl(node, "reexec", "--json"))
    assert told["problems"] == []
    assert told["before"]["nanny"]["pid"] == told["after"]["nanny"]["pid"] == node.nanny_pid
    assert told["after"]["nanny"]["reexecuted"] == before + 1
    assert told["after"]["worker"]["pid"] == worker_pid
    shown = ctl(node, "reexec")
    assert shown.returncode == 0
    assert "upgraded in place" in shown.stdout


def test_watching_goes_on_over_an_upgrade(node: RunningNanny, ctl: Ctl, ctl_running: Background) -> None:
    with ctl_running(node, "status", "--watch", "--json", "--interval", "100ms") as watching:
        before = json.loads(watching.read_line())["nanny"]["reexecuted"]
        assert ctl(node, "reexec").returncode == 0
        wait_until(
            lambda: json.loads(watching.read_line())["nanny"]["reexecuted"] == before + 1, 20, "the upgrade"
        )
        watching.send_signal(signal.SIGINT)
        assert watching.wait_for_exit() == 0


def test_watching_without_a_terminal_writes_blocks(node: RunningNanny, ctl_running: Background) -> None:
    with ctl_running(node, "status", "-w", "--interval", "100ms") as watching:
        heads = 0
        while heads < 2:
            heads += watching.read_line().startswith(f"● {node.node_name}  RUNNING")
        watching.send_signal(signal.SIGINT)
        assert watching.wait_for_exit() == 0


def test_check_config_is_the_nannys_own(node: RunningNanny, ctl: Ctl, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("stop_grace_s = 5\n")
    bad.write_text("stop_grace_s = 'soon'\n")
    assert ctl(node, "check-config", "--config", str(good)).returncode == 0
    refused = ctl(node, "check-config", "--config", str(bad))
    assert refused.returncode == 78
    assert "stop_grace_s" in refused.stderr
    shown = ctl(node, "check-config", "--config", str(good), "--origins")
    assert node.runtime_dir in shown.stdout
    unknown = ctl(node, "check-config", "--frobnicate")
    assert unknown.returncode == 78
    assert "--frobnicate" in unknown.stderr


def test_an_order_outlives_the_nanny_that_took_it(ctl_running: Background) -> None:
    code = 'time.sleep(1.0)\nnotify("READY=1")\nbeat_for_ever()\n'
    with running_nanny(code) as node:
        node.wait_for_phase("running")
        with ctl_running(node, "restart", "--reason", "through a crash") as following:
            while "starting" not in following.read_line():
                pass
            node.kill()
            assert "away" in following.read_line()
            node.start()
            while not (line := following.read_line(30.0)).startswith("restart"):
                pass
            assert line.startswith("restart done: ")
            assert following.wait_for_exit() == 0
        kinds = [record["type"] for record in node.journal()]
        assert kinds.count("incarnation-ready") == 2
        assert kinds.count("command-accepted") == kinds.count("command-finished") == 1


def test_the_advised_commands_are_understood(node: RunningNanny, ctl: Ctl) -> None:
    import shlex

    from nanny.core.state import ConditionType, Phase
    from nanny.ctl.arguments import parse
    from nanny.ctl.explain_text import advice_for

    conditions = [{"type": str(type_)} for type_ in ConditionType]
    for phase in Phase:
        status = {"phase": str(phase), "conditions": conditions, "hold": {"by": "x"}, "draining": True}
        for one in advice_for(status, "a-bundle", f"--runtime-dir {node.runtime_dir}"):
            words = shlex.split(one.command)
            if words[0] == "nannyctl":
                assert parse(words[1:]).verb in words


def test_the_prelude_of_workers_is_python() -> None:
    compile(NOTIFY_PRELUDE, "prelude", "exec")
