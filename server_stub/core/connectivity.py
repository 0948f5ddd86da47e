"""A node's state: three axes from facts and now, and the one word that they come to.

    lifecycle      what people want of the node      (maintenance, draining, stopped by order)
    reachability   what the server can reach of it   (a probe's budget spent, 100 s without any sign)
    health         how its worker is                 (what the probe answered, what its nanny says)

Each axis is a function `(facts, now) -> (state, reason)`; the word is the gravest of the three by
`PRECEDENCE`. The tables `WORD_OF_*` and `PHASES` say the whole mapping. What follows from *silence* alone
is withheld until the server has listened for one offline time-out, so that a server's restart demotes
nobody; what a node says counts at once. A node that was lost sight of, or whose nanny had given up, is READY
again after two good checks in a row; one that restarted by order or by its nanny, after the first.
Knows no clock and no database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from server_stub.core.node_facts import (
    ANSWERED,
    PRECEDENCE,
    WHY,
    ConnectionFact,
    Health,
    Lifecycle,
    NannyFact,
    NodeFacts,
    ProbeClass,
    ProbeFact,
    Reachability,
    Reason,
    Verdict,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanny.protocol.incarnation import Incarnation

WORD_OF_LIFECYCLE: Final[Mapping[Lifecycle, Word]] = {
    Lifecycle.ACTIVE: Word.READY,
    Lifecycle.STOPPED: Word.NOT_READY,
    Lifecycle.DRAINING: Word.DRAINING,
    Lifecycle.MAINTENANCE: Word.MAINTENANCE,
}
WORD_OF_REACHABILITY: Final[Mapping[Reachability, Word]] = {
    Reachability.REACHABLE: Word.READY,
    Reachability.UNPROVEN: Word.PENDING,
    Reachability.UNREACHABLE: Word.UNREACHABLE,
    Reachability.UNKNOWN: Word.UNKNOWN,
    Reachability.OFFLINE: Word.NOT_READY,
}
WORD_OF_HEALTH: Final[Mapping[Health, Word]] = {
    Health.HEALTHY: Word.READY,
    Health.STARTING: Word.PENDING,
    Health.DEGRADED: Word.DEGRADED,
    Health.STALLED: Word.STALLED,
    Health.FAILED: Word.NOT_READY,
    Health.UNKNOWN: Word.PENDING,
}

CODE_LENGTH: Final = 64
"""Of a reason's code in a row: what a node calls its phase must not fail the whole round."""
PHASES: Final[Mapping[str, Health]] = {
    "starting": Health.STARTING,
    "stopping": Health.STARTING,
    "backoff": Health.STARTING,
    "down": Health.STARTING,
    "running": Health.HEALTHY,
    "degraded": Health.DEGRADED,
    "failed": Health.FAILED,
}
"""The nanny's phase as health. `down` by order is the lifecycle's; without an order it is on its way up."""

PASSING: Final = frozenset({"starting", "stopping", "backoff", "down"})
"""Phases without a worker that could answer: an open link that tells one of them explains a failed probe."""
UNHEARD: Final = frozenset({ProbeClass.REFUSED, ProbeClass.TIMEOUT, ProbeClass.RESET})
"""Classes that a worker's absence explains."""
GOOD_AGAIN: Final = 2
"""Good checks in a row that a node which was lost has to pass."""
RECHECK_S: Final = 1.0
"""So soon is a check repeated whose sequel the verdict waits for."""
RECOVERING: Final = "Recovering"
FAILED: Final = "failed"
"""The phase in which the nanny has given up but for its slowest tries."""
_HAS_FAILED: Final = f"Nanny{FAILED.capitalize()}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Thresholds in seconds."""

    offline_timeout_s: float = 100.0
    silence_timeout_s: float = 30.0
    """Without the worker's or link's connection for longer than this a node is DEGRADED."""


def last_sign_at(facts: NodeFacts) -> float | None:
    """Give when the node last gave any sign: an answered probe, or a message on either connection."""
    signs = [connection.heard_at for connection in (facts.worker, facts.link) if connection is not None]
    if facts.answered_at is not None:
        signs.append(facts.answered_at)
    if facts.probe is not None and facts.probe.result in ANSWERED:
        signs.append(facts.probe.at)
    return max(signs, default=None)


