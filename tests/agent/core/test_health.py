"""Health: liveness is the loop's and the critical services', readiness is all else, reasons are not for strangers."""

from dataclasses import replace

import pytest

from agent.core.health import (
    HealthStatus,
    Observation,
    assess,
    checks_text,
    health_json,
    healthz_json,
    readiness,
)
from agent.vitals.snapshot import ActiveCondition, Check, Snapshot
from nanny.protocol.notify_format import ProgressAge

STARTED = Snapshot(started=True, readiness=(Check("server", passed=False, reason="10.0.0.1 refuses"),))
FRESH = ProgressAge("reconcile", 1.0, 30.0, critical=True)
OVERDUE = replace(FRESH, age_s=31.0)
FINE = Observation(STARTED, loop_lag_s=0.0, progress=(FRESH,), incarnation="e/7", pid=12, uptime_s=3.5)


@pytest.mark.parametrize(
    ("seen", "status", "http_status"),
    [
        (FINE, HealthStatus.OK, 200),
        (replace(FINE, snapshot=Snapshot()), HealthStatus.STARTING, 200),
        (replace(FINE, loop_lag_s=None), HealthStatus.OK, 200),
        (replace(FINE, loop_lag_s=30.0), HealthStatus.OK, 200),
        (replace(FINE, loop_lag_s=30.1), HealthStatus.STALLED, 503),
        (replace(FINE, snapshot=Snapshot(), loop_lag_s=30.1), HealthStatus.STALLED, 503),
        (replace(FINE, progress=(OVERDUE,)), HealthStatus.STALLED, 503),
        (replace(FINE, progress=(replace(OVERDUE, critical=False),)), HealthStatus.OK, 200),
        (
            replace(FINE, loop_lag_s=99.0, progress=(OVERDUE,), expected=(0.1, "long work")),
            HealthStatus.OK,
            200,
        ),
        (replace(FINE, loop_lag_s=99.0, expected=(0.0, "long work")), HealthStatus.STALLED, 503),
    ],
)
def test_the_verdict(seen: Observation, status: HealthStatus, http_status: int) -> None:
    health = assess(seen, stall_timeout_s=30.0)

    assert (health.status, health.http_status) == (status, http_status)


def test_conditions_and_readiness_never_decide_liveness() -> None:
    snapshot = replace(STARTED, conditions=(ActiveCondition("GpuDriverUnresponsive"),), stuck_probes=9)

    assert assess(replace(FINE, snapshot=snapshot), 30.0).status is HealthStatus.OK
    assert not snapshot.is_ready


def test_a_program_is_ready_when_started_and_all_checks_passed() -> None:
    passing = replace(STARTED, readiness=(Check("server", passed=True),))

    assert [passing.is_ready, replace(passing, started=False).is_ready, STARTED.is_ready] == [
        True,
        False,
        False,
    ]


def test_the_body_for_strangers_holds_names_and_ages_only() -> None:
    stalled = replace(FINE, loop_lag_s=41.0, stalled_at="app.main:load:12", stall_stack="load app.py:12")

    assert healthz_json(stalled, assess(stalled, 30.0), detailed=False) == {
        "status": "stalled",
        "incarnation": "e/7",
        "ready": False,
        "loop_lag_s": 41.0,
        "progress": {"reconcile": {"age_s": 1.0, "deadline_s": 30.0, "critical": True}},
        "pid": 12,
        "uptime_s": 3.5,
        "failed": ["loop"],
    }


def test_the_body_for_those_who_may_see_it_tells_where_the_loop_stands() -> None:
    stalled = replace(
        FINE, loop_lag_s=41.0, stalled_at="app.main:load:12", stall_stack="load app.py:12\nrun app.py:3"
    )

    body = healthz_json(stalled, assess(stalled, 30.0), detailed=True)

    assert body["reasons"] == ["lags 41.0 s, 30 s allowed, stands at app.main:load:12"]
    assert body["not_ready"] == {"server": "10.0.0.1 refuses"}
    assert body["stack"] == ["load app.py:12", "run app.py:3"]


@pytest.mark.parametrize(
    ("passed", "verbose", "detailed", "text"),
    [
        (True, False, False, "ok"),
        (True, True, False, "[+]a ok\nreadyz check passed\n"),
        (False, False, False, "[-]a failed: reason withheld\nreadyz check failed\n"),
        (False, True, True, "[-]a failed: why\nreadyz check failed\n"),
    ],
)
def test_checks_are_told_in_the_form_of_kubernetes(
    passed: bool, verbose: bool, detailed: bool, text: str
) -> None:
    checks = (Check("a", passed, "why"),)

    assert checks_text("readyz", checks, verbose=verbose, detailed=detailed) == text


def test_start_up_is_the_first_readiness_check() -> None:
    assert readiness(Snapshot())[0] == Check("started", passed=False, reason="starting")


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (replace(FINE, snapshot=Snapshot(started=True)), "pass"),
        (FINE, "warn"),
        (replace(FINE, progress=(OVERDUE,)), "fail"),
    ],
)
def test_the_draft_json_form_has_its_three_words(seen: Observation, word: str) -> None:
    body = health_json(seen, assess(seen, 30.0), detailed=False)

    assert body["status"] == word
    assert set(body["checks"]) == {"loop", "progress:reconcile"}  # type: ignore[call-overload]
