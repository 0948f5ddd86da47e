"""Whatever happens to the connections, every numbered message arrives and in order.

It arrives once as long as its session lives. One that was given up (a greeting that was no greeting) is followed by
a new one, in which what was never acknowledged is sent again: commands and outcomes have ids for that.

Hypothesis plays the network, the clock and both programs: it sends, delivers, loses, repeats and garbles frames,
cuts, closes, and lets time pass, and at the end connects once more and compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nanny.protocol.messages import NEWEST_ONLY, NannyReport
from nanny.protocol.session_events import SessionConfig
from tests.support.session_pair import End, SessionPair, order, outcome
from tests.support.wire_examples import EXAMPLES

if TYPE_CHECKING:
    from nanny.protocol.link_session import LinkSession

ENDS = st.sampled_from(["link", "server"])
CONFIG = SessionConfig(ack_after=3)


def _first_arrivals(end: End) -> list[object]:
    arrived: list[object] = []
    for message in end.received:
        if type(message) not in NEWEST_ONLY and message not in arrived:
            arrived.append(message)
    return arrived


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pair = SessionPair(CONFIG, CONFIG)
        self.sent_by_link: list[object] = []
        self.sent_by_server: list[object] = []

    def end(self, name: str) -> End:
        return self.pair.link if name == "link" else self.pair.server

    def session(self, name: str) -> LinkSession:
        return self.end(name).session

    @rule(count=st.integers(1, 5))
    def link_sends(self, count: int) -> None:
        for _ in range(count):
            message = outcome(len(self.sent_by_link))
            self.pair.link.session.send(message)
            self.sent_by_link.append(message)
        self.pair.collect()

    @rule(count=st.integers(1, 5))
    def server_sends(self, count: int) -> None:
        for _ in range(count):
            message = order(len(self.sent_by_server))
            self.pair.server.session.send(message)
            self.sent_by_server.append(message)
        self.pair.collect()

    @rule()
    def link_reports(self) -> None:
        report = EXAMPLES["nanny-report.full"]
        assert isinstance(report, NannyReport)
        self.pair.link.session.send(report)
        self.pair.collect()

    @precondition(lambda self: not self.pair.connected)
    @rule()
    def connect(self) -> None:
        self.pair.connect()

    @precondition(lambda self: self.pair.connected)
    @rule()
    def cut(self) -> None:
        self.pair.cut()

    @rule(name=ENDS, count=st.integers(1, 8))
    def deliver(self, name: str, count: int) -> None:
        for _ in range(count):
            if self.pair.connected and self.end(name).incoming:
                self.pair.deliver(self.end(name))

    @precondition(lambda self: self.pair.connected)
    @rule(name=ENDS)
    def deliver_twice(self, name: str) -> None:
        if self.end(name).incoming:
            again = self.end(name).incoming[0]
            self.pair.deliver(self.end(name))
            if self.pair.connected:
                self.pair.deliver(self.end(name), again)

    @precondition(lambda self: self.pair.connected)
    @rule(name=ENDS)
    def lose_a_frame(self, name: str) -> None:
        if self.end(name).incoming:
            self.end(name).incoming.popleft()

    @precondition(lambda self: self.pair.connected)
    @rule(name=ENDS)
    def overtake(self, name: str) -> None:
        self.end(name).incoming.rotate(1)

    @precondition(lambda self: self.pair.connected)
    @rule(name=ENDS, garbage=st.binary(max_size=40))
    def garbage_arrives(self, name: str, garbage: bytes) -> None:
        self.pair.deliver(self.end(name), garbage)

    @precondition(lambda self: self.pair.connected)
    @rule(name=ENDS, kept=st.floats(0.0, 0.99))
    def a_frame_is_cut_short(self, name: str, kept: float) -> None:
        if self.end(name).incoming:
            whole = self.end(name).incoming[0]
            self.pair.deliver(self.end(name), whole[: int(len(whole) * kept)])

    @precondition(lambda self: self.pair.connected)
    @rule(name=ENDS)
    def close(self, name: str) -> None:
        self.session(name).close("test", "")
        self.pair.collect()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 31.0]), frames_arrive=st.booleans())
    def time_passes(self, seconds: float, *, frames_arrive: bool) -> None:
        self.pair.advance(seconds, frames_arrive=frames_arrive)

    @invariant()
    def what_arrived_is_the_beginning_of_what_was_sent(self) -> None:
        for end, sent in ((self.pair.server, self.sent_by_link), (self.pair.link, self.sent_by_server)):
            received = _first_arrivals(end)
            assert received == sent[: len(received)]

    @invariant()
    def what_waits_is_bounded_by_what_has_not_arrived_or_not_been_acknowledged(self) -> None:
        assert self.pair.link.session.backlog[0] <= len(self.sent_by_link)
        assert self.pair.server.session.backlog[0] <= len(self.sent_by_server)

    def teardown(self) -> None:
        if self.pair.connected:
            self.pair.cut()
        self.pair.establish()
        self.pair.advance(2.0)

        assert _first_arrivals(self.pair.server) == self.sent_by_link
        assert _first_arrivals(self.pair.link) == self.sent_by_server
        assert self.pair.link.session.backlog == self.pair.server.session.backlog == (0, 0)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