def lifecycle(facts: NodeFacts, now: float) -> tuple[Lifecycle, Reason]:
    """Say what people want of the node, and who said it."""
    stored = facts.stored
    if stored.lifecycle is Lifecycle.MAINTENANCE:
        if facts.maintenance_until_at is None or now < facts.maintenance_until_at:
            return Lifecycle.MAINTENANCE, Reason("Maintenance", stored.maintenance or "in maintenance")
    elif (
        facts.nanny is None
        and stored.lifecycle is not Lifecycle.ACTIVE
        and not _worker_answered_after(facts, None)
    ):
        # Not heard in this server's life: what the nanny last said stands, for only the nanny can change it.
        return stored.lifecycle, Reason(stored.reason, stored.detail)
    nanny = facts.nanny
    if nanny is None:
        return Lifecycle.ACTIVE, Reason("Active")
    if nanny.desired_down and not _worker_answered_after(facts, nanny.at):
        why = f": {nanny.desired_reason}" if nanny.desired_reason else ""
        return Lifecycle.STOPPED, Reason(
            "Stopped", f"stopped by {nanny.desired_by}{why}", nanny.desired_since_at
        )
    if nanny.draining:
        return Lifecycle.DRAINING, Reason("Draining", "its nanny was told to drain")
    return Lifecycle.ACTIVE, Reason("Active")


def _worker_answered_after(facts: NodeFacts, at: float | None) -> bool:
    """Tell whether a good probe is newer than the nanny's last word while link is silent."""
    if facts.probe is None or facts.probe.result is not ProbeClass.OK:
        return False
    if facts.link is not None and facts.link.is_open:
        return False
    return at is None or facts.probe.at > at


def reachability(facts: NodeFacts, now: float, settings: Settings) -> tuple[Reachability, Reason]:
    """Say what the server can reach of the node."""
    probe = facts.probe
    sign_at = last_sign_at(facts)
    is_listening_long = now >= facts.listening_since_at + settings.offline_timeout_s
    if probe is not None and probe.result is ProbeClass.SERVER_FAULT:
        if not is_listening_long and _newest_life_at(facts) > (facts.answered_at or facts.listening_since_at):
            return Reachability.UNPROVEN, Reason("NotProbed", "not yet probed: it has restarted")
        if not is_listening_long:
            return Reachability.AWAITED, Reason("Awaited", "the server could not probe")
        return Reachability.UNKNOWN, Reason("ServerFault", _said_of(probe), probe.since_at)
    if is_listening_long and (sign_at is None or now >= sign_at + settings.offline_timeout_s):
        return Reachability.OFFLINE, Reason("Offline", "no sign by probe, worker or link", sign_at)
    if sign_at is None and not is_listening_long:
        return Reachability.AWAITED, Reason("Awaited", "the server has just started to listen")
    if not facts.stored.is_registered:
        return Reachability.UNPROVEN, Reason("NotRegistered", "its worker has not registered")
    if not facts.stored.has_healthz:
        return _reachability_unprobed(facts, is_listening_long=is_listening_long)
    by_probe, reason = _reachability_by_probe(facts, is_listening_long=is_listening_long)
    is_answering = by_probe is Reachability.REACHABLE and probe is not None and probe.result is ProbeClass.OK
    if probe is not None and is_answering and needs_proof(facts) and not is_proven(facts, now, settings):
        detail = f"answers again: {GOOD_AGAIN} good probes in a row are needed"
        return Reachability.UNPROVEN, Reason(RECOVERING, detail, probe.since_at)
    return by_probe, reason


def _said_of(probe: ProbeFact) -> str:
    return f"probe {probe.result}: {WHY[probe.result]}"


def _reachability_unprobed(facts: NodeFacts, *, is_listening_long: bool) -> tuple[Reachability, Reason]:
    worker = facts.worker
    if worker is None and not is_listening_long:
        return Reachability.AWAITED, Reason("Awaited", "its worker has not connected yet")
    if worker is not None and worker.is_open:
        return Reachability.REACHABLE, Reason("Reachable")
    since_at = None if worker is None else worker.changed_at
    return Reachability.UNREACHABLE, Reason("NoConnection", "no connection of its worker", since_at)


