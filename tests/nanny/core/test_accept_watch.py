"""The decision who answers, on a simulated queue: exact for silence, exact for life, never late."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.core.accept_watch import (
    AcceptEvent,
    AcceptWatch,
    FirstTaken,
    QueueSampled,
    Stance,
    TakenByOther,
    WorkerGone,
    WorkerShowedLife,
    WorkerStarted,
    next_deadline,
    observe,
)

AFTER_S = 1.0
ANSWERING = AcceptWatch(AFTER_S, stance=Stance.ANSWERING, yield_at=100.0)


def watching(lengths_and_arrivals: list[tuple[int, bool]]) -> AcceptWatch:
    """Give the watch after looks at its own deadlines, the first at 0."""
    watch, now = AcceptWatch(AFTER_S), 0.0
    for length, has_arrivals in lengths_and_arrivals:
        watch = observe(watch, QueueSampled(length, has_arrivals), now)
        now = next_deadline(watch) or now
    return watch


def look_until(
    watch: AcceptWatch, length: int, has_arrivals: bool | None, limit: int = 100
) -> tuple[AcceptWatch, float]:
    """Repeat one observation at the watch's own deadlines until it answers or is quiet."""
    now = watch.silent_since
    for _ in range(limit):
        if watch.stance is not Stance.WATCHING:
            break
        now = next_deadline(watch) or now
        watch = observe(watch, QueueSampled(length, has_arrivals), now)
    return watch, now


def test_an_empty_queue_needs_no_look_at_a_certain_time() -> None:
    watch = observe(AcceptWatch(AFTER_S), QueueSampled(0, True), 5.0)
    assert (watch.stance, next_deadline(watch)) == (Stance.QUIET, None)


@pytest.mark.parametrize("has_arrivals", [False, None])
def test_the_same_connection_waiting_is_answered_when_the_window_ends(has_arrivals: bool | None) -> None:
    begun = observe(AcceptWatch(AFTER_S), QueueSampled(1, True), 0.0)
    watch, now = look_until(begun, 1, has_arrivals)
    assert (watch.stance, now, watch.is_proof_weak) == (Stance.ANSWERING, AFTER_S, False)


def test_one_patient_client_whose_next_connection_follows_the_last_is_the_workers() -> None:
    begun = observe(AcceptWatch(AFTER_S), QueueSampled(1, True), 0.0)
    watch, _ = look_until(begun, 1, has_arrivals=True)
    assert watch.stance is Stance.WATCHING


@pytest.mark.parametrize(
    ("looks", "stance"),
    [
        ([(1, True), (0, False)], Stance.QUIET),
        ([(1, True), (0, True)], Stance.QUIET),
        ([(5, True), (4, False)], Stance.WATCHING),
        ([(5, True), (4, True)], Stance.WATCHING),
        ([(5, True), (5, True)], Stance.WATCHING),
    ],
)
def test_each_sign_of_an_accept_begins_the_window_anew(looks: list[tuple[int, bool]], stance: Stance) -> None:
    watch = watching(looks)
    assert watch.stance is stance
    if stance is Stance.WATCHING:
        assert watch.silent_since > 0.0


def test_an_arrival_told_after_its_growth_was_seen_is_no_sign_of_an_accept() -> None:
    late_edge = watching([(1, True), (2, False), (2, True)])
    assert (late_edge.silent_since, late_edge.is_edge_owed) == (0.0, False)
    again = watching([(1, True), (2, False), (2, True), (2, True)])
    assert again.silent_since > 0.0


def test_a_queue_that_only_grew_is_answered_in_time_but_the_proof_is_weak() -> None:
    watch, now, length = observe(AcceptWatch(AFTER_S), QueueSampled(1, True), 0.0), 0.0, 1
    while watch.stance is Stance.WATCHING:
        now, length = next_deadline(watch) or now, length + 10
        watch = observe(watch, QueueSampled(length, has_arrivals=True), now)
    assert (watch.stance, now, watch.is_proof_weak) == (Stance.ANSWERING, AFTER_S, True)
    confirmed = observe(watch, FirstTaken(0.99), now)
    assert (confirmed.stance, confirmed.is_proof_weak) == (Stance.ANSWERING, False)
    refuted = observe(watch, FirstTaken(0.2), now)
    assert (refuted.stance, next_deadline(refuted)) == (Stance.WATCHING, now)


