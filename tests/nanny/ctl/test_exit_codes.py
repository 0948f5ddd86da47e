"""Every exit code that is promised, brought about by its real cause; and what each failure says to do next."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from nanny.ctl import exit_codes
from tests.nanny.ctl.conftest import Background, Ctl, answer
from tests.support.nodes import RunningNanny, running_nanny
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]

NOBODY = 65534
AS_NOBODY = f"""
import argparse, gettext, grp, json, locale, os, pwd, socket, sys, unicodedata
from nanny import nannyctl
from nanny.ctl import arguments, evidence, explain_text, healthcheck, history, logs, looking, orders, reexec
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(nannyctl.main(sys.argv[1:]))
"""
"""All is loaded before: nobody may be unable to read where we are installed."""


def as_nobody(node: RunningNanny, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-c", AS_NOBODY, *arguments, "--runtime-dir", node.runtime_dir]
    environ = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=environ)


@pytest.mark.parametrize("verb", ["status", "explain", "restart", "healthcheck", "logs", "reexec"])
def test_2_when_there_is_no_nanny(ctl: Ctl, verb: str) -> None:
    done = ctl("/nonexistent/run", verb)
    assert done.returncode == exit_codes.UNREACHABLE
    assert "no nanny in /nonexistent/run: no such directory" in done.stderr
    assert "next: is it running" in done.stderr
    told = ctl("/nonexistent/run", verb, "--json")
    assert (answer(told)["exit_code"], told.returncode) == (2, 2)


def test_2_when_the_nanny_is_dead_or_hangs(ctl: Ctl) -> None:
    with running_nanny() as node:
        node.wait_for_phase("running")
        node.signal_nanny(signal.SIGSTOP)
        for verb in ("status", "healthcheck"):
            hung = ctl(node, verb, "--answer-timeout", "200ms")
            assert hung.returncode == exit_codes.UNREACHABLE
            assert "did not answer" in hung.stderr
        node.signal_nanny(signal.SIGCONT)
        node.kill()
        dead = ctl(node, "status")
        assert dead.returncode == exit_codes.UNREACHABLE
        assert "that nanny is dead" in dead.stderr
        assert "nannyctl history" in dead.stderr


def test_2_when_there_is_no_journal(ctl: Ctl) -> None:
    done = ctl("/nonexistent/run", "history", "--state-dir", "/nonexistent/state")
    assert done.returncode == exit_codes.UNREACHABLE
    assert "--state-dir" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("restart", "--frobnicate"),
        ("restart", "--id", "7"),
        ("restart", "--reason", ""),
        ("restart", "--reason", "two\nlines"),
        ("restart", "--reason", "x" * 501),
        ("restart", "--timeout", "soon"),
        ("hold",),
        ("hold", "--for", "0"),
        ("logs", "-n", "0"),
        ("logs", "-n", "-3"),
        ("evidence", "frobnicate"),
        ("evidence", "collect", "bundle"),
        ("status", "--answer-timeout", "-1s"),
    ],
)
def test_64_when_the_command_line_is_wrong(node: RunningNanny, ctl: Ctl, arguments: tuple[str, ...]) -> None:
    done = ctl(node, *arguments)
    assert done.returncode == exit_codes.USAGE, done
    assert "next:" in done.stderr or "usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_1_when_the_ordered_worker_does_not_become_ready(ctl: Ctl) -> None:
    with running_nanny("sys.exit(3)") as node:
        node.wait_for(lambda status: status["worker"]["failures"] > 1, "two failures")
        unhealthy = ctl(node, "healthcheck", "--answer-timeout", "5s")
        assert unhealthy.returncode == exit_codes.NO
        failed = ctl(node, "restart")
        assert failed.returncode == exit_codes.NO, failed
        assert "next: nannyctl explain" in failed.stderr
        assert " logs -n 50 " in ctl(node, "explain").stdout


def test_75_while_the_outcome_is_open_and_the_same_id_waits_on(ctl: Ctl) -> None:
    code = 'time.sleep(1.5 if os.environ["NANNY_INCARNATION"].endswith("/2") else 0)\nnotify("READY=1")\nbeat_for_ever()'
    with running_nanny(code) as node:
        node.wait_for_phase("running")
        open_ = ctl(node, "restart", "--timeout", "300ms", "--json")
        assert open_.returncode == exit_codes.AGAIN
        command_id = answer(open_)["command_id"]
        done = ctl(node, "restart", "--id", command_id)
        assert done.returncode == exit_codes.OK, done
        assert node.status()["incarnation"].endswith("/2")
        shown = ctl(node, "stop", "--timeout", "1ms")
        assert shown.returncode in {exit_codes.AGAIN, exit_codes.OK}


def test_75_when_the_nanny_is_ending(ctl: Ctl) -> None:
    code = 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnotify("READY=1")\nbeat_for_ever()'
    with running_nanny(code, stop_grace_s=3.0) as node:
        node.wait_for_phase("running")
        node.signal_nanny(signal.SIGTERM)
        node.wait_for_phase("stopping")
        deferred = ctl(node, "drain")
        assert deferred.returncode == exit_codes.AGAIN, deferred
        assert "try again" in deferred.stderr
        assert node.wait_for_exit() == 0


def test_77_for_whoever_may_not() -> None:
    with running_nanny() as node:
        node.wait_for_phase("running")
        os.chmod(node.root, 0o755)
        os.chmod(node.runtime_dir, 0o755)
        barred = as_nobody(node, "status")
        assert barred.returncode == exit_codes.NOT_PERMITTED, barred
        assert f"uid {NOBODY} may not open" in barred.stderr
        assert "next: become root" in barred.stderr
        os.chmod(node.state_dir, 0o700)
        secret = as_nobody(node, "history", "--state-dir", node.state_dir)
        assert secret.returncode == exit_codes.NOT_PERMITTED, secret
        bundles = as_nobody(node, "evidence", "--state-dir", node.state_dir)
        assert bundles.returncode == exit_codes.NOT_PERMITTED, bundles


def test_77_for_an_observer_who_orders() -> None:
    import grp
    import pwd

    user, group = pwd.getpwuid(NOBODY).pw_name, grp.getgrgid(NOBODY).gr_name
    with running_nanny(control_observers=[user], sockets_group=group) as node:
        node.wait_for_phase("running")
        os.chmod(node.root, 0o755)
        os.chmod(node.runtime_dir, 0o755)
        looking = as_nobody(node, "status")
        assert looking.returncode == exit_codes.OK, looking
        assert as_nobody(node, "healthcheck", "--answer-timeout", "5s").returncode == exit_codes.OK
        ordering = as_nobody(node, "restart")
        assert ordering.returncode == exit_codes.NOT_PERMITTED, ordering
        assert "observer may not" in ordering.stderr


def test_130_when_interrupted_and_the_order_stands(ctl_running: Background) -> None:
    code = 'time.sleep(1.5 if os.environ["NANNY_INCARNATION"].endswith("/2") else 0)\nnotify("READY=1")\nbeat_for_ever()'
    with running_nanny(code) as node:
        node.wait_for_phase("running")
        with ctl_running(node, "restart") as following:
            while "starting" not in following.read_line():
                pass
            following.send_signal(signal.SIGINT)
            assert "stands" in following.read_line()
            assert following.wait_for_exit() == exit_codes.INTERRUPTED
        node.wait_for(
            lambda status: status["phase"] == "running" and status["incarnation"].endswith("/2"),
            "the restart",
        )


def test_every_promised_code_has_a_meaning_in_the_help(ctl: Ctl, node: RunningNanny) -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert codes == set(exit_codes.MEANINGS)
    helped = ctl(node, "--help").stdout
    for code in codes:
        assert f"\n{code:>5}  " in helped


def test_a_healthcheck_loads_little(node: RunningNanny) -> None:
    script = (
        "import sys; from nanny import nannyctl; code = nannyctl.main(sys.argv[1:]); "
        "import json; print(json.dumps([code, *sys.modules]))"
    )
    argv = [
        sys.executable,
        "-c",
        script,
        "healthcheck",
        "--answer-timeout",
        "5s",
        "--runtime-dir",
        node.runtime_dir,
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    code, *loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    heavy = {
        "asyncio",
        "ssl",
        "logging",
        "subprocess",
        "dataclasses",
        "inspect",
        "tomllib",
        "hashlib",
        "uuid",
        "pwd",
    }
    assert heavy.isdisjoint(loaded)
    assert [
        name for name in loaded if name.startswith(("nanny.core", "nanny.journal", "nanny.evidence"))
    ] == []


def test_a_terminal_gets_colour_unless_it_says_no(node: RunningNanny) -> None:
    import pty

    def shown(environ: dict[str, str]) -> str:
        ours, theirs = pty.openpty()
        kept = {
            name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "CLICOLOR_FORCE"}
        }
        argv = [sys.executable, "-m", "nanny.nannyctl", "status", "--runtime-dir", node.runtime_dir]
        try:
            done = subprocess.run(
                argv,
                check=False,
                stdout=theirs,
                stderr=theirs,
                env={**kept, "TERM": "xterm", **environ},
                timeout=60,
            )
            assert done.returncode == 0
            text = b""
            os.set_blocking(ours, False)

            def read_all() -> bool:
                nonlocal text
                with suppress(BlockingIOError):
                    text += os.read(ours, 65536)
                return b"nanny  " in text

            wait_until(read_all, 10, "the status")
            return text.decode()
        finally:
            os.close(ours)
            os.close(theirs)

    assert "\x1b[32mRUNNING\x1b[0m" in shown({})
    assert "\x1b[" not in shown({"NO_COLOR": "1"})
    assert "\x1b[" not in shown({"TERM": "dumb"})
