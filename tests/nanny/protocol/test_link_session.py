"""Two ends of a session, back to back in memory."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nanny.protocol.codec import decode_frame, encode_frame
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import (
    Ack,
    Close,
    CommandOutcome,
    Hello,
    Message,
    NannyReport,
    Outcome,
    Ping,
    Pong,
    Refused,
    Registered,
    Role,
    SpecOffer,
    Welcome,
)
from nanny.protocol.session_events import (
    BacklogFull,
    Established,
    LocalError,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_states import State
from tests.support.session_pair import TICK, SessionPair, order, outcome
from tests.support.wire_examples import EXAMPLES, HELLO

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 10.0
WELCOME = Welcome(
    1, "s", resumed=False, received_up_to=0, keepalive_interval_s=INTERVAL, report_interval_s=INTERVAL
)


def report(phase: str) -> NannyReport:
    example = EXAMPLES["nanny-report.bare"]
    assert isinstance(example, NannyReport)
    return replace(example, phase=phase)


def frame(message: Message, version: int = 1, sequence: int | None = None) -> bytes:
    return encode_frame(message, version=version, sequence=sequence)


def open_link(config: SessionConfig | None = None) -> LinkSession:
    """Give link's end of a fresh session, at time 0, whose server is the test."""
    session = LinkSession(Role.LINK, Role.SERVER, config)
    session.connection_made(HELLO, 0.0)
    session.receive_frame(frame(WELCOME), 0.0)
    session.frames_to_send()
    return session


def sent_by(session: LinkSession) -> list[Message]:
    return [decode_frame(each).message for each in session.frames_to_send()]


def snapshot(session: LinkSession) -> str:
    """Give all that a session remembers, comparable."""
    memory = copy.deepcopy(vars(session))
    outbox = memory.pop("_outbox")
    return repr((memory, vars(outbox)))


# Greeting


def test_hello_and_welcome_establish_both_ends() -> None:
    pair = SessionPair()

    pair.establish()

    assert pair.server.events == [Established(HELLO, resumed=False)]
    assert pair.link.events == [Established(replace(WELCOME, session_id="session-1"), resumed=False)]


def test_the_highest_common_version_is_spoken_from_then_on() -> None:
    pair = SessionPair(SessionConfig(protocol_versions=(1, 2, 3)), SessionConfig(protocol_versions=(2, 3, 4)))
    pair.connect()
    hello = pair.server.incoming[0]
    pair.deliver(pair.server)
    welcome = pair.link.incoming[0]
    pair.link.session.send(outcome(1))
    pair.deliver(pair.link)
    first = pair.server.incoming[0]
    pair.settle()

    assert [decode_frame(each).version for each in (hello, welcome, first)] == [1, 1, 3]
    assert pair.server.received == [outcome(1)]


def test_without_a_common_version_the_server_refuses_and_names_both_lists() -> None:
    pair = SessionPair(SessionConfig(protocol_versions=(3, 4)), SessionConfig(protocol_versions=(1, 2)))

    pair.establish()

    reason = "no common protocol version: we speak [1, 2], you speak [3, 4]"
    assert pair.link.events == [SessionRefused("no-common-version", reason, None)]
    assert pair.server.events == [SessionFailed(reason)]


def test_the_server_may_refuse_a_connection_before_its_hello_is_delivered() -> None:
    pair = SessionPair()
    pair.connect()

    pair.server.session.refuse("identity-conflict", "cloned image", 60.0)
    pair.collect()
    pair.deliver(pair.link)

    assert pair.link.events == [SessionRefused("identity-conflict", "cloned image", 60.0)]


def test_a_server_that_accepts_and_never_speaks_costs_a_reconnect() -> None:
    session = LinkSession(Role.LINK, Role.SERVER, SessionConfig(hello_timeout_s=5.0))
    session.connection_made(HELLO, 100.0)

    assert session.next_deadline() == 105.0
    assert session.handle_deadline(105.0 - TICK) == ()
    assert session.handle_deadline(105.0) == (SessionFailed("no answer to Hello within 5 s"),)
    assert session.next_deadline() is None


