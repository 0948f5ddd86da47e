"""Fault 38: restart orders that come twice, in the wrong order, late, for a life long over, or a thousand at a time.

A real nanny and a real link speak with a server that does what the test says. Whatever comes, each order has one
outcome, a restart that is asked for twice happens once, and the nanny's own budget holds whatever the server says.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    NannyReport,
    OutcomeAcknowledged,
)
from nanny.protocol.session_events import BacklogFull
from tests.faults import fault_makers as make
from tests.faults.fault_node import send
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.support.link_server import PATIENCE_S, LinkServer, link_server, order
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanny.protocol.incarnation import Incarnation
    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.slow
EX_TEMPFAIL = 75
ONE_RESTART = Expectation(restarts=1, recover_within_s=3.0, cause=("restart-ordered",))
BURST = 1000
AT_ONCE = 200
"""Our server lets no more than 100 orders of a node be unfinished; link holds 256."""
WEDGE_S = 1.0


class Ordering:
    """A node that is ordered about by a server of the test's own."""

    def __init__(self, node: FaultNode, server: LinkServer) -> None:
        self.node = node
        self.server = server
        quick = {"LINK_BACKOFF_BASE_S": "0.05", "LINK_BACKOFF_CEILING_S": "0.2"}
        self._environ = quick | {"LINK_SERVER_URL": server.url}
        self._link = ("--link=child", f"--link-environment={json.dumps(self._environ)}")
        self._apart: subprocess.Popen[bytes] | None = None

    def begin(self, program: str | make.Program = BEATS, **settings: object) -> Incarnation:
        """Start the nanny; the incarnation that the server hears of."""
        self.node.begin(program, *self._link, **settings)
        return self.running()

    def begin_again(self, program: str | make.Program = BEATS, **settings: object) -> None:
        """SIGKILL the nanny and start the next one."""
        self.node.again(program, *self._link, **settings)

    def begin_apart(self, **settings: object) -> Incarnation:
        """Start the nanny, and a link that is no child of it: as a unit of its own."""
        me = pwd.getpwuid(os.geteuid()).pw_name
        self._link = ("--link=unit", f"--link-user={me}")
        self.node.begin(BEATS, *self._link, **settings)
        told = self._environ | {"LINK_CONTROL_SOCKET": self.node.control_path}
        with open(self.node.log_path, "ab") as log:
            self._apart = subprocess.Popen(
                [sys.executable, "-m", "nanny.link.main"],
                env=self.node.environment() | told,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.running()

    def close(self) -> None:
        """End the link that was started apart."""
        if self._apart is not None:
            self._apart.kill()
            self._apart.wait()

    def push(self, message: CommandOrder | OutcomeAcknowledged) -> None:
        """Send, and wait while too much of what was sent is not acknowledged yet."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.server.send(message)
            except BacklogFull:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def running(self) -> Incarnation:
        """Wait for a report of a running worker."""
        report = self.server.expect(NannyReport, lambda one: one.phase == "running")
        assert report.incarnation is not None
        return report.incarnation

    def outcomes(self, *sent: CommandOrder) -> list[str]:
        """Wait for the outcome of each, acknowledge it, and give them in the order of the orders."""
        found: dict[str, str] = {}
        wanted = {one.command_id for one in sent}
        while set(found) != wanted:
            told = self.server.expect(CommandOutcome)
            if told.command_id in wanted:
                found[told.command_id] = str(told.outcome)
            self.push(OutcomeAcknowledged(told.command_id))
        return [found[one.command_id] for one in sent]


@contextmanager
def ordering(node: FaultNode) -> Iterator[Ordering]:
    """A node and its server, for the length of the block."""
    with link_server() as server:
        orders = Ordering(node, server)
        try:
            yield orders
            if not node.has_ended():
                node.stop()
        finally:
            orders.close()


@fault("38", "an order comes five times", by="nanny: the ledger knows it")
def test_the_same_order_again_and_again_is_one_restart(node: FaultNode) -> None:
    with ordering(node) as orders:
        orders.begin()
        with judged(node, expects=replace(ONE_RESTART, outcomes=("done",))):
            restart = order("restart")
            for _ in range(4):
                orders.server.send(restart)
            assert orders.outcomes(restart) == ["done"]
            orders.server.send(restart)
            assert orders.outcomes(restart) == ["done"]


@fault("38", "orders come in the wrong order", by="nanny: each is aimed at one life")
def test_orders_that_overtake_each_other_do_not_add_up(node: FaultNode) -> None:
    with ordering(node) as orders:
        first = orders.begin()
        with judged(node, expects=replace(ONE_RESTART, outcomes=("already-satisfied", "done", "rejected"))):
            for_the_next = order("restart", target=replace(first, number=first.number + 1))
            for_this, again = order("restart", target=first), order("restart", target=first)
            orders.server.send(for_the_next)
            orders.server.send(for_this)
            assert orders.outcomes(for_the_next, for_this) == ["rejected", "done"]
            orders.server.send(again)
            assert orders.outcomes(again) == ["already-satisfied"]


@fault("38", "an order is past its time when the nanny is back", by="link counts its holding time")
def test_an_order_that_comes_too_late_expires(node: FaultNode) -> None:
    with ordering(node) as orders:
        orders.begin_apart()
        with judged(node, expects=Expectation(restarts=0, outcomes=("expired",))) as case:
            node.kill()
            late = order("restart", time_to_live_s=0.2)
            orders.server.send(late)
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 0.6, 10, "the order to be old")
            orders.begin_again()
            assert orders.outcomes(late) == ["expired"]
            case.excused.append((case.began_at, time.monotonic()))


@fault("38", "an order for a life that is over", by="nanny: already satisfied")
def test_an_order_for_an_old_life_restarts_nothing(node: FaultNode) -> None:
    with ordering(node) as orders:
        old = orders.begin()
        node.order("restart")
        with judged(node, expects=Expectation(restarts=0, outcomes=("already-satisfied",))):
            stale = order("restart", target=old)
            orders.server.send(stale)
            assert orders.outcomes(stale) == ["already-satisfied"]


@fault("38", "an order comes during a restart", by="nanny: the successor serves both")
def test_an_order_during_a_restart_is_served_by_the_same_successor(node: FaultNode) -> None:
    with ordering(node) as orders:
        current = orders.begin(make.ignores_term(node), stop_grace_s=WEDGE_S)
        with judged(node, expects=replace(ONE_RESTART, outcomes=("done", "done"))):
            first, second = order("restart", target=current), order("restart", target=current)
            orders.server.send(first)
            orders.server.expect(CommandAccepted)
            node.wait_for_phase("stopping")
            orders.server.send(second)
            assert orders.outcomes(first, second) == ["done", "done"]


@fault("38", "an order comes while draining", by="nanny: done, and still draining")
def test_an_order_during_a_drain_leaves_the_drain(node: FaultNode) -> None:
    with ordering(node) as orders:
        orders.begin()
        with judged(node, expects=replace(ONE_RESTART, outcomes=("done", "done"))):
            drain, restart = order("drain"), order("restart")
            orders.server.send(drain)
            orders.server.send(restart)
            assert orders.outcomes(drain, restart) == ["done", "done"]
        assert node.status()["draining"] is True


@fault("38", "a thousand orders in a burst", by="nanny: its own budget")
def test_a_thousand_orders_have_a_thousand_outcomes_and_few_restarts(node: FaultNode) -> None:
    with ordering(node) as orders:
        orders.begin(server_restarts_per_hour=3)
        with judged(node, expects=Expectation(restarts=None, cause=("restart-ordered",))):
            counted: Counter[str] = Counter()
            for _ in range(BURST // AT_ONCE):
                sent = [order("restart") for _ in range(AT_ONCE)]
                for one in sent:
                    orders.push(one)
                counted.update(orders.outcomes(*sent))
        assert counted["rejected"] == BURST - 3, counted
        assert counted["done"] + counted["already-satisfied"] == 3
        # Those that came while a restart was under way are served by its successor.
        assert 1 <= node.status()["counters"]["ends_total"]["restart-ordered"] <= 3


@fault("38", "the nanny is killed between accepted and done", by="the next nanny: its journal")
def test_an_order_survives_the_nanny_that_accepted_it(node: FaultNode) -> None:
    with ordering(node) as orders:
        program = make.ignores_term(node)
        orders.begin(program, stop_grace_s=WEDGE_S)
        with judged(node, expects=replace(ONE_RESTART, outcomes=("done",), recover_within_s=6.0)) as case:
            restart = order("restart")
            orders.server.send(restart)
            orders.server.expect(CommandAccepted)
            node.wait_for_phase("stopping")
            orders.begin_again(program, stop_grace_s=WEDGE_S)
            assert orders.outcomes(restart) == ["done"]
            case.excused.append((case.began_at, time.monotonic()))


@fault("38", "a second nanny on the node", by="its lock: it does not start")
def test_a_second_nanny_does_nothing(node: FaultNode) -> None:
    node.begin()
    with judged(node, expects=Expectation(restarts=0)):
        second = subprocess.run(
            node.command(BEATS), env=node.environment(), capture_output=True, timeout=30, check=False
        )
        assert second.returncode == EX_TEMPFAIL, second.stderr
        assert str(node.pid) in second.stderr.decode()


@fault("38", "the server orders everything to restart, for ever", by="nanny: its own budget stops it")
def test_a_server_gone_mad_is_stopped_by_the_nodes_own_budget(node: FaultNode) -> None:
    with ordering(node) as orders:
        orders.begin(server_restarts_per_hour=2)
        outcomes = []
        with judged(node, expects=Expectation(restarts=2, cause=("restart-ordered", "budget"), explains=())):
            for _ in range(5):
                restart = order("restart")
                orders.server.send(restart)
                outcomes += orders.outcomes(restart)
        assert outcomes == ["done", "done", "rejected", "rejected", "rejected"]
        # A person at the node is not held to the server's budget.
        assert node.order("restart")["outcome"] == "done"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@fault("38", "link falls over an order", by="nanny: pidfd or beats of link; the order is sent again")
def test_an_order_survives_link(node: FaultNode, signum: signal.Signals) -> None:
    with ordering(node) as orders:
        orders.begin()
        with judged(node, expects=replace(ONE_RESTART, outcomes=("done",), recover_within_s=8.0)):
            restart = order("restart")
            with suppress(ProcessLookupError):
                send(node.status()["link"]["pid"], signum)
            orders.server.send(restart)
            assert orders.outcomes(restart) == ["done"]
