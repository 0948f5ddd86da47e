"""The nanny's status, told to the server and to Prometheus; the statuses are those of a real core."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from nanny import view
from nanny.core.config import PolicyConfig
from nanny.core.state import Condition, ConditionType, Hold, LastRestart, NannyState, Reason
from nanny.link.counters import Counters
from nanny.link.identity import machine_id
from nanny.link.metrics import render
from nanny.link.orders import HeldOrders
from nanny.link.report import report_of, report_without_nanny
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import NannyReport, to_wire
from tests.support.link_server import order

EPOCH = "01900000-0000-7000-8000-000000000001"


def status_of(**changed: Any) -> dict[str, Any]:
    """A real status of a nanny at 100 s."""
    state = replace(NannyState(EPOCH, EPOCH), incarnation=Incarnation(EPOCH, 7), **changed)
    shown = view.status(state, 100.0, PolicyConfig(node_id="node-1"))
    rest = {
        "nanny": {"version": "1.2", "age_s": 60.0, "late_s": 0.001, "steps_total": 5},
        "counters": {"ends_total": {"lost": 2, "exited": 1, "stop-ordered": 9}, "beats_total": 30},
    }
    told: dict[str, Any] = json.loads(json.dumps(shown | rest))
    return told


def sent(report: NannyReport) -> dict[str, Any]:
    """As it goes over the wire: every field passes its rule."""
    body: dict[str, Any] = to_wire(report)["b"]
    return body


def test_ages_go_on_and_remaining_times_run_down_while_a_status_waits() -> None:
    status = status_of(
        hold=Hold(until=130.0, actor="someone", reason="debugging"),
        last_restart=LastRestart(Reason.LOST, "silent", 90.0, Incarnation(EPOCH, 6)),
        conditions=(Condition(ConditionType.NODE_STARVED, "Throttled", "no time", 80.0),),
    )

    body = sent(report_of(status, 5.0, 1000.0))

    assert body["hold_remaining_s"] == 25.0
    assert body["last_restart"]["age_s"] == 15.0
    assert body["last_restart"]["incarnation_after"] == f"{EPOCH}/7"
    assert body["conditions"][0]["age_s"] == 25.0
    assert body["uptime_s"] == 65.0
    assert body["restarts"] == {"lost": 2, "exited": 1}


def test_what_was_set_before_this_boot_is_as_old_as_the_boot() -> None:
    assert sent(report_of(status_of(), 0.0, 1000.0))["desired_since_s"] == 1000.0


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"desired": None, "worker": [], "conditions": "x", "last_restart": {}, "counters": {"ends_total": 3}},
        {"phase": None, "incarnation": "nonsense", "conditions": [3, {}], "next_step_in_s": True},
        {"counters": {"ends_total": {"lost": -1, "exited": "many"}}, "hold": {}},
    ],
)
def test_a_status_of_another_version_is_told_as_far_as_it_is_understood(status: dict[str, Any]) -> None:
    assert sent(report_of(status, 1.0, 1000.0))["phase"] == "unknown"
    assert render(status, Counters(), is_server_connected=True, orders_held=0, log_lines_dropped=0)


def test_without_a_nanny_what_is_wanted_stands_and_the_rest_is_unknown() -> None:
    body = sent(report_without_nanny(status_of(draining=True), 20.0, 15.0, 1000.0, "connection refused"))

    assert (body["phase"], body["desired"], body["draining"], body["worker_state"]) == (
        "nanny-unreachable",
        "up",
        True,
        "unknown",
    )
    assert "beat_age_s" not in body
    assert [(one["type"], one["age_s"]) for one in body["conditions"]] == [("NannyUnreachable", 15.0)]


def rendered(status: dict[str, Any] | None, counters: Counters | None = None) -> list[str]:
    text = render(
        status, counters or Counters(), is_server_connected=False, orders_held=3, log_lines_dropped=0
    )
    assert text.endswith("\n")
    return text.splitlines()


def test_the_phase_is_a_state_set_and_conditions_are_those_that_hold() -> None:
    conditions = (Condition(ConditionType.KILLS_HELD, "Held", "by someone", 80.0),)

    lines = rendered(status_of(conditions=conditions))

    phases = {line for line in lines if line.startswith("nodenanny_phase{")}
    assert 'nodenanny_phase{phase="down"} 1' in phases
    assert sum(line.endswith(" 1") for line in phases) == 1
    assert 'nodenanny_condition{type="KillsHeld"} 1' in lines
    assert 'nodenanny_restarts_total{reason="lost"} 2' in lines
    assert "nodenanny_incarnation_number 7" in lines
    assert "nodenanny_nanny_late_seconds 0.001" in lines


def test_without_a_nanny_only_links_own_figures_are_there() -> None:
    counters = Counters()
    counters.disconnected("silent")

    lines = rendered(None, counters)

    assert "nodenanny_nanny_up 0" in lines
    assert "nodenanny_link_orders_held 3" in lines
    assert 'nodenanny_link_disconnects_total{cause="silent"} 1' in lines
    assert not any(line.startswith(("nodenanny_phase", "nodenanny_incarnation")) for line in lines)


def test_label_values_are_escaped_and_each_family_has_one_head() -> None:
    status = status_of() | {"phase": 'a"b\\c\nd'}
    status["counters"]["ends_total"] = {f"reason-{n}": n for n in range(1000)}

    lines = rendered(status)

    assert r'nodenanny_phase{phase="a\"b\\c\nd"} 1' in lines
    heads = [line for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    assert sum(line.startswith("nodenanny_restarts_total{") for line in lines) == 256


def test_orders_keep_their_order_and_each_id_its_place() -> None:
    orders = HeldOrders(limit=2)
    first, second = order("stop", time_to_live_s=10.0), order("start")

    is_full: list[bool] = []
    for one in (first, second, first):  # held already, so there is room for it
        orders.put(one, 5.0 * len(is_full) / 2)
        is_full.append(orders.is_full)
    assert (is_full, len(orders)) == ([False, True, True], 2)

    held = orders.first()
    assert held is not None
    assert (held.order.command_id, held.request(12.5)["time_to_live_s"]) == (first.command_id, -2.5)
    orders.remove(first.command_id)
    following = orders.first()
    assert following is not None
    assert following.order == second


def test_an_order_that_is_put_off_stays_first_until_its_time_is_over() -> None:
    orders = HeldOrders()
    first, second = order("stop", time_to_live_s=10.0), order("start")
    orders.put(first, 0.0)
    orders.put(second, 0.0)

    orders.put_off(first.command_id, 9.0)
    held = orders.first()
    assert held is not None
    assert held.order == first
    orders.put_off(first.command_id, 10.0)
    held = orders.first()
    assert held is not None
    assert held.order == second
    assert len(orders) == 2
    orders.put_off("no such order", 10.0)


def test_a_time_to_live_beyond_what_the_nanny_takes_is_cut() -> None:
    orders = HeldOrders()
    orders.put(order("drain", time_to_live_s=1e6), 0.0)
    held = orders.first()
    assert held is not None

    assert held.request(0.0)["time_to_live_s"] == 86400.0
    assert held.request(1e8)["time_to_live_s"] == -86400.0


def test_the_machines_identifier_is_stable_and_not_the_machine_id_itself(tmp_path: Any) -> None:
    told = tmp_path / "machine-id"
    told.write_text("0123456789abcdef0123456789abcdef\n")
    other = tmp_path / "other"
    other.write_text("fedcba9876543210fedcba9876543210\n")

    mine = machine_id((str(told),))

    assert mine == machine_id(("/nonexistent", str(told)))
    assert mine != machine_id((str(other),))
    assert "0123456789abcdef" not in mine.replace("-", "")


def test_figures_and_words_that_cannot_be_are_told_as_unknown() -> None:
    status = status_of()
    status["worker"] |= {"loop_lag_s": float("inf"), "beat_age_s": 10**400}
    status["desired"] |= {"age_s": float("nan")}
    status["conditions"] = [{"type": "T", "status": ["True"], "age_s": -(10**400)}]

    report = report_of(status, 1.0, 500.0)

    assert (report.loop_lag_s, report.beat_age_s, report.desired_since_s) == (None, None, 0.0)
    assert [(one.status, one.age_s) for one in report.conditions] == [("Unknown", 0.0)]
    sent(report)
