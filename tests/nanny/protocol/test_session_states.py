"""The table is total in what matters: no position is a trap, every end of a connection leads back."""

from __future__ import annotations

import pytest

from nanny.protocol.messages import MESSAGE_TYPES, Close, Hello, Role, SessionMessage, Welcome
from nanny.protocol.session_states import TRANSITIONS, Input, Local, Peer, State, next_state

PEER_INPUTS: list[Input] = [Peer.APPLICATION, *SessionMessage.__args__]
CONNECTED = [State.GREETING, State.OPEN, State.FINISHED]


@pytest.mark.parametrize("role", Role)
def test_every_position_is_reachable_from_the_first(role: Role) -> None:
    reached = {State.OFFLINE}
    for _ in State:
        reached |= {state for before in reached for state in TRANSITIONS[role][before].values()}

    assert reached == set(State)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", CONNECTED)
def test_the_loss_of_the_connection_leads_back_from_everywhere(role: Role, state: State) -> None:
    assert next_state(role, state, Local.LOST) is State.OFFLINE


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", CONNECTED)
def test_either_end_may_close_at_any_time(role: Role, state: State) -> None:
    assert next_state(role, state, Close) is State.FINISHED
    assert next_state(role, state, Local.CLOSE) is State.FINISHED


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", [State.GREETING, State.OPEN])
def test_any_connection_that_still_counts_may_fail(role: Role, state: State) -> None:
    assert next_state(role, state, Local.FAIL) is State.FINISHED


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("happened", PEER_INPUTS)
def test_after_the_last_word_everything_of_the_peer_is_ignored(role: Role, happened: Input) -> None:
    assert next_state(role, State.FINISHED, happened) is State.FINISHED


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("happened", PEER_INPUTS)
def test_nothing_comes_without_a_connection(role: Role, happened: Input) -> None:
    assert next_state(role, State.OFFLINE, happened) is None


@pytest.mark.parametrize("role", Role)
def test_application_messages_flow_only_in_an_open_connection(role: Role) -> None:
    assert next_state(role, State.GREETING, Peer.APPLICATION) is None
    assert next_state(role, State.OPEN, Peer.APPLICATION) is State.OPEN


@pytest.mark.parametrize("role", Role)
def test_a_connection_opens_once(role: Role) -> None:
    opening = Hello if role is Role.SERVER else Welcome

    assert next_state(role, State.GREETING, opening) is State.OPEN
    assert next_state(role, State.OPEN, opening) is None


def test_the_table_knows_every_message_of_the_session_layer() -> None:
    named = {happened for table in TRANSITIONS.values() for row in table.values() for happened in row}

    assert named == {*Local, *PEER_INPUTS}
    assert set(SessionMessage.__args__) < set(MESSAGE_TYPES.values())