def _reachability_by_probe(facts: NodeFacts, *, is_listening_long: bool) -> tuple[Reachability, Reason]:
    probe = facts.probe
    if probe is None:
        if facts.reborn_at is None and not is_listening_long:
            return Reachability.AWAITED, Reason("Awaited", "not probed yet by this server")
        return Reachability.UNPROVEN, Reason("NotProbed", "not yet probed: it has registered")
    if probe.result not in ANSWERED or probe.result is ProbeClass.BAD_ANSWER:
        return _reachability_by_failed_probe(facts, probe, is_listening_long=is_listening_long)
    expected = _newest_incarnation(facts)
    if expected is not None and probe.incarnation is not None and probe.incarnation < expected:
        return Reachability.UNPROVEN, Reason(
            "NotProbed", f"not yet probed: incarnation {expected.number} is new"
        )
    if probe.at < _newest_life_at(facts, is_named=probe.incarnation is not None):
        return Reachability.UNPROVEN, Reason("NotProbed", "not yet probed: it has restarted")
    return Reachability.REACHABLE, Reason("Reachable")


def _reachability_by_failed_probe(
    facts: NodeFacts, probe: ProbeFact, *, is_listening_long: bool
) -> tuple[Reachability, Reason]:
    """Weigh a check that reached no worker of this node: who else can say what is the matter?"""
    if not is_listening_long and facts.answered_at is None and facts.reborn_at is None:
        return Reachability.AWAITED, Reason("Awaited", _said_of(probe))
    nanny = facts.nanny if facts.link is not None and facts.link.is_open else None
    if nanny is not None and nanny.phase in PASSING and probe.result in UNHEARD:
        return Reachability.UNPROVEN, _reason_of_phase(nanny)
    if nanny is not None and nanny.phase == "running":
        if probe.at <= nanny.phase_since_at and not facts.stored.unreachable:
            return Reachability.UNPROVEN, Reason("NotProbed", "not yet probed: it has restarted")
        detail = f"{_said_of(probe)}, but its nanny says running"
        return Reachability.UNREACHABLE, Reason("ProbePathBlocked", detail, probe.since_at)
    return Reachability.UNREACHABLE, Reason("ProbeFailed", _said_of(probe), probe.since_at)


def needs_proof(facts: NodeFacts) -> bool:
    """Tell whether one good check is too little: it was lost sight of, or its nanny had given up."""
    stored = facts.stored
    return stored.unreachable or facts.failed_at is not None or stored.reason in {RECOVERING, _HAS_FAILED}


def is_proven(facts: NodeFacts, now: float, settings: Settings) -> bool:
    """Tell whether two good checks in a row have shown it well, neither of them from before it was lost."""
    probe = facts.probe
    if probe is None or probe.good_in_row < GOOD_AGAIN or probe.good_before_at is None:
        return False
    return now < probe.good_before_at + settings.offline_timeout_s


def recheck_in_s(facts: NodeFacts, now: float, settings: Settings) -> float | None:
    """Give how soon the node is to be checked again, ahead of its turn; None: its turn is soon enough."""
    probe = facts.probe
    if probe is None or probe.result is not ProbeClass.OK:
        return None
    nanny, link = facts.nanny, facts.link
    if (
        not probe.is_good
        and nanny is not None
        and nanny.phase == "starting"
        and link is not None
        and link.is_open
    ):
        return None  # its report of `running` has it checked at once
    if not probe.is_good or (needs_proof(facts) and not is_proven(facts, now, settings)):
        return RECHECK_S
    return None


def _newest_life_at(facts: NodeFacts, *, is_named: bool = False) -> float:
    """Give since when the newest life is known; the nanny's word counts where the answer names no life."""
    known = [facts.reborn_at]
    if facts.nanny is not None and not is_named:
        known.append(facts.nanny.reborn_at)
    return max((at for at in known if at is not None), default=float("-inf"))