def test_our_own_absence_is_not_taken_for_the_workers() -> None:
    begun = observe(AcceptWatch(AFTER_S), QueueSampled(1, True), 0.0)
    watch = observe(begun, QueueSampled(1, has_arrivals=False), 60.0)
    assert watch.stance is Stance.WATCHING
    watch, now = look_until(watch, 1, has_arrivals=False)
    assert watch.stance is Stance.ANSWERING
    assert 60.0 + 0.9 <= now <= 60.0 + AFTER_S


def test_a_beat_ends_answering_and_the_queue_is_looked_at_at_once() -> None:
    watch = observe(ANSWERING, WorkerShowedLife(), 7.0)
    assert (watch.stance, next_deadline(watch)) == (Stance.WATCHING, 7.0)
    assert observe(watch, QueueSampled(0, None), 7.0).stance is Stance.QUIET
    # What still waits has its whole window, and no longer.
    last, now = look_until(observe(watch, QueueSampled(3, has_arrivals=True), 7.0), 3, has_arrivals=False)
    assert (last.stance, now) == (Stance.ANSWERING, 8.0)


def test_a_beat_while_watching_changes_nothing() -> None:
    begun = observe(AcceptWatch(AFTER_S), QueueSampled(1, True), 0.0)
    assert observe(begun, WorkerShowedLife(), 0.5) == begun


def test_a_dead_worker_needs_no_window_and_is_not_yielded_to() -> None:
    for watch in (AcceptWatch(AFTER_S), observe(AcceptWatch(AFTER_S), QueueSampled(1, True), 0.0), ANSWERING):
        gone = observe(watch, WorkerGone(), 3.0)
        assert (gone.stance, next_deadline(gone), gone.is_yield_due(1e9)) == (Stance.ANSWERING, None, False)
        assert observe(gone, TakenByOther(), 4.0) == gone


def test_a_started_worker_is_answered_for_until_it_lives() -> None:
    gone = observe(AcceptWatch(AFTER_S), WorkerGone(), 3.0)
    started = observe(gone, WorkerStarted(), 4.0)
    assert started.stance is Stance.ANSWERING
    assert (started.is_yield_due(4.9), started.is_yield_due(5.0)) == (False, True)
    assert observe(started, WorkerShowedLife(), 4.5).stance is Stance.WATCHING


@pytest.mark.parametrize(
    ("length", "has_arrivals", "stance"),
    [
        (0, False, Stance.QUIET),
        (1, False, Stance.WATCHING),
        (2, True, Stance.WATCHING),
        (2, False, Stance.ANSWERING),
        (3, True, Stance.ANSWERING),
        (2, None, Stance.ANSWERING),
    ],
)
def test_a_yield_ends_with_the_worker_seen_or_with_an_answer(
    length: int, has_arrivals: bool | None, stance: Stance
) -> None:
    yielding = observe(ANSWERING, QueueSampled(2, True), 100.0)
    assert yielding.stance is Stance.YIELDING
    at = next_deadline(yielding)
    assert at is not None
    assert 0 < at - 100.0 <= 0.05
    watch = observe(yielding, QueueSampled(length, has_arrivals), at)
    assert watch.stance is stance
    assert not watch.is_yield_due(at)


def test_somebody_elses_accept_ends_answering() -> None:
    assert observe(ANSWERING, TakenByOther(), 7.0).stance is Stance.WATCHING


EVENTS: st.SearchStrategy[AcceptEvent] = st.one_of(
    st.builds(QueueSampled, st.integers(0, 3), st.sampled_from([True, False, None])),
    st.builds(FirstTaken, st.floats(0, 2)),
    st.sampled_from([TakenByOther(), WorkerShowedLife(), WorkerStarted(), WorkerGone()]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0, 2)), max_size=40))
def test_no_order_of_events_leaves_waiting_connections_without_a_next_step(
    steps: list[tuple[AcceptEvent, float]],
) -> None:
    watch, now = AcceptWatch(AFTER_S), 0.0
    for event, passed_s in steps:
        now += passed_s
        watch = observe(watch, event, now)
        deadline = next_deadline(watch)
        if watch.stance in (Stance.WATCHING, Stance.YIELDING):
            assert deadline is not None
            assert deadline <= max(now + 0.05, watch.silent_since + AFTER_S)
        else:
            # Selected for reading: the next connection is the next step.
            assert deadline is None


