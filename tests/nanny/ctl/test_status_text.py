"""The status as text: golden, from a status in trouble, and total over statuses that lack anything."""

from typing import Any

import pytest

from nanny.ctl.explain_text import advice_for, advice_lines, evidence_lines, story_lines
from nanny.ctl.status_text import short, status_lines
from nanny.ctl.terminal import PLAIN, Paint

NOON = 1777636800.0
EPOCH = "01a1fc84-ddba-7c97-bb1e-c7c9a9f1af77"

TROUBLED: dict[str, Any] = {
    "node_name": "gpu-7",
    "phase": "degraded",
    "because": [
        f"{EPOCH}/7 lives but is in trouble: its loop lags by 12.0 s",
        "NodeStarved: the CPU is taken (for 30 s)",
        "involuntary kills are held by alice for another 600 s: gdb",
        "draining: no new work is wanted here",
        f"last restart 90 s ago, of {EPOCH}/6: stalled, loop lag 31 s",
    ],
    "next_step": "look again",
    "next_step_in_s": 18.0,
    "desired": {"value": "up", "by": "bob (uid 1000)", "reason": "after maintenance", "age_s": 7200.0},
    "draining": True,
    "hold": {"by": "alice", "reason": "gdb", "remaining_s": 600.0},
    "incarnation": f"{EPOCH}/7",
    "worker": {
        "stage": "ready",
        "pid": 4711,
        "age_s": 88.0,
        "beat_age_s": 0.4,
        "loop_lag_s": 12.0,
        "overdue": ["reports"],
        "stalled_at": "agent.telemetry:read",
        "failures": 2,
    },
    "last_restart": {"reason": "stalled", "detail": "loop lag 31 s", "age_s": 90.0, "before": f"{EPOCH}/6"},
    "link": {"stage": "ready", "pid": 4712, "failures": 0},
    "fenced": [f"{EPOCH}/5"],
    "journal_degraded": True,
    "conditions": [
        {"type": "NodeStarved", "status": "True", "reason": "Starved", "message": "the CPU is taken", "age_s": 30.0}
    ],
    "pending_commands": [{"id": "01a1fc84-de95-733c-a570-16526a3f9ecc", "kind": "restart", "actor": "carol"}],
    "healthz": "0.0.0.0:9000",
    "stall_stack": 'File "read.py", line 3 in read\nFile "loop.py", line 9 in run\n',
    "nanny": {"version": "0.1.0", "pid": 99, "age_s": 100000.0, "reexecuted": 2},
}  # fmt: skip

STOPPED: dict[str, Any] = {
    **TROUBLED,
    "phase": "down",
    "because": ["stopped by bob (uid 1000) 7200 s ago: bad DIMM"],
    "next_step": "nothing until somebody orders start: nannyctl start",
    "next_step_in_s": None,
    "desired": {"value": "down", "by": "bob (uid 1000)", "reason": "bad DIMM", "age_s": 7200.0},
    "draining": False,
    "hold": None,
    "worker": {"stage": "absent", "pid": 0, "age_s": 7190.0, "beat_age_s": None, "loop_lag_s": 0.0, "failures": 0},
    "last_restart": None,
    "link": {"stage": "absent", "pid": 0, "failures": 0},
    "fenced": [],
    "journal_degraded": False,
    "conditions": [],
    "pending_commands": [],
    "stall_stack": "",
}  # fmt: skip


def test_a_node_in_trouble_tells_all_of_it() -> None:
    assert (
        "\n".join(status_lines(TROUBLED, PLAIN, NOON))
        == f"""\
● gpu-7  DEGRADED  [draining]  [kills held]  [journal degraded]
  because      {EPOCH}/7 lives but is in trouble: its loop lags by 12.0 s
  next         look again, in 18 s
  desired      up, set by bob (uid 1000) 2 h ago, at 2026-05-01 10:00:00Z: after maintenance
  incarnation  {EPOCH}/7
  worker       pid 4711, ready for 1 min 28 s, last beat 400 ms ago, loop lag 12 s, overdue: reports, in agent.telemetry:read, 2 failures in a row
  last restart stalled 1 min 30 s ago, at 2026-05-01 11:58:30Z: loop lag 31 s (of …af77/6)
  hold         no involuntary kill for another 10 min, by alice: gdb
  draining     no new work is wanted here (nannyctl undrain)
  link         ready, pid 4712
  fenced       {EPOCH}/5
  pending      restart by carol  01a1fc84-de95-733c-a570-16526a3f9ecc
  healthz      0.0.0.0:9000
  nanny        0.1.0, pid 99, up 1 d 3 h, executed anew 2 times
  CONDITION    REASON   FOR   MESSAGE
  NodeStarved  Starved  30 s  the CPU is taken"""
    )


def test_a_stopped_node_says_so_with_who_and_when() -> None:
    assert (
        "\n".join(status_lines(STOPPED, PLAIN, NOON))
        == f"""\
● gpu-7  DOWN  [stopped by order]
  because      stopped by bob (uid 1000) 7200 s ago: bad DIMM
  next         nothing until somebody orders start: nannyctl start
  desired      down, STOPPED by bob (uid 1000) 2 h ago, at 2026-05-01 10:00:00Z: bad DIMM
  incarnation  {EPOCH}/7
  worker       none
  last restart none since this nanny started
  link         no child of the nanny (off, or a unit of its own)
  healthz      0.0.0.0:9000
  nanny        0.1.0, pid 99, up 1 d 3 h, executed anew 2 times"""
    )