def _newest_incarnation(facts: NodeFacts) -> Incarnation | None:
    known = [facts.registered_incarnation]
    if facts.nanny is not None:
        known.append(facts.nanny.incarnation)
    return max((incarnation for incarnation in known if incarnation is not None), default=None)


def health(facts: NodeFacts, now: float, settings: Settings) -> tuple[Health, Reason]:
    """Say how the worker is: the nanny's word and the probe's answer first, then what is missing.

    Conditions that are True take a healthy node to DEGRADED and no further: extras don't decide liveness.
    """
    spoken, reason = _health_as_told(facts, now, settings)
    if spoken not in {Health.HEALTHY, Health.UNKNOWN}:
        return spoken, reason
    conditions = sorted(
        {*facts.worker_conditions, *(facts.nanny.conditions if facts.nanny is not None else ())}
    )
    if conditions:
        return Health.DEGRADED, Reason("Conditions", f"conditions hold: {', '.join(conditions)}")
    if spoken is Health.HEALTHY:
        return _missing_connection(facts, now, settings) or (spoken, reason)
    return spoken, reason


def _health_as_told(facts: NodeFacts, now: float, settings: Settings) -> tuple[Health, Reason]:
    """Weigh the probe's answer against the nanny's word: the later life counts, then who can know better.

    The nanny knows of stopping, backoff, failure and a lag before the probe does; of `starting` a good probe
    of the same life knows better; of `running` the probe does. What it said last holds for a moment after its
    link broke, so that a link that reconnects changes nothing.
    """
    probe = facts.probe if facts.probe is not None and facts.probe.result in ANSWERED else None
    link_missed_at = silence_told_at(facts, facts.link, settings)
    nanny = facts.nanny if link_missed_at is None or now < link_missed_at else None
    if probe is not None and nanny is not None:
        probed, told = probe.incarnation, nanny.incarnation
        if probed is not None and told is not None and probed != told:
            probe, nanny = (probe, None) if probed > told else (None, nanny)
    if nanny is not None:
        by_phase = PHASES.get(nanny.phase)
        is_proven = probe is not None and probe.result is ProbeClass.OK and probe.at >= nanny.phase_since_at
        # A worker that says itself that it stalls, or that accepts nobody, is worse than late.
        is_worse = probe is not None and probe.result in {ProbeClass.STALLED, ProbeClass.FALLBACK}
        is_overruled = (nanny.phase == "starting" and is_proven) or (by_phase is Health.DEGRADED and is_worse)
        if by_phase not in {None, Health.HEALTHY} and not is_overruled:
            return by_phase or Health.UNKNOWN, _reason_of_phase(nanny)
    if probe is not None:
        return _health_by_probe(probe)
    if nanny is not None:
        found = PHASES.get(nanny.phase, Health.UNKNOWN)
        return found, Reason("Healthy") if found is Health.HEALTHY else _reason_of_phase(nanny)
    return Health.UNKNOWN, Reason("NoReport", "neither a probe nor its nanny has told yet")


def _reason_of_phase(nanny: NannyFact) -> Reason:
    return Reason(
        f"Nanny{nanny.phase.capitalize()}"[:CODE_LENGTH],
        f"its nanny says {nanny.phase}",
        nanny.phase_since_at,
    )


def _health_by_probe(probe: ProbeFact) -> tuple[Health, Reason]:
    match probe.result:
        case ProbeClass.STALLED:
            where = f": in {probe.where}" if probe.where else ""
            return Health.STALLED, Reason("Stalled", f"stalled{where}", probe.since_at)
        case ProbeClass.FALLBACK:
            return Health.STALLED, Reason("NotAccepting", "only its nanny answers /healthz", probe.since_at)
        case ProbeClass.OK if probe.status == "starting":
            return Health.STARTING, Reason("Starting", "its worker is starting")
        case ProbeClass.OK:
            return Health.HEALTHY, Reason("Healthy")
        case ProbeClass.VERSION:
            return Health.DEGRADED, Reason("ProbeVersion", _said_of(probe), probe.since_at)
        case _:
            return Health.UNKNOWN, Reason("NoAnswer", _said_of(probe), probe.since_at)


