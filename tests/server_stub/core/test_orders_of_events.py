"""No order of events gives an impossible state: arrivals, verdict and row together, against a plain account of it all.

What is played: checks of every class, connections that come and go, registrations, nannies' reports, maintenance,
restarts of the server, and time. After each event the verdict is stored, as the syncer does, and also at each instant
that was announced in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanny.protocol.messages import Condition, ConditionStatus, Desired, Role
from server_stub.arrivals import Arrivals
from server_stub.core.connectivity import (
    GOOD_AGAIN,
    PASSING,
    PHASES,
    WORD_OF_LIFECYCLE,
    Settings,
    evaluate,
    next_change_at,
    recheck_in_s,
)
from server_stub.core.node_facts import (
    ANSWERED,
    PRECEDENCE,
    Lifecycle,
    ProbeClass,
    ProbeFact,
    Reachability,
    Stored,
    Word,
)
from tests.support.server_peers import life, nanny_report

if TYPE_CHECKING:
    from server_stub.core.node_facts import NodeFacts, Verdict

LIMITS: Final = Settings()
TICK_S: Final = 0.001
"""Between two events: no two are of one instant."""
LOSSES: Final = frozenset({"Offline", "NannyFailed", "ProbeFailed", "ProbePathBlocked"})
BAD_WORDS: Final = frozenset({Word.UNREACHABLE, Word.NOT_READY})
NEW: Final = Stored(
    Lifecycle.ACTIVE,
    unreachable=False,
    word=Word.PENDING,
    reason="New",
    detail="",
    is_registered=False,
    has_healthz=False,
    has_link=False,
)
STATUS: Final = {ProbeClass.OK: "ok", ProbeClass.STALLED: "stalled", ProbeClass.FALLBACK: "fallback"}


@dataclass
class Account:
    """What somebody who only listens would say must hold."""

    good_in_row: int = 0
    good_since_life: bool = False
    """A good check in this server's life, of the newest life or of one that named none."""
    owed: int = 0
    """Good checks in a row that the node owes before it may be READY."""
    newest: int = 0
    said_anything: bool = False
    """In this server's life the node, or people, have said something."""