def test_a_client_that_connects_and_never_speaks_is_dropped() -> None:
    session = LinkSession(Role.SERVER, Role.LINK)
    session.connection_accepted("s", 100.0)

    assert session.handle_deadline(110.0) == (SessionFailed("no Hello within 10 s"),)


@pytest.mark.parametrize(
    ("welcome", "told"),
    [
        (replace(WELCOME, protocol_version=2), "chose version 2, offered were (1,)"),
        (replace(WELCOME, resumed=True), "resumed 's', asked for was None"),
        (replace(WELCOME, received_up_to=1), "acknowledges 1 in a new session"),
    ],
)
def test_a_welcome_that_cannot_be_ends_the_connection(welcome: Welcome, told: str) -> None:
    session = LinkSession(Role.LINK, Role.SERVER)
    session.connection_made(HELLO, 0.0)

    assert session.receive_frame(frame(welcome), 1.0) == (SessionFailed(told),)
    assert session.state is State.FINISHED


def test_a_welcome_that_acknowledges_too_much_is_refused_and_the_session_given_up() -> None:
    session = open_link()
    session.connection_lost()
    session.connection_made(HELLO, 1.0)

    events = session.receive_frame(frame(replace(WELCOME, resumed=True, received_up_to=3)), 1.0)
    session.connection_lost()
    session.connection_made(HELLO, 2.0)

    assert events == (SessionFailed("acknowledges 3, which cannot be"),)
    assert sent_by(session) == [HELLO]


def test_the_session_of_a_link_is_not_opened_by_a_worker() -> None:
    session = LinkSession(Role.SERVER, Role.LINK)
    session.connection_accepted("s", 0.0)

    events = session.receive_frame(frame(replace(HELLO, role=Role.WORKER)), 0.0)

    assert events == (SessionFailed("Hello of a worker in the session of a link"),)


# Messages


def test_messages_arrive_in_order_both_ways() -> None:
    pair = SessionPair()
    pair.establish()

    for number in range(5):
        pair.link.session.send(outcome(number))
        pair.server.session.send(order(number))
    pair.settle()

    assert pair.server.received == [outcome(number) for number in range(5)]
    assert pair.link.received == [order(number) for number in range(5)]


def test_messages_sent_before_the_connection_go_out_after_the_greeting() -> None:
    pair = SessionPair()
    pair.link.session.send(outcome(1))
    pair.link.session.send(report("running"))

    pair.establish()

    assert pair.server.received == [outcome(1), report("running")]


def test_of_reports_only_the_newest_waits_and_outcomes_all_do() -> None:
    pair = SessionPair()
    for number in range(3):
        pair.link.session.send(report(f"phase-{number}"))
        pair.link.session.send(outcome(number))

    pair.establish()

    assert pair.server.received == [outcome(0), outcome(1), outcome(2), report("phase-2")]


def test_a_report_that_was_handed_out_is_not_repeated() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.send(report("running"))
    pair.collect()
    pair.cut()

    pair.establish()

    assert pair.server.received == []


def test_what_is_in_a_message_may_be_changed_once_it_is_sent() -> None:
    session = LinkSession(Role.SERVER, Role.WORKER)
    spec = {"workloads": [1]}
    session.send(SpecOffer(1, spec))
    spec["workloads"].append(2)

    session.connection_accepted("s", 0.0)
    session.receive_frame(frame(replace(HELLO, role=Role.WORKER)), 0.0)

    assert sent_by(session)[-1] == SpecOffer(1, {"workloads": [1]})


@pytest.mark.parametrize(
    ("role", "peer", "message"),
    [
        (Role.LINK, Role.SERVER, order(1)),
        (Role.SERVER, Role.LINK, outcome(1)),
        (Role.SERVER, Role.LINK, Registered("n")),
        (Role.WORKER, Role.SERVER, outcome(1)),
    ],
)
def test_a_message_that_is_not_ours_to_send_is_an_error_of_ours(
    role: Role, peer: Role, message: CommandOutcome
) -> None:
    with pytest.raises(LocalError, match="is not sent from"):
        LinkSession(role, peer).send(message)


def test_a_message_of_the_session_layer_is_not_for_the_program_to_send() -> None:
    with pytest.raises(LocalError, match="Ack is not sent from link to server"):
        LinkSession(Role.LINK, Role.SERVER).send(Ack(1))  # type: ignore[arg-type]


