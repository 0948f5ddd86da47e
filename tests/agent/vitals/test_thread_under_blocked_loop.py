"""Answers and beats go on while the loop stands still, and say so; a real program, a real notify socket."""

import os
import socket
import time
from contextlib import ExitStack

import pytest

from nanny.protocol.stack_signal import STACK_SIGNAL, STACKS_FD_VARIABLE
from tests.support.notify_listener import notify_listener
from tests.support.processes import wait_until
from tests.support.vitals_subject import Answer, Subject, running_subject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_behind")]

QUICK = {"stall_warn_s": 0.3, "stall_timeout_s": 1.0}


def _answer_of(subject: Subject, status: int, path: str = "/healthz?verbose") -> Answer:
    answers: list[Answer] = []

    def has_status() -> bool:
        answers.append(subject.get(path))
        return answers[-1].status == status

    wait_until(has_status, 20.0, f"{path} to be {status}")
    return answers[-1]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("block", "function"),
    [
        ("sleep", "sleep"),
        ("spin", "spin"),
        ("wait_for_lock", "wait_for_lock"),
        ("log_into_full_pipe", "StreamHandler"),
    ],
)
def test_a_blocked_loop_is_told_of_and_then_forgiven(loop: str, block: str, function: str) -> None:
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address, loop=loop, settings=QUICK) as subject,
    ):
        healthy = supervisor.hear_until(lambda beat: beat.ready and (beat.loop_lag_s or 0.0) < 0.3)
        subject.order(block, 6)

        lags = [
            supervisor.hear_until(lambda beat: (beat.loop_lag_s or 0.0) > 0.4).loop_lag_s or 0.0
            for _ in range(5)
        ]
        stalled = _answer_of(subject, 503)
        livez = subject.get("/livez")
        late = supervisor.hear_until(lambda beat: beat.stall_stack)

        assert healthy.watchdog
        assert healthy.status == "up"
        assert lags == sorted(lags)
        assert late.watchdog
        assert late.stalled_at is not None
        assert function in (late.stalled_at + (late.stall_stack or ""))
        assert stalled.json["status"] == "stalled"
        assert stalled.json["failed"] == ["loop"]
        assert any(function in line for line in stalled.json["stack"])
        assert (livez.status, livez.body.split("\n")[0]) == (503, "[-]loop failed: reason withheld")
        assert subject.process.read_line(30.0) == "done"
        assert _answer_of(subject, 200).json["status"] == "ok"
        supervisor.hear_until(lambda beat: beat.loop_lag_s == 0.0 and beat.stalled_at is None)


def test_a_full_default_executor_is_no_stall() -> None:
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address, settings={"stall_timeout_s": 5.0}) as subject,
    ):
        subject.order("fill_executor", 20)
        assert subject.process.read_line() == "done"

        for _ in range(10):
            assert supervisor.hear().watchdog
        assert subject.get("/healthz").json["status"] == "ok"


def test_slow_clients_hold_up_nobody() -> None:
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address) as subject,
        ExitStack() as slow,
    ):
        for _ in range(200):
            client = slow.enter_context(socket.create_connection(subject.address, timeout=10))
            client.sendall(b"GET /healthz HT")
        subject.order("sleep", 2)

        supervisor.skip()
        for _ in range(10):
            assert subject.get("/healthz").status == 200
            supervisor.hear()
        assert 'vitals_connection_events_total{event="failed"} 0' in subject.get("/metrics").body


def test_more_slow_clients_than_places_cannot_crowd_out_a_prober() -> None:
    with running_subject(settings={"client_limit": 16}) as subject, ExitStack() as slow:
        for _ in range(64):
            client = slow.enter_context(socket.create_connection(subject.address, timeout=10))
            client.sendall(b"GET /livez HTTP/1.1\r\n")

        assert subject.get("/livez").body == "ok"
        assert 'vitals_connection_events_total{event="evicted"}' in subject.get("/metrics").body


def test_announced_work_is_no_stall_and_its_end_starts_ages_anew() -> None:
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address, settings=QUICK) as subject,
    ):
        subject.order("sleep_as_announced", 3)
        announced = supervisor.hear_until(lambda beat: (beat.loop_lag_s or 0.0) > 1.5)
        during = subject.get("/healthz?verbose")
        assert subject.process.read_line(30.0) == "done"
        after = supervisor.hear_until(lambda beat: beat.expected_until is None)

        assert announced.expected_why == "a long task"
        assert 1.0 < (announced.expected_until or 0.0) < 8.0
        assert (during.status, during.json["expected"]["why"]) == (200, "a long task")
        assert (after.loop_lag_s or 0.0) < 1.0


def test_work_announced_beyond_the_total_is_a_stall() -> None:
    with running_subject(settings=QUICK | {"expect_total_s": 0.5}) as subject:
        subject.order("sleep_as_announced", 5)

        assert _answer_of(subject, 503).json["failed"] == ["loop"]
        assert "vitals_expectations_refused_total 1" in subject.get("/metrics").body