@dataclass
class Node:
    """A node, its row, and a server that restarts."""

    now: float = 1000.0
    stored: Stored = NEW
    until_at: float | None = None
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.now)
        self.word_at_start = self.stored.word
        self.life = 1
        self.judge()

    @property
    def facts(self) -> NodeFacts:
        return self.arrivals.facts(self.stored, self.until_at)

    def play(self, *events: tuple[Any, ...]) -> None:
        for name, *told in events:
            self.wait(TICK_S)
            getattr(self, name)(*told)
            self.judge()

    # Events

    def wait(self, for_s: float) -> None:
        ends_at = self.now + for_s
        while (
            change_at := next_change_at(self.facts, self.now, LIMITS)
        ) is not None and change_at <= ends_at:
            self._is_quiet_until(change_at)
            self.now = change_at
            self.judge()
        self._is_quiet_until(ends_at)
        self.now = ends_at
        self.judge()

    def probe(self, result: ProbeClass, age: int | None, starts: bool) -> None:
        if not self.stored.has_healthz:
            return
        incarnation = None if age is None or result not in ANSWERED else life(max(1, self.life - age))
        status = "starting" if starts and result is ProbeClass.OK else STATUS.get(result)
        fact = ProbeFact(result, self.now, self.now, status, incarnation)
        self.arrivals.probed(fact)
        account = self.account
        is_good = result is ProbeClass.OK and status == "ok"
        account.good_in_row = account.good_in_row + 1 if is_good else 0
        account.said_anything |= result in ANSWERED or result is ProbeClass.SERVER_FAULT
        if is_good and (incarnation is None or incarnation.number >= account.newest):
            account.good_since_life = True
        if account.good_in_row >= GOOD_AGAIN:
            account.owed = 0

    def connect(self, role: Role, opens: bool) -> None:
        if opens:
            self.arrivals.opened(role, self.now)
            self.stored = replace(self.stored, has_link=self.stored.has_link or role is Role.LINK)
        else:
            self.arrivals.closed(role, self.now)
        self.account.said_anything = True

    def register(self, reborn: bool) -> None:
        self.life += reborn
        is_reborn = reborn or not self.stored.is_registered
        self.arrivals.opened(Role.WORKER, self.now)
        self.arrivals.registered(life(self.life), self.now, is_reborn=is_reborn)
        self.stored = replace(self.stored, is_registered=True, has_healthz=True)
        self._lives(self.life, is_reborn=is_reborn)

    def report(self, phase: str, reborn: bool, more: dict[str, Any]) -> None:
        if self.arrivals.link is None or not self.arrivals.link.is_open:
            self.connect(Role.LINK, opens=True)
        self.life += reborn
        self.arrivals.nanny_reported(nanny_report(phase, None, incarnation=life(self.life), **more), self.now)
        self._lives(self.life, is_reborn=reborn)

    def _lives(self, number: int, *, is_reborn: bool) -> None:
        account = self.account
        account.said_anything = True
        if number > account.newest:
            account.newest = number
            # A server that was just started learns of a life that it may have probed already.
            account.good_since_life &= not is_reborn and self._was_probed_as(number)

    def _was_probed_as(self, number: int) -> bool:
        probe = self.arrivals.probe
        return probe is not None and (probe.incarnation is None or probe.incarnation.number >= number)

    def maintain(self, is_on: bool, for_s: float | None) -> None:
        self.account.said_anything = True
        lifecycle = Lifecycle.MAINTENANCE if is_on else Lifecycle.ACTIVE
        if not is_on and self.stored.lifecycle is not Lifecycle.MAINTENANCE:
            return
        self.stored = replace(self.stored, lifecycle=lifecycle, maintenance="in maintenance by x: y")
        self.until_at = self.now + for_s if is_on and for_s is not None else None

    def restart_server(self) -> None:
        self.arrivals = Arrivals(self.now)
        self.word_at_start = self.stored.word
        # What its nanny said is forgotten with the process, unless the row's reason still tells of it.
        self.account = Account(owed=GOOD_AGAIN if self.stored.unreachable else 0)

    # What must hold

    def judge(self) -> None:
        before = self.stored
        verdict = evaluate(self.facts, self.now, LIMITS)
        self.stored = replace(
            before,
            lifecycle=verdict.lifecycle,
            unreachable=verdict.unreachable,
            word=verdict.word,
            reason=verdict.reason.code,
            detail=verdict.reason.detail,
        )
        is_in = before.lifecycle is Lifecycle.MAINTENANCE and (
            self.until_at is None or self.now < self.until_at
        )
        if not is_in:
            self.until_at = None
        assert (verdict.word is Word.MAINTENANCE) == is_in
        self._is_possible(verdict)
        again = evaluate(self.facts, self.now, LIMITS)
        assert not again.differs_from(self.stored), "a verdict that was stored asks for another one"
        is_of_before = verdict.reachability is Reachability.AWAITED
        if verdict.reason.code in LOSSES and verdict.word in BAD_WORDS and not is_of_before:
            self.account.owed = GOOD_AGAIN

    def _is_possible(self, verdict: Verdict) -> None:
        account, word = self.account, verdict.word
        ranks = [PRECEDENCE.index(word), PRECEDENCE.index(WORD_OF_LIFECYCLE[verdict.lifecycle])]
        assert ranks[0] <= ranks[1]
        if word is Word.UNREACHABLE:
            assert verdict.unreachable or verdict.reachability is Reachability.AWAITED
        is_young = self.now < self.arrivals.listening_since_at + LIMITS.offline_timeout_s
        if word is Word.READY:
            is_standing = is_young and self.word_at_start is Word.READY
            assert account.good_since_life or is_standing, "READY that nothing has shown"
            assert account.owed == 0, f"READY, and {account.owed} good checks are owed"
            assert verdict.reasons == ()
            nanny = self.arrivals.nanny
            is_linked = self.arrivals.link is not None and self.arrivals.link.is_open
            is_of_newest = nanny is not None and nanny.incarnation == life(account.newest)
            if nanny is not None and is_of_newest and is_linked and not is_standing:
                assert nanny.phase not in {"failed", "degraded", *PASSING - {"starting"}}
        if is_young and not account.said_anything and self.word_at_start is not Word.MAINTENANCE:
            assert word is self.word_at_start, "demoted by silence before the server had listened"

    def _is_quiet_until(self, change_at: float) -> None:
        facts, first = self.facts, evaluate(self.facts, self.now, LIMITS)
        for share in (0.5, 0.999):
            at = self.now + (change_at - self.now) * share
            if at < change_at:
                assert evaluate(facts, at, LIMITS) == first, "a change that was not announced"


CONDITIONS: Final = (Condition("NodeStarved", ConditionStatus.TRUE, "x", "", 0.0),)
REPORTS: Final = st.fixed_dictionaries(
    {},
    optional={
        "desired": st.sampled_from(Desired),
        "draining": st.booleans(),
        "conditions": st.sampled_from([(), CONDITIONS]),
    },
)
WAITS: Final = (0.5, 5.0, 15.0, 29.9, 30.0, 60.0, 99.9, 100.0, 250.0)
EVENTS: Final = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from(WAITS)),
    st.tuples(
        st.just("probe"),
        st.sampled_from([*ProbeClass, ProbeClass.OK, ProbeClass.OK, ProbeClass.OK]),
        st.sampled_from([None, 0, 0, 0, 1]),
        st.booleans(),
    ),
    st.tuples(st.just("probe"), st.just(ProbeClass.OK), st.just(0), st.just(False)),
    st.tuples(st.just("connect"), st.sampled_from([Role.LINK, Role.WORKER]), st.booleans()),
    st.tuples(st.just("register"), st.booleans()),
    st.tuples(st.just("report"), st.sampled_from([*PHASES, "running", "new-phase"]), st.booleans(), REPORTS),
    st.tuples(st.just("maintain"), st.booleans(), st.sampled_from([None, 20.0, 150.0])),
    st.tuples(st.just("restart_server")),
)
GOOD: Final = ("probe", ProbeClass.OK, 0, False)
BAD: Final = ("probe", ProbeClass.TIMEOUT, None, False)


