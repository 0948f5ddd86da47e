"""Who is to be repaired, and why not: from facts to a decision that carries its reason.

A *need* is a worker that stalls, or of which neither probe nor its own connection nor its nanny's report
tells anything good, while its link speaks. It counts once it has lasted without a break for `after_s`, above
the nanny's own ladder. The one repair is a `restart`, ordered of the nanny and aimed at that incarnation.

    probe fails, nanny says healthy     the probe's path is blocked: no need, whatever lasts how long
    nanny at work on it, or silent      no need: the ladder is the nanny's; only the mark is left
    what may be the server's own fault  no need: no route, no name, no descriptor

Then whatever speaks against it is asked in a fixed order, gravest first. Knows no clock and no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from server_stub.core.node_facts import Lifecycle, ProbeClass

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation
    from server_stub.core.node_facts import NannyFact, NodeFacts
    from server_stub.core.repair_budget import Refusal

ACTOR: Final = "server:repair-policy"
FAILED_PROBES: Final = frozenset({ProbeClass.REFUSED, ProbeClass.TIMEOUT, ProbeClass.RESET})
"""Results that can be the worker's own; the others are its path's or the server's."""


@unique
class RepairMode(StrEnum):
    """What the policy may do."""

    OFF = "off"
    DRY_RUN = "dry-run"
    ON = "on"


@unique
class NannysWord(StrEnum):
    """What the nanny says of its worker."""

    SILENT = "silent"
    """No link, no report, none lately, or link itself cannot reach the nanny."""
    HEALTHY = "healthy"
    AT_WORK = "at-work"
    """Starting, stopping, backing off, failed and retrying: on its own ladder."""
    UNWELL = "unwell"
    """It runs, but late: degraded, or no beats while it is said to run."""


@unique
class Why(StrEnum):
    """What speaks against a repair, in the order in which it is asked."""

    MAINTENANCE = "maintenance"
    DRAINING = "draining"
    STOPPED = "stopped"
    HELD = "held"
    """Somebody has the worker under a debugger: its nanny was told to hold."""
    JUST_STARTED = "server-just-started"
    DEMOTION_BRAKE = "demotion-brake"
    COMMAND_OPEN = "command-open"
    INCARNATION_UNKNOWN = "incarnation-unknown"
    NODE_BUDGET = "node-budget"
    FLEET_BUDGET = "fleet-budget"


_WHY_OF_LIFECYCLE: Final = {
    Lifecycle.MAINTENANCE: Why.MAINTENANCE,
    Lifecycle.DRAINING: Why.DRAINING,
    Lifecycle.STOPPED: Why.STOPPED,
}


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """Thresholds in seconds."""

    mode: RepairMode = RepairMode.DRY_RUN
    after_s: float = 90.0
    silence_timeout_s: float = 30.0
    """A connection or a nanny's report that is older counts as silent."""
    offline_timeout_s: float = 100.0
    looked_within_s: float = 35.0
    """Without a check that ended within so long nobody knows whether a need lasts."""


@dataclass(frozen=True, slots=True)
class Need:
    """A worker that a restart may help."""

    incarnation: Incarnation | None
    """Which its nanny runs; None: it has not said."""
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """All that may speak against a repair of one node at one moment."""

    lifecycle: Lifecycle
    listening_since_at: float
    is_held: bool
    is_demotion_brake_on: bool
    has_open_command: bool
    node_refusal: Refusal | None
    fleet_refusal: Refusal | None
    is_command_brake_lifted: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """The need has not lasted long enough."""

    until_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """There is need, and something speaks against it."""

    why: Why
    reason: str
    until_at: float | None
    """When that ends by itself, if that is known."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Restart this incarnation; in a dry run, only say so."""

    incarnation: Incarnation
    reason: str
    is_dry_run: bool


Decision = Wait | Withheld | Repair


def nannys_word(
    facts: NodeFacts, beat_age_s: float | None, now: float, settings: RepairSettings
) -> NannysWord:
    """Give what the nanny says of its worker, as far as it speaks.

    Args:
        facts: of the node.
        beat_age_s: the age of the worker's last beat when the nanny's report came; None: not told.
        now: monotonic seconds.
        settings: the thresholds.
    """
    nanny, link = facts.nanny, facts.link
    if nanny is None or link is None or not link.is_open:
        return NannysWord.SILENT
    if nanny.at < link.changed_at or now > nanny.at + settings.silence_timeout_s:
        return NannysWord.SILENT
    match nanny.phase:
        case "running":
            is_beating = beat_age_s is None or beat_age_s <= settings.silence_timeout_s
            return NannysWord.HEALTHY if is_beating else NannysWord.UNWELL
        case "degraded":
            return NannysWord.UNWELL
        case "starting" | "stopping" | "backoff" | "failed" | "down":
            return NannysWord.AT_WORK
        case _:
            return NannysWord.SILENT


