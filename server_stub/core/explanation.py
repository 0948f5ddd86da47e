"""Why a node is in its state: each axis with its evidence, what would change it, and what happens by itself.

    evidence   what was seen, by which way, since when, and when last
    changes    what would make the word another one; with an instant, if time alone does
    steps      what the server or the node does next without being asked, and when

Made from the same facts and by the same functions as the verdict, so that it cannot tell another story.
Instants are the server's monotonic seconds. Knows no clock, no database and no policy: who else has a next
step (the repair policy, the nanny) hands it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from server_stub.core.connectivity import (
    GOOD_AGAIN,
    WORD_OF_HEALTH,
    WORD_OF_LIFECYCLE,
    WORD_OF_REACHABILITY,
    evaluate,
    health,
    last_sign_at,
    lifecycle,
    needs_proof,
    reachability,
    silence_told_at,
)
from server_stub.core.node_facts import ANSWERED, WHY, Health, Lifecycle, ProbeClass, Reachability

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from server_stub.core.connectivity import Settings
    from server_stub.core.node_facts import ConnectionFact, NodeFacts, ProbeFact, Reason, Verdict, Word

LIFECYCLE: Final = "lifecycle"
REACHABILITY: Final = "reachability"
HEALTH: Final = "health"


@dataclass(frozen=True, slots=True)
class Axis:
    """Where one axis stands."""

    name: str
    state: str
    word: Word | None
    """What it alone would come to; None: it has nothing to say, the stored word stands."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was seen, or that is missing."""

    axis: str
    source: str
    """By which way it is known: probe, worker, link, nanny, people, server."""
    what: str
    at: float | None = None
    """When it was seen last."""
    since_at: float | None = None
    """Since when it has been so."""


@dataclass(frozen=True, slots=True)
class Change:
    """What would change the word."""

    what: str
    at: float | None = None
    """When, if time alone does it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done next by itself."""

    what: str
    why: str = ""
    at: float | None = None
    """None: under way, or when is not known."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer."""

    verdict: Verdict
    axes: tuple[Axis, ...]
    evidence: tuple[Evidence, ...]
    changes: tuple[Change, ...]
    steps: tuple[Step, ...]
    """Soonest first; those without an instant last."""


def explain(
    facts: NodeFacts,
    now: float,
    settings: Settings,
    next_probe_at: float | None,
    contributed: Iterable[Step] = (),
) -> Explanation:
    """Give why the node is in its state.

    Args:
        facts: what the verdict is made from.
        now: monotonic seconds.
        settings: the thresholds.
        next_probe_at: when it is checked next; None: a check is under way, or it is not checked.
        contributed: next steps of others.
    """
    life, life_reason = lifecycle(facts, now)
    reach, reach_reason = reachability(facts, now, settings)
    well, well_reason = health(facts, now, settings)
    reach_word = None if reach is Reachability.AWAITED else WORD_OF_REACHABILITY[reach]
    axes = (
        Axis(LIFECYCLE, life, WORD_OF_LIFECYCLE[life], life_reason),
        Axis(REACHABILITY, reach, reach_word, reach_reason),
        Axis(HEALTH, well, WORD_OF_HEALTH[well], well_reason),
    )
    steps = [*_own_steps(facts, next_probe_at), *contributed]
    steps.sort(key=lambda step: float("inf") if step.at is None else step.at)
    return Explanation(
        verdict=evaluate(facts, now, settings),
        axes=axes,
        evidence=tuple(_evidence(facts, now, settings)),
        changes=(
            *_changes_of_lifecycle(life, facts),
            *_changes_of_reachability(reach, facts, settings),
            *_changes_of_health(well, well_reason),
            *_changes_by_silence(facts, now, settings),
        ),
        steps=tuple(steps),
    )


# Evidence


def _evidence(facts: NodeFacts, now: float, settings: Settings) -> Iterator[Evidence]:
    yield from _evidence_of_lifecycle(facts)
    if now < facts.listening_since_at + settings.offline_timeout_s:
        what = "has listened for less than one offline time-out: nobody is demoted for silence yet"
        yield Evidence(REACHABILITY, "server", what, since_at=facts.listening_since_at)
    yield _evidence_of_probe(facts)
    if facts.probe is not None and facts.probe.result not in ANSWERED and facts.answered_at is not None:
        yield Evidence(REACHABILITY, "probe", "last check that was answered", facts.answered_at)
    for name, connection in (("worker", facts.worker), ("link", facts.link)):
        yield _evidence_of_connection(name, connection)
    if facts.reborn_at is not None:
        life = facts.registered_incarnation
        what = "registered" if life is None else f"registered as incarnation {life.number}"
        yield Evidence(REACHABILITY, "worker", what, facts.reborn_at)
    elif not facts.stored.is_registered:
        yield Evidence(REACHABILITY, "worker", "has never registered")
    yield from _evidence_of_health(facts)


def _evidence_of_lifecycle(facts: NodeFacts) -> Iterator[Evidence]:
    nanny = facts.nanny
    if facts.stored.lifecycle is Lifecycle.MAINTENANCE:
        yield Evidence(LIFECYCLE, "people", facts.stored.maintenance or "in maintenance")
    if nanny is None:
        yield Evidence(LIFECYCLE, "nanny", "not heard by this server yet; what it said last stands")
        return
    wanted = "down" if nanny.desired_down else "up"
    why = f": {nanny.desired_reason}" if nanny.desired_reason else ""
    what = f"its worker is wanted {wanted}, by {nanny.desired_by}{why}"
    yield Evidence(LIFECYCLE, "nanny", what, nanny.at, nanny.desired_since_at)
    if nanny.draining:
        yield Evidence(LIFECYCLE, "nanny", "it drains", nanny.at)


