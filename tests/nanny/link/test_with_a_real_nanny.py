"""Orders, outcomes and reports between a real nanny and a real server session, whatever dies on the way."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from nanny.protocol.messages import (
    CommandAccepted,
    CommandOutcome,
    Desired,
    Hello,
    NannyReport,
    Outcome,
    OutcomeAcknowledged,
)
from nanny.protocol.session_events import Established, PeerClosed
from tests.support.link_server import PATIENCE_S, Disconnected, order
from tests.support.notify_listener import notify_listener
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.nanny.link.conftest import Node
    from tests.support.link_server import LinkServer

pytestmark = pytest.mark.slow


def running(report: NannyReport) -> bool:
    return report.phase == "running"


def test_link_says_hello_with_the_nannys_identity_and_reports_at_once(node: Node, server: LinkServer) -> None:
    node.start()

    hello = server.expect(Hello)
    report = server.expect(NannyReport, running)

    status = node.nanny.status()
    assert (hello.node_id, hello.node_name, hello.boot_id) == (status["node_id"], "tested", status["boot_id"])
    assert (str(report.incarnation), report.desired, report.worker_state) == (
        status["incarnation"],
        Desired.UP,
        "ready",
    )
    assert report.beat_age_s is not None
    node.nanny.stop()


def test_an_order_is_accepted_carried_out_reported_and_its_outcome_acknowledged(
    node: Node, server: LinkServer
) -> None:
    node.start()
    before = server.expect(NannyReport, running)
    restart = order("restart", target=before.incarnation)

    server.send(restart)

    assert server.expect(CommandAccepted).command_id == restart.command_id
    outcome = server.expect(CommandOutcome)
    assert (outcome.command_id, outcome.outcome) == (restart.command_id, Outcome.DONE)
    assert outcome.incarnation is not None
    assert before.incarnation is not None
    assert outcome.incarnation.number == before.incarnation.number + 1
    after = server.expect(NannyReport, lambda report: report.incarnation == outcome.incarnation)
    assert after.last_restart is not None
    assert (after.last_restart.reason, after.restarts) == ("restart-ordered", {"restart-ordered": 1})

    server.send(OutcomeAcknowledged(restart.command_id))
    wait_until(lambda: "outcome-delivered" in node.nanny.log(), PATIENCE_S, "the acknowledgement")
    node.nanny.stop()


def test_the_same_order_three_times_has_one_effect_and_one_outcome(node: Node, server: LinkServer) -> None:
    node.start()
    server.expect(NannyReport, running)
    restart = order("restart")

    server.send(restart)
    server.send(restart)
    first = server.expect(CommandOutcome)
    server.send(OutcomeAcknowledged(restart.command_id))
    wait_until(lambda: "outcome-delivered" in node.nanny.log(), PATIENCE_S, "the acknowledgement")
    server.stop()
    server.start(forget_session=True)
    server.expect(Established)
    server.send(restart)

    again = server.expect(CommandOutcome)
    assert again == first
    assert node.nanny.status()["counters"]["incarnations_total"] == 2
    node.nanny.stop()


def test_a_holds_length_travels_in_the_parameters(node: Node, server: LinkServer) -> None:
    node.start()
    server.expect(NannyReport, running)

    server.send(order("hold", parameters={"for_s": 120.0, "id": 7, "do": "reexec"}, reason="line\nbreak"))

    assert server.expect(CommandOutcome).outcome is Outcome.DONE
    held = server.expect(NannyReport, lambda report: report.hold_remaining_s is not None)
    assert held.hold_remaining_s == pytest.approx(120.0, abs=PATIENCE_S)
    assert node.nanny.status()["hold"]["reason"] == "line break"
    node.nanny.stop()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kind": "make-coffee"}, "make-coffee"),
        ({"command_id": "00000000-0000-4000-8000-000000000000"}, "UUIDv7"),
        ({"parameters": {f"p{n}": "x" * 4000 for n in range(20)}}, "bytes"),
    ],
)
def test_what_the_nanny_can_never_take_is_rejected_by_name(
    node: Node, server: LinkServer, changed: dict[str, Any], why: str
) -> None:
    node.start()
    server.expect(NannyReport, running)
    refused = order(**({"kind": "drain"} | changed))

    server.send(refused)
    server.send(following := order("drain"))

    outcome = server.expect(CommandOutcome)
    assert (outcome.command_id, outcome.outcome) == (refused.command_id, Outcome.REJECTED)
    assert why in outcome.detail
    assert server.expect(CommandOutcome).command_id == following.command_id
    node.nanny.stop()


def test_a_local_operators_outcome_is_not_told_to_the_server(node: Node, server: LinkServer) -> None:
    node.start()
    server.expect(NannyReport, running)

    local = node.nanny.order("drain")
    server.send(mine := order("undrain"))

    assert local["outcome"] == "done"
    assert server.expect(CommandOutcome).command_id == mine.command_id
    node.nanny.stop()


def test_a_server_that_comes_back_finds_link_and_gets_what_it_missed(node: Node, server: LinkServer) -> None:
    node.start()
    before = server.expect(NannyReport, running)

    server.stop()
    node.wait_for_metric("link_server_connected", 0.0)
    pid = node.link_pid()
    node.nanny.order("restart")
    server.start(forget_session=True)

    server.expect(Established, lambda event: not event.resumed)
    report = server.expect(NannyReport, running)
    assert report.incarnation != before.incarnation
    assert node.link_pid() == pid, "a missing server must not restart link"
    server.send(order("drain"))
    assert server.expect(CommandOutcome).outcome is Outcome.DONE
    node.nanny.stop()


def test_a_broken_connection_is_resumed_and_repeats_nothing(node: Node, server: LinkServer) -> None:
    node.start()
    server.expect(NannyReport, running)
    server.send(order("drain"))
    server.expect(CommandOutcome)

    server.stop()
    server.start()

    assert server.expect(Established).resumed
    server.expect(NannyReport, running)
    server.send(marker := order("undrain"))
    assert server.expect(CommandAccepted).command_id == marker.command_id
    assert server.expect(CommandOutcome).command_id == marker.command_id
    node.nanny.stop()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_an_outcome_that_was_not_acknowledged_is_told_by_the_next_link(
    node: Node, server: LinkServer, signum: int
) -> None:
    node.start()
    server.expect(NannyReport, running)
    server.send(drain := order("drain"))
    first = server.expect(CommandOutcome)

    pid = node.signal_link(signum)
    server.expect(Disconnected)
    server.expect(Hello)
    second = server.expect(CommandOutcome)

    assert first == second
    assert node.link_pid() != pid
    server.send(OutcomeAcknowledged(drain.command_id))
    wait_until(lambda: "outcome-delivered" in node.nanny.log(), PATIENCE_S, "the acknowledgement")

    node.signal_link(signal.SIGKILL)
    server.expect(Hello)
    server.send(marker := order("undrain"))
    assert server.expect(CommandOutcome).command_id == marker.command_id
    node.nanny.stop()


def test_what_the_nanny_defers_is_asked_again_until_it_has_room(node: Node, server: LinkServer) -> None:
    node.start("--server-commands-per-hour=1000")
    server.expect(NannyReport, running)
    orders = [order("clear") for _ in range(256)]
    for one in orders:
        server.send(one)
    ended = [server.expect(CommandOutcome).command_id for _ in orders]
    assert ended == [one.command_id for one in orders], "told in the order in which they came"

    server.send(late := order("clear"))
    wait_until(lambda: (node.metric("link_deferrals_total") or 0) >= 2, PATIENCE_S, "deferrals")
    assert server.heard(CommandOutcome) == []
    assert node.metric("link_orders_held") == 1
    server.send(OutcomeAcknowledged(orders[0].command_id))

    assert server.expect(CommandOutcome).command_id == late.command_id
    node.nanny.stop()


def test_an_ordered_end_of_the_nanny_takes_link_along_and_tells_the_server(
    node: Node, server: LinkServer
) -> None:
    node.start()
    server.expect(NannyReport, running)

    node.nanny.stop()

    assert server.expect(PeerClosed).code == "shutting-down"
    assert node.nanny.processes() == {}


def test_a_nanny_executed_anew_gets_a_new_link_and_owes_nothing_twice(node: Node, server: LinkServer) -> None:
    node.start()
    server.expect(NannyReport, running)
    server.send(drain := order("drain"))
    server.expect(CommandOutcome)

    node.nanny.ask("reexec")

    server.expect(Hello)
    assert server.expect(CommandOutcome).command_id == drain.command_id
    server.expect(NannyReport, lambda report: running(report) and report.draining)
    node.nanny.stop()


# Link as a unit of its own


def test_link_is_ready_with_the_nanny_alone_and_beats_by_itself(node: Node, server: LinkServer) -> None:
    server.stop()
    with notify_listener() as systemd:
        link = node.start_link(
            NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="600000", LINK_SERVER_URL="http://127.0.0.1:1"
        )
        systemd.hear_until(lambda beat: "nanny unreachable" in (beat.status or ""))
        systemd.hear_until(lambda beat: beat.watchdog)
        assert not any(beat.ready for beat in systemd.beats), "no nanny, not ready"

        node.start_nanny_for_unit()
        systemd.hear_until(lambda beat: beat.ready)
        systemd.hear_until(lambda beat: beat.watchdog)

        os.kill(link.pid, signal.SIGTERM)
        systemd.hear_until(lambda beat: beat.stopping)
        assert link.wait(PATIENCE_S) == 0
    node.nanny.stop()


def test_link_outlives_the_nanny_says_so_and_carries_out_later_what_was_ordered_meanwhile(
    node: Node, server: LinkServer
) -> None:
    node.start_nanny_for_unit()
    link = node.start_link()
    server.expect(NannyReport, running)
    node.wait_for_metric("nanny_up", 1.0)

    node.nanny.kill()
    node.wait_for_metric("nanny_up", 0.0)
    assert node.metric("incarnation_number") is None, "what only the nanny knows is absent"
    lost = server.expect(NannyReport, lambda report: report.phase == "nanny-unreachable")
    assert [(one.type, one.status) for one in lost.conditions] == [("NannyUnreachable", "True")]
    assert lost.desired is Desired.UP
    server.send(expired := order("drain", time_to_live_s=0.2))
    server.send(kept := order("drain"))
    node.wait_for_metric("link_orders_held", 2.0)
    # The first report after they came proves that more than a report's interval, so the short life, is over.
    server.expect(NannyReport)
    server.expect(NannyReport)

    node.start_nanny_for_unit()
    outcomes = {
        told.command_id: told.outcome
        for told in (server.expect(CommandOutcome), server.expect(CommandOutcome))
    }
    assert outcomes == {expired.command_id: Outcome.EXPIRED, kept.command_id: Outcome.DONE}
    server.expect(NannyReport, running)
    node.wait_for_metric("nanny_up", 1.0)
    assert link.poll() is None
    assert server.connections_total == 1, "the server's connection has nothing to do with the nanny's life"
    node.nanny.stop()


def test_more_orders_than_link_may_hold_wait_at_the_server(node: Node, server: LinkServer) -> None:
    node.start_nanny_for_unit()
    node.start_link()
    server.expect(NannyReport, running)
    node.nanny.kill()
    node.wait_for_metric("nanny_up", 0.0)

    orders = [order("clear") for _ in range(300)]
    for one in orders:
        server.send(one)

    node.wait_for_metric("link_orders_held", 256)
    server.expect(NannyReport)
    assert node.metric("link_orders_held") == 256
    node.start_nanny_for_unit("--server-commands-per-hour=1000")
    ended = set()
    for _ in orders:
        outcome = server.expect(CommandOutcome)
        ended.add((outcome.command_id, outcome.outcome))
        server.send(OutcomeAcknowledged(outcome.command_id))
    assert ended == {(one.command_id, Outcome.DONE) for one in orders}
    node.wait_for_metric("link_orders_held", 0)
    assert node.metric('link_disconnects_total{cause="closed"}') is None
    node.nanny.stop()


def test_a_stopped_nanny_is_told_as_unreachable(node: Node, server: LinkServer) -> None:
    node.start_nanny_for_unit()
    node.start_link()
    server.expect(NannyReport, running)

    node.nanny.send(signal.SIGSTOP)
    try:
        server.expect(NannyReport, lambda report: report.phase == "nanny-unreachable")
        assert node.metric("nanny_up") == 0.0
    finally:
        node.nanny.send(signal.SIGCONT)

    server.expect(NannyReport, running)
    node.nanny.stop()


def test_a_port_that_is_taken_does_not_keep_link_from_its_work(node: Node, server: LinkServer) -> None:
    node.start_nanny_for_unit()
    node.start_link(LINK_METRICS_PORT=str(server.port))

    server.expect(NannyReport, running)

    assert "cannot serve /metrics" in node.nanny.log()
    node.nanny.stop()


def test_livez_is_answered_without_nanny_and_server(node: Node, server: LinkServer) -> None:
    server.stop()
    node.start_link()

    node.wait_for_metric("nanny_up", 0.0)

    assert node.get("/livez") == "ok\n"


def test_an_orphan_ends_after_its_timeout(node: Node, server: LinkServer) -> None:
    link = node.start_link(LINK_ORPHAN_TIMEOUT_S="0.3")

    assert link.wait(PATIENCE_S) == 1
    assert "no nanny for" in node.nanny.log()
