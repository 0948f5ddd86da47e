"""The life of a command, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.protocol.messages import Outcome
from server_stub.core.command_lifecycle import (
    LEGAL,
    OUTCOMES,
    CommandState,
    IllegalTransition,
    absorbs,
    advance,
    is_finished,
    may_expire_unsent,
)

STATES = st.sampled_from(CommandState)


def test_every_state_is_in_the_table() -> None:
    assert set(LEGAL) == set(CommandState)


def test_the_outcomes_are_those_of_the_wire() -> None:
    assert {state.value for state in OUTCOMES} == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_the_ordinary_course_is_legal(outcome: CommandState) -> None:
    state = CommandState.QUEUED
    for after in (CommandState.SENT, CommandState.ACCEPTED, outcome):
        state = advance(state, after)

    assert state is outcome


@given(STATES, STATES)
def test_what_the_table_lacks_raises_and_what_it_has_is_the_new_state(
    before: CommandState, after: CommandState
) -> None:
    if after in LEGAL[before]:
        assert advance(before, after) is after
    else:
        with pytest.raises(IllegalTransition, match=f"a command that is {before} cannot become {after}"):
            advance(before, after)


@given(st.lists(STATES))
def test_no_order_of_news_ends_a_command_twice(news: list[CommandState]) -> None:
    state, ends = CommandState.QUEUED, 0
    for after in news:
        if absorbs(state, after) or after not in LEGAL[state]:
            continue
        state = advance(state, after)
        ends += is_finished(state)

    assert ends <= 1


def test_an_acceptance_after_the_outcome_is_old_news_and_a_second_outcome_is_not() -> None:
    assert absorbs(CommandState.DONE, CommandState.ACCEPTED)
    assert absorbs(CommandState.DONE, CommandState.DONE)
    assert not absorbs(CommandState.DONE, CommandState.FAILED)
    assert not absorbs(CommandState.QUEUED, CommandState.ACCEPTED)


@pytest.mark.parametrize(
    ("state", "remaining_s", "may"),
    [
        (CommandState.QUEUED, 0.001, False),
        (CommandState.QUEUED, 0.0, True),
        (CommandState.QUEUED, -1.0, True),
        (CommandState.SENT, -1.0, False),
        (CommandState.ACCEPTED, -1.0, False),
        (CommandState.DONE, -1.0, False),
    ],
)
def test_only_what_was_never_sent_expires_at_the_server(
    state: CommandState, remaining_s: float, may: bool
) -> None:
    assert may_expire_unsent(state, remaining_s) is may