def play(*events: tuple[Any, ...]) -> Node:
    node = Node()
    node.play(*events)
    return node


@given(st.lists(EVENTS, max_size=40))
@settings(max_examples=400, deadline=None, derandomize=True)
@example([("register", True), GOOD, ("wait", 100.0), BAD, GOOD, ("restart_server",), GOOD])
@example([("register", True), GOOD, ("restart_server",), ("wait", 99.9), BAD, ("wait", 0.5)])
def test_no_order_of_events_gives_an_impossible_state(events: list[tuple[Any, ...]]) -> None:
    play(*events)


def test_a_node_that_was_lost_owes_two_good_probes_and_gets_its_second_check_early() -> None:
    lost = play(("register", True), GOOD, ("wait", 100.0), ("report", "degraded", False, {}), BAD)
    assert lost.stored.word is Word.UNREACHABLE

    node = play(
        ("register", True), GOOD, ("wait", 100.0), ("report", "degraded", False, {}), BAD,
        ("report", "running", False, {}), GOOD,
    )  # fmt: skip

    assert (node.stored.word, node.stored.reason, node.stored.unreachable) == (
        Word.PENDING,
        "Recovering",
        True,
    )
    assert recheck_in_s(node.facts, node.now, LIMITS) == 1.0
    node.play(GOOD)
    assert (node.stored.word, node.stored.unreachable, recheck_in_s(node.facts, node.now, LIMITS)) == (
        Word.READY,
        False,
        None,
    )


def test_a_bad_probe_between_two_good_ones_starts_the_row_anew() -> None:
    node = play(("register", True), GOOD, ("wait", 100.0), BAD, GOOD, BAD, GOOD)

    assert node.stored.word is Word.PENDING


def test_an_ordered_restart_is_ready_after_its_first_good_probe() -> None:
    node = play(
        ("register", True),
        ("report", "running", False, {}),
        GOOD,
        ("report", "stopping", False, {}),
        ("connect", Role.WORKER, False),
        ("probe", ProbeClass.FALLBACK, None, False),
        ("probe", ProbeClass.REFUSED, None, False),
        ("report", "starting", True, {}),
        BAD,
    )
    assert (node.stored.word, node.stored.unreachable) == (Word.PENDING, False)

    node.play(("register", False), ("report", "running", False, {}))
    words = [node.stored.word]
    node.play(GOOD)

    assert [*words, node.stored.word] == [Word.PENDING, Word.READY]


def test_a_stop_and_a_start_by_order_owe_nothing() -> None:
    down = {"desired": Desired.DOWN}
    node = play(
        ("register", True),
        ("report", "running", False, {}),
        GOOD,
        ("report", "stopping", False, down),
        ("report", "down", False, down),
        BAD,
        ("wait", 60.0),
        BAD,
    )
    assert (node.stored.word, node.stored.reason) == (Word.NOT_READY, "Stopped")

    node.play(("report", "starting", True, {}), ("register", False), ("report", "running", False, {}), GOOD)

    assert node.stored.word is Word.READY


def test_a_node_whose_nanny_had_given_up_owes_two_good_probes() -> None:
    start: tuple[Any, ...] = (
        ("register", True),
        GOOD,
        ("report", "failed", False, {}),
        ("report", "starting", True, {}),
    )
    node = play(*start, ("register", False), ("report", "running", False, {}), GOOD)

    assert (node.stored.word, node.stored.reason) == (Word.PENDING, "Recovering")
    assert (
        play(*start, ("register", False), ("report", "running", False, {}), GOOD, GOOD).stored.word
        is Word.READY
    )


def test_a_row_of_good_probes_outlives_nothing_of_a_server_but_what_is_owed_does() -> None:
    node = play(("register", True), GOOD, ("wait", 100.0), BAD, GOOD, ("restart_server",), GOOD)
    words = [node.stored.word]

    node.play(GOOD)

    assert [*words, node.stored.word] == [Word.PENDING, Word.READY]


def test_a_registration_alone_never_makes_a_node_ready() -> None:
    assert play(("register", True), ("wait", 5.0), ("register", False)).stored.word is Word.PENDING
    assert play(("register", True), GOOD, ("register", True)).stored.word is Word.PENDING


def test_maintenance_ends_at_its_instant_and_not_before() -> None:
    start: tuple[Any, ...] = (("register", True), GOOD, ("maintain", True, 20.0))

    assert play(*start, ("wait", 19.9)).stored.word is Word.MAINTENANCE
    assert play(*start, ("wait", 20.0)).stored.word is Word.READY