def test_the_story_says_each_thing_once() -> None:
    assert (
        "\n".join(story_lines(TROUBLED, PLAIN, NOON))
        == f"""\
gpu-7 is DEGRADED: {EPOCH}/7 lives but is in trouble: its loop lags by 12.0 s
  - draining: no new work is wanted here

Next     look again, in 18 s
Wanted   up, set by bob (uid 1000) 2 h ago, at 2026-05-01 10:00:00Z: after maintenance
Before   stalled 1 min 30 s ago, at 2026-05-01 11:58:30Z: loop lag 31 s (of …af77/6)
Held     no involuntary kill for another 10 min, by alice: gdb

  CONDITION    REASON   FOR   MESSAGE
  NodeStarved  Starved  30 s  the CPU is taken

The loop stands in
    File "read.py", line 3 in read
    File "loop.py", line 9 in run"""
    )


def test_advice_is_whole_commands_that_reach_the_same_node() -> None:
    advice = advice_for(STOPPED, "20260501T115830.000000Z-6-stalled", "--runtime-dir /run/n")
    assert advice_lines(advice, PLAIN) == [
        "You could",
        '  nannyctl --runtime-dir /run/n start --reason "…"  have the worker up again; it stays down until then',
    ]
    assert [one.command.partition(" ")[0] for one in advice_for(TROUBLED, None)] == [
        "nannyctl", "nannyctl", "nannyctl", "head", "nannyctl", "nannyctl",
    ]  # fmt: skip


def test_where_nothing_is_wrong_nothing_is_advised() -> None:
    healthy = {"phase": "running", "worker": {"stage": "ready", "failures": 0}}
    assert advice_lines(advice_for(healthy, None), PLAIN) == ["Do       nothing: all is well"]


@pytest.mark.parametrize("phase", ["down", "starting", "degraded", "stopping", "backoff", "failed"])
def test_every_phase_that_is_not_well_has_advice(phase: str) -> None:
    assert advice_for({"phase": phase}, None)


def test_every_condition_of_the_nanny_has_advice_or_a_reason_for_none() -> None:
    from nanny.core.state import ConditionType

    # Their phase's advice says it all: the ladder of retries, and the hold.
    said_by_phase = {"CrashLooping", "KillsHeld"}
    without = {
        str(type_)
        for type_ in ConditionType
        if not advice_for({"phase": "running", "conditions": [{"type": str(type_)}]}, None)
    }
    assert without <= said_by_phase


def test_evidence_is_listed_newest_first_and_three_at_most() -> None:
    bundles = [
        {"name": f"b{i}", "reason": "stalled", "stalled_at": "m:f" if i == 0 else ""} for i in range(5)
    ]
    assert evidence_lines(bundles, PLAIN) == [
        "Evidence",
        "  b0  stalled at m:f",
        "  b1  stalled",
        "  b2  stalled",
    ]


@pytest.mark.parametrize("missing", [*TROUBLED, None])
def test_a_field_that_another_version_lacks_is_no_error(missing: str | None) -> None:
    status = {} if missing is None else {key: value for key, value in TROUBLED.items() if key != missing}
    lines = [*status_lines(status, PLAIN, NOON), *story_lines(status, PLAIN, NOON)]
    advice_for(status, None)
    assert all("\n" not in line for line in lines)


def test_what_a_worker_wrote_does_not_steer_the_terminal() -> None:
    status = {**TROUBLED, "because": ["\x1b[2Jgone\rX"], "node_name": "a\x07b"}
    text = "\n".join([*status_lines(status, PLAIN, NOON), *story_lines(status, PLAIN, NOON)])
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\x07" not in text


def test_colour_changes_nothing_but_colour() -> None:
    coloured = "\n".join(status_lines(TROUBLED, Paint(is_coloured=True), NOON))
    assert "\x1b[33mDEGRADED\x1b[0m" in coloured
    plain = coloured
    for code in ("0", "1", "2", "31", "1;31", "32", "33", "36", "1;35"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == "\n".join(status_lines(TROUBLED, PLAIN, NOON))


@pytest.mark.parametrize(
    ("incarnation", "expected"), [(f"{EPOCH}/7", "…af77/7"), ("e/7", "e/7"), ("?", "?"), ("", "")]
)
def test_an_incarnation_has_a_short_form(incarnation: str, expected: str) -> None:
    assert short(incarnation) == expected


@pytest.mark.parametrize(
    ("standby", "told"),
    [
        (
            {"stage": "parked", "pid": 4713, "age_s": 45.0, "promoted_total": 2},
            "parked, pid 4713, for 45 s; 2 promoted",
        ),
        ({"stage": "none", "pid": 0, "why_none": "memory is low"}, "none: memory is low; 0 promoted"),
        (
            {"stage": "none", "pid": 0, "why_none": "2 promoted ones died quickly", "is_cold": True},
            (
                "none: 2 promoted ones died quickly; starts are cold until a reload, an ordered restart, or for an hour; "
                "0 promoted"
            ),
        ),
    ],
)
def test_status_and_explain_tell_of_the_standby(standby: dict[str, Any], told: str) -> None:
    status = {**TROUBLED, "standby": standby}
    assert f"  standby      {told}" in status_lines(status, PLAIN, NOON)
    assert f"Standby  {told}" in story_lines(status, PLAIN, NOON)


def test_where_none_is_wanted_nothing_is_said_of_a_standby() -> None:
    for status in (TROUBLED, {**TROUBLED, "standby": None}):
        lines = [*status_lines(status, PLAIN, NOON), *story_lines(status, PLAIN, NOON)]
        assert [line for line in lines if "standby" in line.lower()] == []