def need_of(facts: NodeFacts, beat_age_s: float | None, now: float, settings: RepairSettings) -> Need | None:
    """Give what ails the worker that only a restart ordered from here might help, None if nothing does."""
    probe, nanny = facts.probe, facts.nanny
    if probe is None or nanny is None or probe.result is ProbeClass.OK:
        return None
    word = nannys_word(facts, beat_age_s, now, settings)
    if word in {NannysWord.SILENT, NannysWord.AT_WORK}:
        return None
    if probe.result in {ProbeClass.STALLED, ProbeClass.FALLBACK}:
        if _is_of_another_life(facts, nanny):
            return None
        if probe.result is ProbeClass.FALLBACK:
            return Need(nanny.incarnation, "NotAccepting", "only its nanny answers /healthz")
        return Need(nanny.incarnation, "Stalled", f"in {probe.where}" if probe.where else "")
    if probe.result not in FAILED_PROBES or word is NannysWord.HEALTHY:
        return None
    if not _is_worker_silent(facts, now, settings):
        return None
    detail = f"probe: {probe.result}, no word from its worker, and its nanny says {nanny.phase}"
    return Need(nanny.incarnation, "WorkerSilent", detail)


def _is_of_another_life(facts: NodeFacts, nanny: NannyFact) -> bool:
    """Tell whether the probe met another worker than the one that the nanny runs now."""
    probed = facts.probe.incarnation if facts.probe is not None else None
    return probed is not None and nanny.incarnation is not None and probed != nanny.incarnation


def _is_worker_silent(facts: NodeFacts, now: float, settings: RepairSettings) -> bool:
    worker = facts.worker
    if worker is None:
        return now >= facts.listening_since_at + settings.offline_timeout_s
    return not worker.is_open or now > worker.heard_at + settings.silence_timeout_s


def decide(
    need: Need, since_at: float, circumstances: Circumstances, now: float, settings: RepairSettings
) -> Decision:
    """Give what is to be done about a need, with the reason.

    Args:
        need: what ails the worker.
        since_at: since when without a break, of the same incarnation.
        circumstances: what may speak against a repair.
        now: monotonic seconds.
        settings: thresholds and mode; `off` is the caller's not to ask.
    """
    told = f"{need.code}: {need.detail}" if need.detail else need.code
    if now < since_at + settings.after_s:
        return Wait(since_at + settings.after_s, told)
    against = _what_speaks_against(need, circumstances, now, settings)
    if against is not None:
        why, detail, until_at = against
        return Withheld(why, f"{told}; withheld: {detail}", until_at)
    assert need.incarnation is not None  # INCARNATION_UNKNOWN speaks against it otherwise
    return Repair(need.incarnation, told, settings.mode is not RepairMode.ON)


def _what_speaks_against(
    need: Need, around: Circumstances, now: float, settings: RepairSettings
) -> tuple[Why, str, float | None] | None:
    why = _WHY_OF_LIFECYCLE.get(around.lifecycle)
    if why is not None:
        return why, f"the node is in {why}" if why is Why.MAINTENANCE else f"the node is {why}", None
    if around.is_held:
        return Why.HELD, "its nanny was told to hold", None
    listened_at = around.listening_since_at + settings.offline_timeout_s
    if now < listened_at:
        return Why.JUST_STARTED, "the server has just started to listen", listened_at
    if around.is_demotion_brake_on:
        return Why.DEMOTION_BRAKE, "the demotion brake is on: the server suspects itself", None
    if around.has_open_command:
        return Why.COMMAND_OPEN, "a command for the node has no outcome yet", None
    if need.incarnation is None:
        return Why.INCARNATION_UNKNOWN, "its nanny has not said which incarnation it runs", None
    refusal = around.node_refusal
    if refusal is not None:
        return Why.NODE_BUDGET, refusal.detail, refusal.until_at
    refusal = around.fleet_refusal
    if refusal is not None and not around.is_command_brake_lifted:
        return Why.FLEET_BUDGET, refusal.detail, refusal.until_at
    return None


def idempotency_key(node_id: str, incarnation: str, episode: int) -> str:
    """Give the key under which a repair is ordered: the same one however often the server dies in between.

    Args:
        node_id: of the node.
        incarnation: at which the restart is aimed.
        episode: how many repairs were aimed at this incarnation before.
    """
    canonical = f"{len(node_id)}:{node_id}:{incarnation}:{episode}"
    return f"repair-{sha256(canonical.encode()).hexdigest()}"