def test_a_process_that_was_stopped_is_not_stalled_when_it_goes_on() -> None:
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address, settings=QUICK) as subject,
    ):
        supervisor.hear_until(lambda beat: beat.ready)
        subject.process.send_signal(19)
        wait_until(lambda: _state_of(subject.process.pid) == "T", 10, "the process to stop")
        supervisor.skip()
        time.sleep(3)  # the time that it is away is what the test is about
        subject.process.send_signal(18)

        beats = [supervisor.hear() for _ in range(10)]

        assert max(beat.loop_lag_s or 0.0 for beat in beats) < 2.5
        assert subject.get("/healthz").status == 200


def test_who_holds_the_interpreter_again_and_again_is_seen_to_stall() -> None:
    with running_subject(settings=QUICK | {"stall_timeout_s": 3.0}) as subject:
        subject.order("hold_gil_again_and_again", 60)

        assert _answer_of(subject, 503, "/livez").status == 503


def test_finalizers_of_other_peoples_garbage_do_not_hang_the_beats() -> None:
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address) as subject,
    ):
        supervisor.hear_until(lambda beat: beat.ready)
        subject.order("leave_garbage_that_hangs", 5)
        supervisor.hear_until(lambda beat: (beat.loop_lag_s or 0.0) > 0.5)

        for _ in range(10):
            supervisor.hear(5.0)
            assert subject.get("/metrics").status == 200


@pytest.mark.parametrize("block", ["hold_gil", "sleep", "spin"])
def test_stacks_arrive_in_the_memfd_also_while_the_interpreter_is_held(block: str) -> None:
    stacks_fd = os.memfd_create("stacks", os.MFD_CLOEXEC)
    try:
        environ = {STACKS_FD_VARIABLE: str(stacks_fd)}
        with running_subject(environ=environ, pass_fds=(stacks_fd,)) as subject, notify_listener():
            subject.order(block, 30)
            deadline = time.monotonic() + 20

            def stacks_name_the_block() -> bool:
                assert time.monotonic() < deadline
                subject.process.send_signal(STACK_SIGNAL)
                return f"in {block}\n".encode() in os.pread(stacks_fd, 1 << 20, 0)

            wait_until(stacks_name_the_block, 20.0, "the stacks")
    finally:
        os.close(stacks_fd)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_orderly_end_says_so_and_leaves_in_peace(loop: str) -> None:
    with (
        notify_listener(abstract=True) as supervisor,
        running_subject(notify_socket=supervisor.address, loop=loop) as subject,
    ):
        supervisor.hear_until(lambda beat: beat.ready)
        subject.process.send_signal(15)

        supervisor.hear_until(lambda beat: beat.stopping)
        assert subject.process.read_line() == "True"
        assert subject.process.wait_for_exit() == 0


def test_an_idle_thread_costs_next_to_nothing() -> None:
    with (
        notify_listener() as supervisor,
        running_subject(
            notify_socket=supervisor.address, environ={"NANNY_HEARTBEAT_INTERVAL_S": "2"}
        ) as subject,
    ):
        supervisor.hear_until(lambda beat: beat.ready)
        before = _cpu_s(subject)
        time.sleep(3)

        assert _cpu_s(subject) - before < 0.3


def test_under_plain_systemd_a_stall_pulls_the_watchdog() -> None:
    environ = {"WATCHDOG_USEC": "600000"}
    with (
        notify_listener() as supervisor,
        running_subject(notify_socket=supervisor.address, settings=QUICK, environ=environ) as subject,
    ):
        subject.order("sleep", 10)

        beat = supervisor.hear_until(lambda beat: beat.trigger)

        assert not beat.watchdog


def test_without_a_supervisor_it_answers_all_the_same() -> None:
    with running_subject() as subject:
        assert subject.get("/healthz").json["incarnation"] is None


def test_a_supervisor_that_is_gone_is_counted_and_its_successor_heard_again() -> None:
    with notify_listener() as supervisor, running_subject(notify_socket=supervisor.address) as subject:
        supervisor.hear_until(lambda beat: beat.ready)
        os.rename(supervisor.address, supervisor.address + "-away")
        wait_until(
            lambda: 'failed_total{error="ENOENT"}' in subject.get("/metrics").body, 10, "a failed beat"
        )
        os.rename(supervisor.address + "-away", supervisor.address)
        supervisor.skip()

        assert supervisor.hear().ready


def _state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat_file:
        return stat_file.read().rpartition(")")[2].split()[0]


def _cpu_s(subject: Subject) -> float:
    line = next(
        line
        for line in subject.get("/metrics").body.splitlines()
        if line.startswith("process_cpu_seconds_total")
    )
    return float(line.split()[1])
