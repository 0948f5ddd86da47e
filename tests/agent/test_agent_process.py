"""The worker as a process: alone, under a supervisor, broken on purpose, ended in every way."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from nanny.protocol.notify_format import Beat
from tests.support.agent_process import Agent, listening, running_agent
from tests.support.notify_listener import NotifyListener, notify_listener
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_behind")]

LIFE = "01900000-0000-7000-8000-000000000001/7"


_IMPORTS_SLOWLY = """
import builtins, os, sys, time
listener = int(sys.argv.pop(1))
os.dup2(listener, 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "healthz"}
import_ = builtins.__import__
def slow_import(name, *rest):
    if name == "aiohttp":
        builtins.__import__ = import_
        time.sleep(30)
    return import_(name, *rest)
builtins.__import__ = slow_import
from agent.cli import main
sys.exit(main())
"""
_HANGS_AT_ITS_END = """
import sys, time
from agent.vitals import thread
thread.Vitals.stop = lambda self: time.sleep(60)
del sys.argv[1]
from agent.cli import main
sys.exit(main())
"""
_HAS_NO_UVLOOP = """
import sys
sys.modules["uvloop"] = None
del sys.argv[1]
from agent.cli import main
sys.exit(main())
"""


def nanny_environ(supervisor: NotifyListener) -> dict[str, str]:
    return {
        "NOTIFY_SOCKET": supervisor.address,
        "WATCHDOG_USEC": "6000000",
        "NANNY_HEARTBEAT_INTERVAL_S": "0.1",
        "NANNY_INCARNATION": LIFE,
        "NANNY_NODE_NAME": "node-of-the-nanny",
    }


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_alone_it_answers_and_ends_in_order_on_sigterm() -> None:
    with running_agent() as agent:
        ready = agent.answers("/readyz", 200)
        healthz = agent.get("/healthz").json
        metrics = agent.get("/metrics").body
        helpers = agent.children()
        agent.process.send_signal(signal.SIGTERM)
        status = agent.process.wait_for_exit(20.0)

        assert ready.body == "ok"
        assert (healthz["status"], healthz["incarnation"]) == ("ok", None)
        assert "nodenanny_host_memory_total_bytes" in metrics
        assert 'nodenanny_service_failures_total{service="telemetry"} 0' in metrics
        assert helpers
        assert status == 0
        wait_until(lambda: all(map(is_gone, helpers)), 10.0, "the helpers to be gone")
        assert [line["event"] for line in agent.log()][-2:] == [
            "the agent is stopping",
            "the agent has ended in order",
        ]
        assert not (agent.folder / "faults").exists()


def test_a_node_without_gpus_has_no_gpu_columns_and_no_errors() -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a GPU driver")
    with running_agent() as agent:
        agent.answers("/readyz", 200)

        assert "gpu" not in agent.get("/metrics").body
        assert not [
            line
            for line in agent.log()
            if line.get("level") in {"warning", "error"} and "fault" not in str(line)
        ]


def test_the_supervisor_hears_ready_once_the_services_run_and_stopping_at_the_end() -> None:
    with notify_listener() as supervisor, running_agent(environ=nanny_environ(supervisor)) as agent:
        first = supervisor.hear_until(lambda _: True)
        ready = supervisor.hear_until(lambda beat: beat.ready)
        running = supervisor.hear_until(lambda beat: beat.progress)
        agent.answers("/readyz", 200)
        agent.process.send_signal(signal.SIGTERM)
        stopping = supervisor.hear_until(lambda beat: beat.stopping)

        assert agent.process.wait_for_exit(20.0) == 0
        assert not first.ready
        assert ready.loop_lag_s is not None
        assert {point.name: point.critical for point in running.progress} == {
            "telemetry": True,
            "reports": True,
        }
        assert stopping.watchdog
        assert agent.logged("the agent runs")["node"] == "node-of-the-nanny"
        assert agent.logged("the agent runs")["incarnation"] == LIFE


def test_ready_does_not_wait_for_a_server_that_is_not_there() -> None:
    with (
        notify_listener() as supervisor,
        listening() as nobody,
        running_agent(
            environ=nanny_environ(supervisor), server_url=f"http://127.0.0.1:{nobody.getsockname()[1]}"
        ) as agent,
    ):
        supervisor.hear_until(lambda beat: beat.ready)

        not_ready = agent.answers("/readyz?verbose", 503)
        healthz = agent.get("/healthz")
        assert "[-]registered failed: not registered with the server" in not_ready.body
        assert (healthz.status, healthz.json["status"]) == (200, "ok")


def test_answers_come_before_the_heavy_imports_where_the_socket_was_passed() -> None:
    with listening() as listener, running_agent(listener=listener, program=_IMPORTS_SLOWLY) as agent:
        healthz = agent.answers("/healthz?verbose", 200).json

        assert healthz["status"] == "starting"
        wait_until(lambda: agent.get("/healthz?verbose").json["expected"], 20, "the imports to be announced")
        assert agent.answers("/readyz", 503).status == 503


@pytest.mark.parametrize("fault", ["block 5", "spin 5"])
def test_a_loop_that_stands_still_is_told_with_its_lag(fault: str) -> None:
    with (
        notify_listener() as supervisor,
        running_agent(environ=nanny_environ(supervisor), stall_warn_s=0.3, stall_timeout_s=1.0) as agent,
    ):
        supervisor.hear_until(lambda beat: beat.ready)
        agent.order(fault)

        def tells_lag(beat: Beat) -> bool:
            return (beat.loop_lag_s or 0.0) > 0.5

        late = supervisor.hear_until(tells_lag)
        assert agent.answers("/healthz", 503).json["status"] == "stalled"
        assert "fault_injection" in (supervisor.hear_until(lambda beat: beat.stalled_at).stalled_at or "")
        supervisor.hear_until(lambda beat: beat.loop_lag_s == 0.0)
        assert late.watchdog
        assert agent.answers("/healthz", 200).json["status"] == "ok"


def test_a_held_interpreter_is_silent_and_then_goes_on() -> None:
    with notify_listener() as supervisor, running_agent(environ=nanny_environ(supervisor)) as agent:
        supervisor.hear_until(lambda beat: beat.ready)
        agent.order("gil 3")
        agent.logged("breaking on purpose")
        supervisor.hear_until(
            lambda beat: (beat.sent_at_s or 0.0) - (supervisor.beats[-2].sent_at_s or 0.0) > 2.0
        )

        assert agent.answers("/healthz", 200).json["status"] == "ok"


def test_a_full_default_executor_holds_up_neither_health_nor_reports_nor_the_end() -> None:
    with notify_listener() as supervisor, running_agent(environ=nanny_environ(supervisor)) as agent:
        agent.answers("/readyz", 200)
        agent.order("executor 60")
        agent.logged("breaking on purpose")
        samples = agent.get("/metrics").body.split("nodenanny_samples_total ")[-1].split("\n")[0]
        wait_until(
            lambda: f"nodenanny_samples_total {int(samples) + 2}\n" in agent.get("/metrics").body,
            20,
            "samples",
        )
        agent.process.send_signal(signal.SIGTERM)

        assert agent.process.wait_for_exit(20.0) == 0


def test_exits_on_order_have_the_status_that_was_asked_for() -> None:
    with running_agent() as agent:
        agent.answers("/readyz", 200)
        agent.order("exit 3")

        assert agent.process.wait_for_exit(20.0) == 3


def test_a_worker_that_says_stopping_and_exits_0_can_be_had() -> None:
    with notify_listener() as supervisor, running_agent(environ=nanny_environ(supervisor)) as agent:
        supervisor.hear_until(lambda beat: beat.ready)
        agent.order("stopping-exit-0")

        assert supervisor.hear_until(lambda beat: beat.stopping).watchdog
        assert agent.process.wait_for_exit(20.0) == 0


def test_a_leak_shows_and_orders_that_are_none_are_refused() -> None:
    with running_agent() as agent:
        agent.answers("/readyz", 200)
        for order in ("", "dance", "block x", "block -1", "block 1e9", "x" * 5000, "leak 64"):
            agent.order(order)
        agent.logged("breaking on purpose")
        agent.logged("no such fault", times=6)

        def resident_bytes() -> int:
            return int(agent.get("/metrics").body.split("process_resident_memory_bytes ")[-1].split("\n")[0])

        wait_until(lambda: resident_bytes() > 100 << 20, 20.0, "the leak to show")


def test_faults_are_not_injected_beyond_loopback() -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        with running_agent(listener=listener) as agent:
            agent.logged("faults are not injected: the health endpoints listen beyond loopback")
            assert not (agent.folder / "faults").exists()


def test_sigterm_waits_for_a_blocked_loop_as_the_ladder_assumes() -> None:
    with running_agent() as agent:
        agent.answers("/readyz", 200)
        agent.order("block 3")
        agent.logged("breaking on purpose")
        agent.process.send_signal(signal.SIGTERM)
        with pytest.raises(AssertionError, match="still runs"):
            agent.process.wait_for_exit(0.5)

        assert agent.process.wait_for_exit(20.0) == 0


@pytest.mark.parametrize(("stop_timeout_s", "second", "status"), [(60, "SIGTERM", -15), (0.5, "", -14)])
def test_an_end_that_hangs_is_ended_by_a_second_signal_or_by_the_timer(
    stop_timeout_s: float, second: str, status: int
) -> None:
    with running_agent(program=_HANGS_AT_ITS_END, stop_timeout_s=stop_timeout_s) as agent:
        agent.answers("/readyz", 200)
        agent.process.send_signal(signal.SIGTERM)
        agent.logged("the agent has ended in order")
        if second:
            agent.process.send_signal(signal.Signals[second])

        assert agent.process.wait_for_exit(20.0) == status


def test_a_worker_that_ignores_sigterm_can_be_had() -> None:
    with running_agent() as agent:
        agent.answers("/readyz", 200)
        agent.order("ignore-term")
        agent.logged("breaking on purpose")
        agent.process.send_signal(signal.SIGTERM)
        with pytest.raises(AssertionError, match="still runs"):
            agent.process.wait_for_exit(0.5)
        assert agent.get("/livez").status == 200


def test_a_log_that_nobody_reads_holds_up_neither_the_work_nor_the_end() -> None:
    read_fd, write_fd = os.pipe()
    try:
        os.set_blocking(write_fd, False)
        try:
            while True:
                os.write(write_fd, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(write_fd, True)
        with running_agent(stderr=write_fd) as agent:
            agent.answers("/readyz", 200)
            agent.process.send_signal(signal.SIGTERM)

            assert agent.process.wait_for_exit(20.0) == 0
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_without_its_nanny_it_goes_on_and_says_so() -> None:
    with notify_listener() as supervisor:
        environ = nanny_environ(supervisor)
        with running_agent(environ=environ) as agent:
            agent.answers("/readyz", 200)
            Path(supervisor.address).unlink()

            wait_until(lambda: "NannyGone" in agent.get("/healthz?verbose").body, 30.0, "the condition")
            assert agent.get("/healthz").status == 200
            assert agent.logged("condition changed")["type"] == "NannyGone"


def test_an_orphan_ends_where_that_is_configured() -> None:
    with notify_listener() as supervisor:
        environ = nanny_environ(supervisor)
        with running_agent(environ=environ, orphan_timeout_s=1) as agent:
            agent.answers("/readyz", 200)
            Path(supervisor.address).unlink()

            assert agent.process.wait_for_exit(30.0) == 0
            assert agent.logged("the agent is stopping")["why"] == "orphaned"


def test_its_helpers_end_with_it_however_it_ends() -> None:
    with running_agent() as agent:
        agent.answers("/readyz", 200)
        helpers = agent.children()
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait_for_exit()

        wait_until(lambda: all(map(is_gone, helpers)), 20.0, "the helpers to be gone")


def test_it_needs_neither_supervisor_nor_port() -> None:
    with running_agent(port=None) as agent:
        assert agent.logged("the agent runs")["health"] is None
        agent.process.send_signal(signal.SIGINT)

        assert agent.process.wait_for_exit(20.0) == 0


def test_without_uvloop_it_runs_on_asyncio() -> None:
    with running_agent(program=_HAS_NO_UVLOOP) as agent:
        agent.answers("/readyz", 200)
        agent.process.send_signal(signal.SIGTERM)

        assert agent.process.wait_for_exit(20.0) == 0


def test_a_hangup_changes_nothing() -> None:
    with running_agent() as agent:
        agent.answers("/readyz", 200)
        agent.process.send_signal(signal.SIGHUP)

        agent.logged("SIGHUP: no setting of the agent can change while it runs; restart it")
        assert agent.get("/livez").status == 200


def _exit_of(agent: Agent) -> tuple[int, str]:
    status = agent.process.wait_for_exit(30.0)
    return status, (agent.folder / "log").read_text()


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with listening() as taken, running_agent(port=taken.getsockname()[1]) as agent:
        status, said = _exit_of(agent)

        assert status == 1
        assert said == (
            f"node-agent: cannot listen on 127.0.0.1 port {taken.getsockname()[1]}: Address already in use; "
            "--port 0 takes a free one\n"
        )


def test_settings_that_cannot_be_used_end_it_with_the_remedy() -> None:
    with running_agent(environ={"AGENT_STALL_TIMOUT_S": "3"}) as agent:
        status, said = _exit_of(agent)

        assert status == 78
        assert "AGENT_STALL_TIMEOUT_S?" in said


def test_certificates_that_are_not_there_are_one_clear_line() -> None:
    with running_agent(server_url="https://127.0.0.1:1", server_ca_file="/nowhere.pem") as agent:
        status, said = _exit_of(agent)

        assert status == 1
        assert said.startswith("node-agent: cannot start: ")
        assert "/nowhere.pem" in said


def test_a_plugin_that_is_not_there_is_said_and_gone_without() -> None:
    with running_agent(words=("--plugins", "nowhere")) as agent:
        agent.answers("/readyz", 200)

        assert "nowhere" in str(agent.logged("plugin cannot be used"))
        wait_until(lambda: "nodenanny_plugins_failed 1" in agent.get("/metrics").body, 20.0, "the count")


def test_a_process_that_was_stopped_goes_on_as_if_nothing_had_been() -> None:
    with (
        notify_listener() as supervisor,
        running_agent(environ=nanny_environ(supervisor), stall_warn_s=0.3, stall_timeout_s=1.0) as agent,
    ):
        agent.answers("/readyz", 200)
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # the time that it is away is what the test is about
        supervisor.skip()
        agent.process.send_signal(signal.SIGCONT)

        assert all(supervisor.hear().watchdog for _ in range(5))
        assert agent.answers("/healthz", 200).json["status"] == "ok"
