"""The whole table of the documents against the rules that it should follow, written down a second time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from server_stub.core.connectivity import PASSING, evaluate
from server_stub.core.node_facts import PRECEDENCE, Lifecycle, Word
from tests.support.node_situations import LIMITS, NOW, Situation, situations

GOOD = {"ok", "ok, first after it was lost"}
OF_PROBE = {
    "none yet": Word.PENDING,
    "ok": Word.READY,
    "503-stalled": Word.STALLED,
    "503-fallback": Word.STALLED,
    "refused": Word.UNREACHABLE,
    "timeout": Word.UNREACHABLE,
    "reset": Word.UNREACHABLE,
    "bad-answer": Word.UNREACHABLE,
    "dns": Word.UNREACHABLE,
    "no-route": Word.UNREACHABLE,
    "version": Word.DEGRADED,
    "server-fault": Word.UNKNOWN,
    "ok, starting": Word.PENDING,
    "ok, of an earlier life": Word.PENDING,
    "ok, first after it was lost": Word.PENDING,
}


def expected(one: Situation) -> Word:
    """Give the word by the rules of docs/node-states.md, not by the code's way."""
    phase = one.link.removeprefix("open, ") if one.link.startswith("open") else "running"
    is_linked = one.link.startswith("open")
    is_heard = is_linked or one.link == "gone for a moment"
    is_replacing = is_heard and phase in {*PASSING, "failed"}
    claims = [_claim_of_lifecycle(one, is_linked=is_linked)]
    of_probe = OF_PROBE[one.probe]
    if one.probe in {"503-stalled", "503-fallback", "version"} and is_replacing:
        of_probe = Word.PENDING
    if one.probe in {"refused", "timeout", "reset"} and is_linked and phase in PASSING:
        of_probe = Word.PENDING
    claims.append(of_probe)
    is_overruled = phase == "starting" and one.probe in GOOD
    if is_heard and not is_overruled:
        claims.append(_claim_of_nanny(one, phase))
    if _is_called_healthy(one, phase, is_heard=is_heard, is_overruled=is_overruled):
        is_missing = one.worker in {"gone for long", "never seen"} or one.link == "gone for long"
        claims.append(Word.DEGRADED if is_missing else Word.READY)
    return min(claims, key=PRECEDENCE.index)


def _claim_of_lifecycle(one: Situation, *, is_linked: bool) -> Word:
    match one.lifecycle:
        case Lifecycle.MAINTENANCE:
            return Word.MAINTENANCE
        case Lifecycle.DRAINING:
            return Word.DRAINING
        case Lifecycle.STOPPED if is_linked or not one.probe.startswith("ok"):
            return Word.NOT_READY
        case _:
            return Word.READY


def _claim_of_nanny(one: Situation, phase: str) -> Word:
    if phase == "without its nanny":
        return Word.READY if one.probe == "ok, starting" else Word.DEGRADED
    if phase in PASSING:
        return Word.PENDING
    return {"running": Word.READY, "degraded": Word.DEGRADED, "failed": Word.NOT_READY}[phase]


def _is_called_healthy(one: Situation, phase: str, *, is_heard: bool, is_overruled: bool) -> bool:
    is_spoken_well_of = one.probe in {*GOOD, "ok, of an earlier life"}
    if is_heard and phase == "running":
        return is_spoken_well_of or one.probe == "none yet"
    return is_spoken_well_of and (not is_heard or is_overruled)


def test_every_situation_has_the_word_that_the_rules_give() -> None:
    wrong = {
        one: (str(one.verdict().word), str(expected(one)))
        for one in situations()
        if one.verdict().word is not expected(one)
    }

    assert wrong == {}


def test_the_table_reaches_every_word() -> None:
    seen = Counter(one.verdict().word for one in situations())

    assert set(seen) == set(Word)


def test_in_maintenance_nothing_is_alarmed_or_repaired() -> None:
    in_it = [one for one in situations() if one.lifecycle is Lifecycle.MAINTENANCE]

    assert {one.verdict().word for one in in_it} == {Word.MAINTENANCE}
    assert {one.action() for one in in_it} <= {"", "probe again in 1 s"}


def test_a_restart_is_only_for_a_worker_whose_nanny_speaks_and_does_not_call_it_healthy_or_replace_it() -> (
    None
):
    repaired = {(one.link, one.probe) for one in situations() if one.action().startswith("restart")}

    assert {link for link, _ in repaired} == {"open, running", "open, degraded"}
    assert {probe for link, probe in repaired if link == "open, running"} == {"503-stalled", "503-fallback"}


@pytest.mark.parametrize(("silent_s", "is_offline"), [(99.9, False), (100.0, True)])
def test_every_situation_becomes_offline_by_silence_and_only_then(silent_s: float, is_offline: bool) -> None:
    for one in situations():
        facts = one.facts
        heard_at = NOW - 20.0
        silent = replace(
            facts,
            probe=None if facts.probe is None else replace(facts.probe, at=heard_at),
            worker=None if facts.worker is None else replace(facts.worker, heard_at=heard_at),
            link=None if facts.link is None else replace(facts.link, heard_at=heard_at),
            answered_at=heard_at,
        )
        # Its own connections would be closed by then; what was heard of them last is what counts.
        verdict = evaluate(silent, heard_at + silent_s, LIMITS)

        is_told = any(reason.code == "Offline" for reason in verdict.reasons)
        if one.probe != "server-fault":
            assert is_told is is_offline, one