def _evidence_of_probe(facts: NodeFacts) -> Evidence:
    probe = facts.probe
    if not facts.stored.has_healthz:
        return Evidence(REACHABILITY, "probe", "it has told no address to probe")
    if probe is None:
        return Evidence(REACHABILITY, "probe", "not probed yet by this server")
    return Evidence(REACHABILITY, "probe", _said_of(probe), probe.at, probe.since_at)


def _said_of(probe: ProbeFact) -> str:
    told = f"{probe.result}: {WHY[probe.result]}"
    if probe.result is ProbeClass.OK and probe.status not in {None, "ok"}:
        told = f"{probe.result}: its worker answers that it is {probe.status}"
    if probe.where:
        told += f", in {probe.where}" if probe.result is ProbeClass.STALLED else f" ({probe.where})"
    if probe.good_in_row:
        told += f"; {probe.good_in_row} in a row"
    return told


def _evidence_of_connection(name: str, connection: ConnectionFact | None) -> Evidence:
    if connection is None:
        return Evidence(REACHABILITY, name, "has not connected to this server yet")
    state = "its connection is open" if connection.is_open else "its connection is gone"
    return Evidence(REACHABILITY, name, state, connection.heard_at, connection.changed_at)


def _evidence_of_health(facts: NodeFacts) -> Iterator[Evidence]:
    nanny = facts.nanny
    if nanny is not None:
        life = "no incarnation" if nanny.incarnation is None else f"incarnation {nanny.incarnation.number}"
        yield Evidence(HEALTH, "nanny", f"says {nanny.phase}, {life}", nanny.at, nanny.phase_since_at)
        for condition in nanny.conditions:
            yield Evidence(HEALTH, "nanny", f"condition {condition}", nanny.at)
    for condition in facts.worker_conditions:
        yield Evidence(HEALTH, "worker", f"condition {condition}")
    if facts.failed_at is not None:
        yield Evidence(HEALTH, "nanny", "has said failed, and no two good probes since", facts.failed_at)


# What would change it


def _changes_of_lifecycle(life: Lifecycle, facts: NodeFacts) -> Iterator[Change]:
    match life:
        case Lifecycle.ACTIVE:
            return
        case Lifecycle.STOPPED:
            yield Change("an order to start its worker")
        case Lifecycle.DRAINING:
            yield Change("an order to undrain it")
        case Lifecycle.MAINTENANCE:
            yield Change("an order to end its maintenance")
            if facts.maintenance_until_at is not None:
                yield Change("its maintenance is over", facts.maintenance_until_at)
        case _:
            assert_never(life)


def _changes_of_reachability(reach: Reachability, facts: NodeFacts, settings: Settings) -> Iterator[Change]:
    good = f"{GOOD_AGAIN} good probes in a row" if needs_proof(facts) else "a good probe"
    match reach:
        case Reachability.REACHABLE:
            if facts.stored.has_healthz:
                yield Change("a check that fails for the whole of its budget makes it UNREACHABLE")
        case Reachability.UNPROVEN if not facts.stored.is_registered:
            yield Change("its worker registers, and then a good probe")
        case Reachability.UNPROVEN:
            yield Change(good)
        case Reachability.UNREACHABLE | Reachability.OFFLINE:
            yield Change(
                f"{GOOD_AGAIN} good probes in a row" if facts.stored.has_healthz else "its worker connects"
            )
        case Reachability.UNKNOWN:
            yield Change("the server can probe again")
        case Reachability.AWAITED:
            yield Change("an answered probe, or a word of its worker or nanny")
            listened_at = facts.listening_since_at + settings.offline_timeout_s
            yield Change("silence counts against it from then on", listened_at)
        case _:
            assert_never(reach)


def _changes_of_health(well: Health, reason: Reason) -> Iterator[Change]:
    match well:
        case Health.HEALTHY | Health.UNKNOWN:
            return
        case Health.STARTING:
            yield Change("its worker is ready and answers a probe well")
        case Health.STALLED:
            yield Change("its worker answers a probe well: its loop runs again, or it was restarted")
        case Health.DEGRADED if reason.code == "Conditions":
            yield Change(f"these no longer hold: {reason.detail.partition(': ')[2]}")
        case Health.DEGRADED:
            yield Change(f"this is over: {reason.detail}")
        case Health.FAILED:
            yield Change(f"its nanny keeps a worker running, and {GOOD_AGAIN} good probes in a row")
        case _:
            assert_never(well)


def _changes_by_silence(facts: NodeFacts, now: float, settings: Settings) -> Iterator[Change]:
    sign_at = last_sign_at(facts)
    offline_at = (
        max(sign_at or facts.listening_since_at, facts.listening_since_at) + settings.offline_timeout_s
    )
    if offline_at > now:
        yield Change("without any sign until then it is offline, NOT_READY", offline_at)
    for name, connection in (("link", facts.link), ("worker", facts.worker)):
        told_at = silence_told_at(facts, connection, settings)
        if connection is not None and told_at is not None and told_at > now:
            yield Change(f"without a connection of its {name} until then it is DEGRADED", told_at)


# What happens by itself


def _own_steps(facts: NodeFacts, next_probe_at: float | None) -> Iterator[Step]:
    if facts.stored.has_healthz:
        if next_probe_at is None:
            yield Step("the node is probed", "a check is under way")
        else:
            yield Step("the node is probed", "its turn", next_probe_at)
    if facts.stored.lifecycle is Lifecycle.MAINTENANCE and facts.maintenance_until_at is not None:
        yield Step("its maintenance ends", "its time is over", facts.maintenance_until_at)