def _missing_connection(facts: NodeFacts, now: float, settings: Settings) -> tuple[Health, Reason] | None:
    is_link_due = facts.stored.has_link or facts.link is not None
    is_worker_due = facts.stored.is_registered or facts.worker is not None
    for name, connection, is_due in (
        ("Link", facts.link, is_link_due),
        ("Worker", facts.worker, is_worker_due),
    ):
        told_at = silence_told_at(facts, connection, settings)
        if is_due and told_at is not None and now >= told_at:
            since_at = None if connection is None else connection.changed_at
            return Health.DEGRADED, Reason(
                f"{name}Disconnected", f"no connection of its {name.lower()}", since_at
            )
    return None


def silence_told_at(facts: NodeFacts, connection: ConnectionFact | None, settings: Settings) -> float | None:
    """Give when a missing connection starts to count; None while it is open."""
    if connection is None:
        return facts.listening_since_at + max(settings.offline_timeout_s, settings.silence_timeout_s)
    return None if connection.is_open else connection.changed_at + settings.silence_timeout_s


def evaluate(facts: NodeFacts, now: float, settings: Settings) -> Verdict:
    """Give the node's state: the gravest word of its three axes, with the reason that decided it.

    Args:
        facts: all that is known of the node.
        now: the server's monotonic seconds.
        settings: the thresholds.
    """
    stored = facts.stored
    life, life_reason = lifecycle(facts, now)
    reach, reach_reason = reachability(facts, now, settings)
    well, well_reason = health(facts, now, settings)
    if reach is Reachability.AWAITED:
        is_undone = stored.lifecycle is not life or (
            stored.word is Word.MAINTENANCE and life is not Lifecycle.MAINTENANCE
        )
        if is_undone:
            reach_word = Word.PENDING
        else:
            reach_word, reach_reason = stored.word, Reason(stored.reason, stored.detail)
    else:
        reach_word = WORD_OF_REACHABILITY[reach]
    axes = [(WORD_OF_LIFECYCLE[life], life_reason), (reach_word, reach_reason)]
    if reach is Reachability.OFFLINE:
        well = Health.UNKNOWN  # what a node last said must not outlive it
    elif reach is not Reachability.AWAITED or well is not Health.UNKNOWN:
        axes.append((WORD_OF_HEALTH[well], well_reason))
    axes.sort(key=lambda axis: PRECEDENCE.index(axis[0]))
    word, reason = axes[0]
    return Verdict(
        word=word,
        reason=reason if word is not Word.READY else Reason("Ready"),
        reasons=tuple(why for axis_word, why in axes if axis_word is not Word.READY),
        lifecycle=life,
        reachability=reach,
        health=well,
        unreachable=_unreachable(facts, reach, now, settings),
    )


def _unreachable(facts: NodeFacts, reach: Reachability, now: float, settings: Settings) -> bool:
    """Give the row's flag: set when the node is lost, kept until it is proven well."""
    match reach:
        case Reachability.UNREACHABLE | Reachability.OFFLINE:
            return True
        case Reachability.AWAITED | Reachability.UNKNOWN | Reachability.UNPROVEN:
            return facts.stored.unreachable
        case Reachability.REACHABLE:
            is_well = not facts.stored.has_healthz or is_proven(facts, now, settings)
            return facts.stored.unreachable and not is_well
        case _:
            assert_never(reach)


def next_change_at(facts: NodeFacts, now: float, settings: Settings) -> float | None:
    """Give the soonest instant after now at which the verdict may change though nobody says anything."""
    instants = [facts.listening_since_at + settings.offline_timeout_s]
    sign_at = last_sign_at(facts)
    if sign_at is not None:
        instants.append(sign_at + settings.offline_timeout_s)
    for connection in (facts.link, facts.worker):
        told_at = silence_told_at(facts, connection, settings)
        if told_at is not None:
            instants.append(told_at)
    if facts.stored.lifecycle is Lifecycle.MAINTENANCE and facts.maintenance_until_at is not None:
        instants.append(facts.maintenance_until_at)
    if facts.probe is not None and facts.probe.good_before_at is not None and needs_proof(facts):
        instants.append(facts.probe.good_before_at + settings.offline_timeout_s)
    return min((instant for instant in instants if instant > now), default=None)
