"""The standby's core: who is served by what, when one is made, when none; by rules and by random histories."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.core import standby as core
from nanny.core import standby_events as ev
from nanny.core.standby import Stage, Standby, StandbyConfig
from nanny.protocol.incarnation import Incarnation

CONFIG = StandbyConfig(after_s=30.0)
PLENTY = ev.MemoryLooked(8 << 30)
SCARCE = ev.MemoryLooked(1 << 20)


def life(number: int) -> Incarnation:
    return Incarnation("epoch", number)


@dataclass
class World:
    """Feeds events to the core, serves deadlines on the way, and holds its actions to the rules.

    Attributes:
        alive: the standby process that exists and is nobody yet.
        unserved: the life that was asked for and has no child yet, and since when.
    """

    config: StandbyConfig = CONFIG
    standby: Standby = field(default_factory=Standby)
    now: float = 100.0
    memory: ev.MemoryLooked = PLENTY
    actions: list[ev.Action] = field(default_factory=list)
    alive: int | None = None
    has_parked: bool = False
    unserved: tuple[Incarnation, float] | None = None
    was_closed: bool = False
    buries: bool = True
    """What is dropped dies at once."""

    def tell(self, *events: ev.Event) -> list[ev.Action]:
        """Tell events now; gives the actions."""
        before = len(self.actions)
        for event in events:
            self._tell(event)
        return self.actions[before:]

    def _tell(self, event: ev.Event) -> None:
        if isinstance(event, ev.ChildWanted):
            self.unserved = (event.incarnation, self.now)
        if isinstance(event, ev.Ended) and event.number == self.alive:
            self.alive = None
        if isinstance(event, ev.Parked) and event.number == self.alive:
            self.has_parked = True
        self.was_closed |= isinstance(event, ev.Closing)
        self.standby, actions = core.step(self.standby, event, self.now, self.config)
        for action in actions:
            self.actions.append(action)
            self._hold_to_the_rules(action)
            if isinstance(action, ev.LookAtMemory):
                self._tell(self.memory)
            if isinstance(action, ev.Drop) and self.buries:
                self._tell(ev.Buried())

    def _hold_to_the_rules(self, action: ev.Action) -> None:
        match action:
            case ev.Make(number):
                assert self.alive is None, "never two of them"
                assert not self.was_closed
                assert self.standby.ready_since is not None
                assert self.now >= self.standby.ready_since + self.config.after_s
                assert not self.standby.memory_is_low
                self.alive, self.has_parked = number, False
            case ev.Drop(number):
                assert number == self.alive
                self.alive = None
            case ev.Promote(number, incarnation):
                assert number == self.alive
                assert self.has_parked
                self._serve(incarnation)
                self.alive = None
            case ev.StartCold(incarnation):
                self._serve(incarnation)
            case ev.Call(number) | ev.CheckCode(number):
                assert number == self.alive
                assert self.has_parked

    def _serve(self, incarnation: Incarnation) -> None:
        assert self.unserved is not None, "served twice, or unasked"
        assert self.unserved[0] == incarnation
        self.unserved = None

    def wait(self, seconds: float) -> list[ev.Action]:
        """Let time pass; each deadline on the way is served at its instant."""
        before, until = len(self.actions), self.now + seconds
        while (at := core.next_deadline(self.standby, self.config)) is not None and at <= until:
            self.now = max(self.now, at)
            told = self.standby
            self._tell(ev.TimePassed())
            assert self.standby != told, "a deadline that changes nothing makes the loop spin"
            assert self.unserved is None or self.now < self.unserved[1] + self.config.answer_timeout_s
        self.now = until
        return self.actions[before:]

    def parked(self) -> "World":
        """A standby is parked beside a worker that is ready."""
        self.tell(ev.WorkerReady(self.now))
        assert self.wait(self.config.after_s) == [ev.LookAtMemory(), ev.Make(1)]
        self.tell(ev.Parked(1))
        return self

    def promoted(self, incarnation: Incarnation) -> "World":
        """The parked standby becomes this life."""
        number = self.standby.number
        self.tell(ev.WorkerAway(), ev.ChildWanted(incarnation))
        assert self.actions[-1] == ev.Call(number), "now, or ahead"
        assert self.tell(ev.Answered(number), ev.WakeTaken(incarnation)) == [ev.Promote(number, incarnation)]
        return self


def test_a_standby_is_made_only_beside_a_worker_that_has_been_ready_for_a_while() -> None:
    world = World()
    world.tell(ev.WorkerReady(world.now))
    assert world.wait(29.9) == []
    assert world.wait(0.2) == [ev.LookAtMemory(), ev.Make(1)]


def test_a_worker_that_goes_away_before_it_is_stable_gets_none() -> None:
    world = World()
    for _ in range(5):
        world.tell(ev.WorkerReady(world.now))
        world.wait(29.0)
        world.tell(ev.WorkerAway())
    assert world.wait(100.0) == []


def test_a_parked_one_that_answers_is_the_next_life() -> None:
    world = World().parked().promoted(life(2))
    assert world.standby.stage is Stage.NONE


def test_one_that_does_not_answer_costs_its_time_and_no_more() -> None:
    world = World().parked()
    world.tell(ev.WorkerAway(), ev.ChildWanted(life(2)))
    assert world.wait(CONFIG.answer_timeout_s - 0.001) == []
    dropped, cold = world.wait(0.002)
    assert isinstance(dropped, ev.Drop)
    assert (dropped.reason, cold) == (ev.Reason.NO_ANSWER, ev.StartCold(life(2), dropped.why))
    assert world.tell(ev.Answered(1)) == [], "too late"


def test_it_is_called_ahead_when_a_worker_dies_and_has_answered_when_it_is_wanted() -> None:
    world = World().parked()
    assert world.tell(ev.WorkerEnded(life(1), is_ordered=False)) == [ev.Call(1)]
    assert world.tell(ev.Answered(1)) == []
    assert world.tell(ev.ChildWanted(life(2))) == [ev.Promote(1, life(2))]


def test_called_ahead_and_wanted_late_it_is_called_again() -> None:
    world = World().parked()
    world.tell(ev.WorkerEnded(life(1), is_ordered=False), ev.Answered(1))
    assert world.wait(1.0) == []
    assert world.tell(ev.ChildWanted(life(2))) == [ev.Call(1)]


def test_called_ahead_in_vain_it_costs_the_cold_start_less_than_a_call() -> None:
    world = World().parked()
    world.tell(ev.WorkerEnded(life(1), is_ordered=False))
    world.wait(CONFIG.answer_timeout_s - 0.01)
    assert world.tell(ev.ChildWanted(life(2))) == []
    assert [type(action) for action in world.wait(0.011)] == [ev.Drop, ev.StartCold]


def test_one_that_is_seen_to_be_stopped_costs_nothing() -> None:
    world = World().parked()
    world.tell(ev.ChildWanted(life(2)))
    assert [type(action) for action in world.tell(ev.CannotAnswer(1, "it is in state T"))] == [
        ev.Drop,
        ev.StartCold,
    ]


def test_one_that_dies_when_it_is_called_costs_nothing() -> None:
    world = World().parked()
    world.tell(ev.ChildWanted(life(2)))
    assert world.tell(ev.Ended(1, "SIGKILL")) == [ev.StartCold(life(2), "SIGKILL")]


def test_one_that_is_still_being_made_is_given_up_for_a_cold_start() -> None:
    world = World()
    world.tell(ev.WorkerReady(world.now))
    world.wait(30.0)
    dropped, cold = world.tell(ev.WorkerAway(), ev.ChildWanted(life(2)))
    assert isinstance(dropped, ev.Drop)
    assert isinstance(cold, ev.StartCold)
    assert world.tell(ev.Parked(1)) == []


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (ev.Reloaded(), ev.Reason.RELOAD),
        (ev.CodeChanged(1, "agent/main.py"), ev.Reason.CODE),
        (SCARCE, ev.Reason.MEMORY),
        (ev.MemoryLooked(8 << 30, is_squeezed=True), ev.Reason.MEMORY),
        (ev.WorkerEnded(life(1), is_ordered=True), ev.Reason.ORDERED),
        (ev.Closing(), ev.Reason.CLOSING),
    ],
)
def test_it_is_dropped_when_it_is_no_longer_right(event: ev.Event, reason: ev.Reason) -> None:
    world = World().parked()
    first = world.tell(event)[0]
    assert isinstance(first, ev.Drop)
    assert first.reason is reason


@pytest.mark.parametrize("event", [ev.Reloaded(), ev.CodeChanged(1, "agent/main.py")])
def test_what_is_outdated_is_replaced_at_once(event: ev.Event) -> None:
    world = World().parked()
    _, *after = world.tell(event)
    assert after == [ev.LookAtMemory(), ev.Make(2)]


def test_an_old_one_is_replaced() -> None:
    world = World().parked()
    actions = world.wait(CONFIG.max_age_s)
    assert ev.Drop(1, ev.Reason.AGE, "its age") in actions
    assert actions[-1] == ev.Make(2)


def test_one_that_does_not_die_is_not_joined_by_another() -> None:
    world = World(buries=False).parked()
    assert [type(action) for action in world.tell(ev.Reloaded())] == [ev.Drop]
    assert world.wait(5000.0) == []
    assert world.tell(ev.Buried()) == [ev.LookAtMemory(), ev.Make(2)]


def test_its_code_is_checked_now_and_then() -> None:
    world = World().parked()
    assert world.wait(95.0).count(ev.CheckCode(1)) == 3


def test_while_memory_is_low_there_is_none_and_afterwards_there_is_one_again() -> None:
    world = World().parked()
    world.memory = SCARCE
    assert [type(action) for action in world.wait(10.0)] == [ev.LookAtMemory, ev.Drop]
    assert set(map(type, world.wait(300.0))) == {ev.LookAtMemory}
    world.memory = ev.MemoryLooked(CONFIG.min_available_bytes + 1)
    assert set(map(type, world.wait(30.0))) == {ev.LookAtMemory}, "not enough to make up its mind again"
    world.memory = PLENTY
    assert world.wait(10.0)[-1] == ev.Make(2)


def test_a_crash_does_not_cost_the_standby_and_an_order_does() -> None:
    world = World().parked()
    assert world.tell(ev.WorkerEnded(life(1), is_ordered=False), ev.Answered(1)) == [ev.Call(1)]
    assert isinstance(world.tell(ev.WorkerEnded(life(1), is_ordered=True))[0], ev.Drop)


def test_two_quick_deaths_of_promoted_ones_and_the_next_starts_are_cold() -> None:
    world = World().parked()
    for number in (2, 4):
        world.promoted(life(number))
        world.tell(ev.WorkerEnded(life(number), is_ordered=False), ev.ChildWanted(life(number + 1)))
        world.tell(ev.WorkerReady(world.now))
        world.wait(60.0)
        world.tell(ev.Parked(world.standby.number))
    assert core.is_cold(world.standby, CONFIG)
    assert world.standby.stage is Stage.NONE
    assert ev.Make not in map(type, world.wait(3000.0))
    # The settings are read anew: somebody has done something about it.
    assert ev.Make in map(type, world.tell(ev.Reloaded()))


def test_a_promoted_one_that_proves_good_is_counted_against_nobody() -> None:
    world = World().parked()
    for number in range(2, 20):
        world.promoted(life(number))
        world.tell(ev.WorkerReady(world.now))
        world.wait(100.0)
        world.tell(ev.Parked(world.standby.number), ev.WorkerEnded(life(number), is_ordered=False))
    assert world.standby.quick_deaths == 0


def test_one_that_cannot_be_made_is_tried_ever_more_seldom() -> None:
    world = World()
    world.tell(ev.WorkerReady(world.now))
    instants = []
    for _ in range(10):
        while ev.Make not in map(type, world.wait(1.0)):
            pass
        instants.append(world.now)
        world.tell(ev.Ended(world.standby.number, "exit code 78"))
    waits = [later - earlier for earlier, later in pairwise(instants)]
    assert waits[0] == pytest.approx(10, abs=2)
    assert waits[-1] == pytest.approx(600, abs=12)


def test_a_wake_that_is_not_taken_ends_the_life() -> None:
    world = World().parked()
    world.tell(ev.ChildWanted(life(2)), ev.Answered(1))
    assert world.wait(CONFIG.wake_timeout_s) == [ev.KillUnwoken(life(2))]
    assert world.wait(100.0) == []


def test_after_a_standstill_silence_counts_only_once_all_that_came_was_heard() -> None:
    """The nanny itself was stopped for long: other news come first, and the answer right behind them."""
    world = World().parked()
    world.tell(ev.ChildWanted(life(2)))
    world.now += 10.0
    assert world.tell(ev.CodeChanged(7, "of one long gone"), ev.Answered(1)) == [ev.Promote(1, life(2))]
    world.now += 10.0
    assert world.tell(ev.WorkerReady(world.now), ev.WakeTaken(life(2))) == []
    assert world.wait(20.0) == []


NUMBERS = st.integers(1, 4)
EVENTS: st.SearchStrategy[Sequence[tuple[float, ev.Event]]] = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.2, 1.0, 31.0, 700.0, 30000.0]),
        st.one_of(
            st.just(ev.WorkerAway()),
            st.builds(ev.WorkerEnded, NUMBERS.map(life), st.booleans()),
            st.builds(ev.ChildWanted, NUMBERS.map(life)),
            st.builds(ev.Parked, NUMBERS),
            st.builds(ev.Answered, NUMBERS),
            st.builds(ev.Ended, NUMBERS, st.just("died")),
            st.builds(ev.CannotAnswer, NUMBERS, st.just("stopped")),
            st.builds(ev.WakeTaken, NUMBERS.map(life)),
            st.builds(ev.CodeChanged, NUMBERS, st.just("a file")),
            st.sampled_from([PLENTY, SCARCE, ev.Reloaded(), ev.TimePassed(), ev.WorkerReady(0.0)]),
        ),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(EVENTS, st.booleans())
def test_whatever_happens_whoever_asks_is_served_once_and_there_is_never_more_than_one(
    history: Sequence[tuple[float, ev.Event]],
    closes: bool,
) -> None:
    world = World()
    for wait_s, event in history:
        world.tell(ev.WorkerReady(world.now) if isinstance(event, ev.WorkerReady) else event)
        world.wait(wait_s)
    if closes:
        world.tell(ev.Closing())
        assert world.standby.stage is Stage.NONE
    world.wait(1.0)
    assert world.unserved is None
    assert (world.alive is None) == (world.standby.stage is Stage.NONE)
