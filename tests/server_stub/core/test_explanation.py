"""The explanation of every situation: of the same story as the verdict, with an end for whatever is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from server_stub.core.connectivity import evaluate
from server_stub.core.explanation import Explanation, Step, explain
from server_stub.core.node_facts import Lifecycle, Reachability, Word
from server_stub.explanation_shown import explanation_lines
from tests.support.node_situations import LIMITS, NOW, Situation, situations

if TYPE_CHECKING:
    from server_stub.core.node_facts import NodeFacts


def why(facts: NodeFacts, *steps: Step) -> Explanation:
    return explain(facts, NOW, LIMITS, NOW + 7.0, steps)


def test_every_situation_is_explained_by_what_its_verdict_was_made_from() -> None:
    for one in situations():
        told, verdict = why(one.facts), evaluate(one.facts, NOW, LIMITS)

        assert told.verdict == verdict, one
        states = {axis.name: axis.state for axis in told.axes}
        assert states["lifecycle"] == verdict.lifecycle
        assert states["reachability"] == verdict.reachability
        assert {axis.name for axis in told.axes} == {evidence.axis for evidence in told.evidence} | {"health"}
        if verdict.word is not Word.READY:
            assert verdict.reason in {axis.reason for axis in told.axes}, one


def test_whatever_is_wrong_has_something_that_would_change_it() -> None:
    mute = [one for one in situations() if not why(one.facts).changes]

    assert mute == []


def test_no_evidence_is_of_the_future_and_no_step_of_the_past() -> None:
    for one in situations():
        told = why(one.facts)
        for evidence in told.evidence:
            assert evidence.at is None or evidence.at <= NOW
            assert evidence.since_at is None or evidence.since_at <= (evidence.at or NOW)
        for change in told.changes:
            assert change.at is None or change.at > NOW, (one, change)


def test_steps_come_by_their_instants_and_those_of_others_among_them() -> None:
    facts = Situation(Lifecycle.ACTIVE, "503-stalled", "open, running", "open").facts

    told = why(facts, Step("later", "", NOW + 9.0), Step("some time"), Step("soon", "", NOW + 1.0))

    assert [step.what for step in told.steps] == ["soon", "the node is probed", "later", "some time"]


def test_the_end_of_a_maintenance_is_both_a_change_and_a_step() -> None:
    facts = Situation(Lifecycle.MAINTENANCE, "ok", "open, running", "open").facts

    told = why(replace(facts, maintenance_until_at=NOW + 60.0))

    assert ("its maintenance is over", NOW + 60.0) in [(change.what, change.at) for change in told.changes]
    assert ("its maintenance ends", NOW + 60.0) in [(step.what, step.at) for step in told.steps]


@pytest.mark.parametrize(("listened_s", "is_told"), [(99.9, True), (100.0, False)])
def test_a_server_that_listens_too_short_says_so(listened_s: float, is_told: bool) -> None:
    facts = Situation(Lifecycle.ACTIVE, "none yet", "none ever", "never seen").facts
    silent = replace(facts, listening_since_at=NOW - listened_s, answered_at=None, reborn_at=None)

    told = why(silent)

    assert any(evidence.source == "server" for evidence in told.evidence) is is_told
    assert (told.verdict.reachability is Reachability.AWAITED) is is_told


def test_the_lines_for_a_terminal_hold_every_part() -> None:
    answer: dict[str, Any] = {
        "name": "gpu-17",
        "state": "STALLED",
        "state_message": "stalled since 2026-11-21T14:02:11Z in pool:acquire",
        "axes": {
            "lifecycle": {"state": "active", "detail": "", "since": None},
            "health": {
                "state": "stalled",
                "detail": "stalled: in pool:acquire",
                "since": "2026-11-21T14:02:11Z",
            },
        },
        "evidence": [
            {
                "axis": "health",
                "source": "nanny",
                "what": "says running",
                "at": "2026-11-21T14:02:20Z",
                "since": "2026-11-21T13:00:00Z",
            }
        ],
        "would_change": [{"what": "a good probe", "at": None}],
        "next_steps": [{"what": "the node is probed", "why": "its turn", "at": "2026-11-21T14:02:30Z"}],
        "clock_skew_s": -86400.2,
    }

    assert explanation_lines(answer) == [
        "gpu-17 is STALLED: stalled since 2026-11-21T14:02:11Z in pool:acquire",
        "",
        "lifecycle: active",
        "",
        "health: stalled since 2026-11-21 14:02:11Z in pool:acquire",
        "  nanny   says running, since 2026-11-21 13:00:00Z, last 2026-11-21 14:02:20Z",
        "",
        "its wall clock is 86400 s behind; nothing is decided by it",
        "",
        "what would change it",
        "  a good probe",
        "",
        "what happens by itself",
        "  2026-11-21 14:02:30Z  the node is probed (its turn)",
    ]