def test_an_invalid_message_is_an_error_of_ours_and_changes_nothing() -> None:
    session = LinkSession(Role.LINK, Role.SERVER)

    with pytest.raises(LocalError, match=r"command-outcome\.command_id: expected a UUID"):
        session.send(CommandOutcome("one", Outcome.DONE, ""))

    assert session.backlog == (0, 0)


def test_a_message_larger_than_a_frame_is_an_error_of_ours() -> None:
    session = LinkSession(Role.LINK, Role.SERVER, SessionConfig(max_frame_bytes=100))

    with pytest.raises(LocalError, match=r"nanny-report: \d+ bytes, the limit is 100"):
        session.send(report("running"))


def test_more_than_may_wait_is_not_taken_and_what_waits_is_kept() -> None:
    pair = SessionPair(SessionConfig(max_unacknowledged=3))
    for number in range(3):
        pair.link.session.send(outcome(number))
    with pytest.raises(BacklogFull, match="3 messages, "):
        pair.link.session.send(outcome(3))
    pair.link.session.send(report("running"))

    pair.establish()
    pair.advance(2.0)
    pair.link.session.send(outcome(3))
    pair.settle()

    assert pair.server.received == [outcome(0), outcome(1), outcome(2), report("running"), outcome(3)]


def test_bytes_that_wait_are_limited_too() -> None:
    session = LinkSession(Role.LINK, Role.SERVER, SessionConfig(max_unacknowledged_bytes=1000))

    session.send(outcome(0))
    size = session.backlog[1]
    for number in range(1, 1000 // size):
        session.send(outcome(number))

    with pytest.raises(BacklogFull):
        session.send(outcome(0))

    assert session.backlog == (1000 // size, 1000 // size * size)


# Acknowledgements


def test_an_acknowledgement_waits_for_company_and_then_goes_alone() -> None:
    session = open_link()
    session.receive_frame(frame(order(1), sequence=1), 5.0)

    assert session.frames_to_send() == []
    assert session.next_deadline() == 6.0
    assert session.handle_deadline(6.0) == ()
    assert session.next_deadline() == 15.0
    assert sent_by(session) == [Ack(1)]


def test_an_acknowledgement_travels_with_the_next_message() -> None:
    session = open_link()
    session.receive_frame(frame(order(1), sequence=1), 5.0)
    session.send(outcome(1))

    assert sent_by(session) == [Ack(1), outcome(1)]
    assert session.next_deadline() == 15.0


def test_many_messages_are_acknowledged_at_once() -> None:
    session = open_link(SessionConfig(ack_after=3))
    for number in (1, 2, 3):
        assert session.frames_to_send() == []
        session.receive_frame(frame(order(number), sequence=number), 5.0)

    assert sent_by(session) == [Ack(3)]


def test_acknowledged_messages_are_forgotten() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.send(outcome(1))
    pair.settle()
    assert pair.link.session.backlog[0] == 1

    pair.advance(2.0)

    assert pair.link.session.backlog == (0, 0)


def test_an_idle_session_acknowledges_nothing() -> None:
    session = open_link()

    session.handle_deadline(9.0)

    assert session.frames_to_send() == []


# Loss and resumption


def test_the_session_is_resumed_and_nothing_is_repeated_that_arrived() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.send(outcome(1))
    pair.server.session.send(order(1))
    pair.settle()
    pair.cut()

    pair.establish()

    assert [event.resumed for event in pair.link.events if isinstance(event, Established)] == [False, True]
    assert (pair.server.received, pair.link.received) == ([outcome(1)], [order(1)])
    assert (pair.link.session.backlog, pair.server.session.backlog) == ((0, 0), (0, 0))
    assert pair.link.session.duplicates_total == pair.server.session.duplicates_total == 0


def conversation(pair: SessionPair, step: Callable[[], bool]) -> None:
    """Let both ends talk, frame by frame, and ask `step` after each whether to go on."""
    pair.connect()
    for number in range(3):
        pair.link.session.send(outcome(number))
        pair.server.session.send(order(number))
    while step() and (pair.server.incoming or pair.link.incoming):
        pair.deliver(pair.server if pair.server.incoming else pair.link)


def assert_all_arrived_once(pair: SessionPair) -> None:
    assert pair.server.received == [outcome(number) for number in range(3)]
    assert pair.link.received == [order(number) for number in range(3)]


@pytest.mark.parametrize("boundary", range(10))
def test_a_cut_after_any_number_of_frames_loses_and_repeats_nothing(boundary: int) -> None:
    pair = SessionPair()
    left = iter(range(boundary))
    conversation(pair, lambda: next(left, None) is not None)
    if pair.connected:
        pair.cut()

    pair.establish()

    assert_all_arrived_once(pair)


def longest_frames() -> list[tuple[int, int]]:
    """Give, for each frame of the conversation, its place and its length."""
    pair, lengths = SessionPair(), []

    def note() -> bool:
        waiting = pair.server.incoming or pair.link.incoming
        if waiting:
            lengths.append(len(waiting[0]))
        return True

    conversation(pair, note)
    return list(enumerate(lengths))


@pytest.mark.parametrize(("place", "length"), longest_frames())
def test_a_frame_cut_at_any_byte_ends_the_connection_and_loses_nothing(place: int, length: int) -> None:
    for kept in range(length):
        pair = SessionPair()
        left = iter(range(place))
        conversation(pair, lambda: next(left, None) is not None)  # noqa: B023
        end = pair.server if pair.server.incoming else pair.link
        pair.deliver(end, end.incoming[0][:kept])
        assert len(end.failures) == 1, kept
        assert not pair.connected

        pair.establish()

        assert_all_arrived_once(pair)


def test_a_server_that_forgot_gets_the_unacknowledged_again_under_a_new_session() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.send(outcome(1))
    pair.settle()
    pair.advance(2.0)
    pair.link.session.send(outcome(2))
    pair.settle()
    pair.restart_server()

    pair.link.session.send(outcome(3))
    pair.establish()

    assert pair.server.received == [outcome(2), outcome(3)]
    assert pair.link.events[-1] == Established(replace(WELCOME, session_id="session-2"), resumed=False)


def test_a_client_that_forgot_gets_the_unacknowledged_again_under_a_new_session() -> None:
    pair = SessionPair()
    pair.establish()
    pair.server.session.send(order(1))
    pair.settle()
    pair.cut()
    pair.link.session = LinkSession(Role.LINK, Role.SERVER)

    pair.establish()
    pair.link.session.send(outcome(1))
    pair.settle()

    assert pair.link.received == [order(1), order(1)]
    assert pair.server.received == [outcome(1)]


def test_a_client_that_claims_more_than_was_sent_begins_afresh() -> None:
    session = LinkSession(Role.SERVER, Role.LINK)
    session.connection_accepted("s-1", 0.0)
    session.receive_frame(frame(HELLO), 0.0)
    session.connection_lost()
    session.connection_accepted("s-2", 1.0)

    session.receive_frame(frame(replace(HELLO, session_id="s-1", received_up_to=5)), 1.0)

    assert sent_by(session) == [replace(WELCOME, session_id="s-2")]


def test_no_old_session_is_resumed_by_a_ghost() -> None:
    session = LinkSession(Role.SERVER, Role.LINK)
    for number, asked in ((1, None), (2, None), (3, "s-1")):
        session.connection_accepted(f"s-{number}", 0.0)
        session.receive_frame(frame(replace(HELLO, session_id=asked)), 0.0)
        welcome = sent_by(session)[0]
        session.connection_lost()

    assert welcome == replace(WELCOME, session_id="s-3")


# Numbering


def test_a_repeated_message_is_dropped_and_acknowledged_again() -> None:
    session = open_link()
    for at in (1.0, 2.0):
        session.receive_frame(frame(order(1), sequence=1), at)
        session.handle_deadline(at + 1.0)
        assert sent_by(session) == [Ack(1)]

    assert session.duplicates_total == 1


def test_a_gap_is_refused_since_something_was_lost_or_overtaken() -> None:
    session = open_link()

    events = session.receive_frame(frame(order(2), sequence=2), 1.0)

    assert events == (SessionFailed("sequence number 2 after 0"),)
    assert sent_by(session) == [Close("protocol-violation", "sequence number 2 after 0")]


@pytest.mark.parametrize(
    "wrong",
    [
        frame(order(1)),
        frame(EXAMPLES["ping.full"], sequence=1),
        frame(order(1), version=2, sequence=1),
        frame(outcome(1), sequence=1),
        frame(Registered("n"), sequence=1),
        frame(HELLO),
        frame(WELCOME),
        frame(Refused("late", "")),
        frame(Ack(1)),
        frame(Pong(0)),
        frame(Pong(1)),
        b"",
        b"\x00" * 300_000,
    ],
    ids=[
        "unnumbered",
        "numbered ping",
        "other version",
        "ours",
        "a worker's",
        "hello",
        "second welcome",
        "late refusal",
        "ack of nothing",
        "pong 0",
        "pong to no ping",
        "empty",
        "huge",
    ],
)
def test_what_the_peer_must_not_send_ends_the_connection_and_changes_nothing_else(wrong: bytes) -> None:
    session = open_link()
    session.send(outcome(1))
    backlog, session_id = session.backlog, session.session_id

    (event,) = session.receive_frame(wrong, 1.0)

    assert isinstance(event, SessionFailed)
    assert (session.backlog, session.session_id, session.state) == (backlog, session_id, State.FINISHED)
    assert sent_by(session) == [Close("protocol-violation", event.reason)]


def test_an_acknowledgement_never_goes_back() -> None:
    session = open_link()
    session.send(outcome(1))
    session.frames_to_send()
    session.receive_frame(frame(Ack(1)), 1.0)

    assert session.receive_frame(frame(Ack(0)), 2.0) == (SessionFailed("acknowledges 0, which cannot be"),)


def test_what_was_queued_but_not_sent_cannot_be_acknowledged() -> None:
    session = open_link()
    session.send(outcome(1))

    assert session.receive_frame(frame(Ack(1)), 2.0) == (SessionFailed("acknowledges 1, which cannot be"),)


# Keep-alive


def test_an_idle_connection_is_kept_alive_by_pings() -> None:
    pair = SessionPair()
    pair.establish()

    pair.advance(10 * INTERVAL)

    assert pair.connected
    assert pair.link.failures == pair.server.failures == []


def test_a_ping_is_sent_after_an_interval_of_silence_and_answered() -> None:
    session = open_link()

    assert session.next_deadline() == INTERVAL
    session.handle_deadline(INTERVAL)
    assert sent_by(session) == [Ping(1)]
    assert session.receive_frame(frame(Pong(1)), INTERVAL + 1.0) == ()
    assert session.next_deadline() == 2 * INTERVAL + 1.0


def test_a_flood_of_pings_costs_one_pong() -> None:
    session = open_link()
    for nonce in range(1000):
        session.receive_frame(frame(Ping(nonce)), 1.0)

    assert sent_by(session) == [Pong(999)]


def test_a_peer_silent_for_three_intervals_is_given_up() -> None:
    pair = SessionPair()
    pair.establish()
    silent_since = pair.now

    pair.advance(3 * INTERVAL + 1.0, frames_arrive=False)

    assert pair.link.failures + pair.server.failures == ["nothing heard for 30.0 s"]
    assert pair.now == silent_since + 3 * INTERVAL + 1.0


def test_any_frame_is_a_sign_of_life() -> None:
    session = open_link()
    for second in range(1, 100):
        session.receive_frame(frame(Ping(second)), float(second))
        assert session.handle_deadline(second + 0.5) == ()
        session.frames_to_send()

    assert session.state is State.OPEN


def test_an_end_that_was_late_itself_asks_before_it_judges() -> None:
    session = open_link()

    assert session.handle_deadline(500.0) == ()
    assert sent_by(session) == [Ping(1)]
    assert session.handle_deadline(500.0 + INTERVAL) == (SessionFailed("nothing heard for 510.0 s"),)


def test_a_deadline_that_was_dealt_with_is_never_due_again() -> None:
    session = open_link()
    session.receive_frame(frame(order(1), sequence=1), 0.5)
    at = 0.5
    while session.state is State.OPEN:
        deadline = session.next_deadline()
        assert deadline is not None
        assert deadline > at
        at = deadline
        session.handle_deadline(at)

    assert at == 0.5 + 3 * INTERVAL


def test_the_server_sets_the_interval_for_both() -> None:
    pair = SessionPair(SessionConfig(keepalive_interval_s=1.0), SessionConfig(keepalive_interval_s=50.0))
    pair.establish()

    deadlines = [end.session.next_deadline() for end in (pair.link, pair.server)]

    assert [round(at - pair.now) for at in deadlines if at is not None] == [50, 50]


# The last word


def test_a_close_comes_after_all_that_was_to_be_sent() -> None:
    pair = SessionPair()
    pair.establish()
    pair.server.session.send(order(1))
    pair.server.session.close("shutting-down", "upgrade", 2.5)
    pair.settle()

    assert pair.link.events[1:] == [MessageReceived(order(1)), PeerClosed("shutting-down", "upgrade", 2.5)]
    assert not pair.connected


def test_frames_after_the_last_word_are_ignored_and_come_again() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.send(outcome(1))
    pair.server.session.close("replaced", "")
    pair.collect()
    pair.deliver(pair.server)
    assert pair.server.received == []
    pair.cut()

    pair.establish()

    assert pair.server.received == [outcome(1)]


def test_both_ends_may_close_at_once() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.close("a", "")
    pair.server.session.close("b", "")
    pair.link.session.close("again", "")

    assert [decode_frame(each).message for each in pair.link.session.frames_to_send()] == [Close("a", "")]


def test_a_close_before_the_greeting_is_over_is_understood_at_either_end() -> None:
    config = SessionConfig(protocol_versions=(1, 2))
    pair = SessionPair(config, config)
    pair.connect()
    pair.link.session.close("never-mind", "")
    pair.settle()

    assert pair.server.events == [
        Established(replace(HELLO, protocol_versions=(1, 2)), resumed=False),
        PeerClosed("never-mind", "", None),
    ]


# Errors of our own


@pytest.mark.parametrize(
    "misuse",
    [
        lambda session: session.connection_made(HELLO, 0.0),
        lambda session: session.connection_accepted("s", 0.0),
        lambda session: session.connection_made(replace(HELLO, role=Role.WORKER), 0.0),
        lambda session: session.refuse("x", ""),
        lambda session: session.send(order(1)),
    ],
)
def test_what_is_not_possible_raises_and_changes_nothing(misuse: Callable[[LinkSession], None]) -> None:
    session = open_link()
    session.receive_frame(frame(order(1), sequence=1), 1.0)
    before = snapshot(session)

    with pytest.raises(LocalError):
        misuse(session)

    assert snapshot(session) == before


@pytest.mark.parametrize(
    "misuse",
    [
        lambda session: session.connection_lost(),
        lambda session: session.close("x", ""),
        lambda session: session.receive_frame(frame(WELCOME), 0.0),
    ],
)
def test_without_a_connection_there_is_nothing_to_end_or_to_receive(
    misuse: Callable[[LinkSession], None],
) -> None:
    session = LinkSession(Role.LINK, Role.SERVER)
    before = snapshot(session)

    with pytest.raises(LocalError):
        misuse(session)

    assert snapshot(session) == before
    assert (session.frames_to_send(), session.next_deadline(), session.handle_deadline(1e9)) == ([], None, ())


@pytest.mark.parametrize(
    ("role", "peer"), [(Role.LINK, Role.WORKER), (Role.SERVER, Role.SERVER), (Role.LINK, Role.LINK)]
)
def test_a_session_has_one_server(role: Role, peer: Role) -> None:
    with pytest.raises(LocalError):
        LinkSession(role, peer)


def test_a_hello_is_filled_in_by_the_session() -> None:
    session = LinkSession(Role.LINK, Role.SERVER, SessionConfig(protocol_versions=(1, 9)))
    session.connection_made(
        replace(HELLO, protocol_versions=(5,), session_id="stolen", received_up_to=9), 0.0
    )

    (hello,) = sent_by(session)

    assert isinstance(hello, Hello)
    assert (hello.protocol_versions, hello.session_id, hello.received_up_to) == ((1, 9), None, 0)