class Queue:
    """An accept queue with arrivals and accepts at given times, seen as the shell sees it."""

    def __init__(self, arrivals: list[float], accepts: list[float]) -> None:
        self.events = sorted([(at, 1) for at in arrivals] + [(at, -1) for at in accepts])
        self.waiting: list[float] = []
        self.has_arrivals = False

    def pass_until(self, now: float) -> None:
        while self.events and self.events[0][0] <= now:
            at, change = self.events.pop(0)
            if change > 0:
                self.waiting.append(at)
                self.has_arrivals = True
            elif self.waiting:
                del self.waiting[0]

    def sample(self) -> QueueSampled:
        seen = QueueSampled(len(self.waiting), self.has_arrivals)
        self.has_arrivals = False
        return seen


def drive(queue: Queue, until: float) -> list[tuple[float, float, bool]]:
    """Run the watch over the queue; give (when, age, proved) for each connection that it took."""
    watch, now = AcceptWatch(AFTER_S), 0.0
    taken: list[tuple[float, float, bool]] = []
    while True:
        wake_at = next_deadline(watch)
        if wake_at is None:
            upcoming = [at for at, change in queue.events if change > 0]
            if not queue.waiting and not upcoming:
                return taken
            wake_at = now if queue.waiting else upcoming[0]
        now = max(now, wake_at)
        if now > until:
            return taken
        queue.pass_until(now)
        if watch.stance is not Stance.ANSWERING:
            watch = observe(watch, queue.sample(), now)
        watch = replace(watch, yield_at=float("inf"))
        while watch.stance is Stance.ANSWERING and queue.waiting:
            age_s = now - queue.waiting.pop(0)
            if watch.is_proof_weak:
                watch = observe(watch, FirstTaken(age_s), now)
            taken.append((now, age_s, watch.stance is Stance.ANSWERING))


TIMES = st.lists(st.floats(0, 5), min_size=1, max_size=60)


@settings(deadline=None)
@given(TIMES)
def test_with_nobody_accepting_every_connection_is_answered_within_the_window(arrivals: list[float]) -> None:
    taken = drive(Queue(arrivals, []), until=10.0)
    assert len(taken) == len(arrivals)
    assert max(age_s for _, age_s, _ in taken) <= AFTER_S + 1e-9
    assert all(proved for _, _, proved in taken)


@settings(deadline=None)
@given(TIMES, st.floats(0, 4))
def test_after_the_last_accept_every_connection_is_answered_within_the_window_and_one_look(
    arrivals: list[float], last_accept: float
) -> None:
    accepts = [at for at in arrivals if at < last_accept]
    # Each accept comes a moment after its arrival, so that they never meet in one instant.
    queue = Queue(arrivals, [at + 0.01 for at in accepts])
    taken = drive(queue, until=10.0)
    assert len(taken) + len(accepts) >= len(arrivals)
    # A weak proof that was refuted costs a second window.
    weak = [at for at, _, proved in taken if not proved]
    assert max((age_s for _, age_s, _ in taken), default=0) <= (1.08 if not weak else 2.16) * AFTER_S


@settings(deadline=None)
@given(TIMES, st.floats(0.001, 0.45))
def test_a_worker_that_accepts_before_half_a_window_never_has_its_silence_proved(
    arrivals: list[float], latency_s: float
) -> None:
    queue = Queue(arrivals, [at + latency_s for at in arrivals])
    taken = drive(queue, until=10.0)
    assert [age_s for _, age_s, proved in taken if proved] == []


@settings(deadline=None)
@given(st.floats(0.001, 0.3), st.integers(1, 5))
def test_patient_clients_that_come_again_at_once_are_never_stolen(latency_s: float, clients: int) -> None:
    """Each new connection follows an accept: the queue's length never changes."""
    accepts = [latency_s * (n + 1) / clients for n in range(int(8 * clients / latency_s))]
    queue = Queue([0.0] * clients + [at + 1e-6 for at in accepts], accepts)
    assert drive(queue, until=7.0) == []
