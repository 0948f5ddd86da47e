"""A frame that something in between has lost, on a connection that otherwise lives: it is missed, and sent again."""

from __future__ import annotations

from tests.support.session_pair import CONFIG, SessionPair, order, outcome


def test_a_lost_message_is_sent_again_though_nothing_else_is_said() -> None:
    pair = SessionPair()
    pair.establish()
    pair.link.session.send(outcome(1))
    pair.collect()
    pair.server.incoming.clear()
    pair.advance(CONFIG.ack_timeout_s + CONFIG.keepalive_interval_s)
    assert not pair.connected
    assert [failure.partition(" for ")[0] for failure in pair.link.failures] == ["nothing acknowledged"]
    pair.establish()
    assert pair.server.received == [outcome(1)]


def test_a_lost_order_is_sent_again_too() -> None:
    pair = SessionPair()
    pair.establish()
    pair.server.session.send(order(1))
    pair.collect()
    pair.link.incoming.clear()
    pair.advance(CONFIG.ack_timeout_s + CONFIG.keepalive_interval_s)
    pair.establish()
    assert pair.link.received == [order(1)]


def test_a_peer_that_acknowledges_again_and_again_is_not_given_up() -> None:
    pair = SessionPair()
    pair.establish()
    for number in range(1, 200):
        pair.link.session.send(outcome(number))
        pair.settle()
        pair.advance(0.5)
    assert pair.connected
    assert len(pair.server.received) == 199
