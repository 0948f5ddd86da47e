"""Every situation that a node's state is made from, as few classes of each kind of fact, and what the server makes of it.

A situation is one probe's class, one state of each connection, and what people want; its facts are those of a server
that has long been up. The documents' table and the test that goes through all of it are made from the same list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Final

from nanny.protocol.incarnation import Incarnation
from server_stub.core.connectivity import (
    PASSING,
    RECHECK_S,
    WORD_OF_HEALTH,
    WORD_OF_LIFECYCLE,
    WORD_OF_REACHABILITY,
    Settings,
    evaluate,
    recheck_in_s,
)
from server_stub.core.node_facts import (
    ANSWERED,
    WHY,
    ConnectionFact,
    Lifecycle,
    NannyFact,
    NodeFacts,
    ProbeClass,
    ProbeFact,
    Stored,
    Word,
)
from server_stub.core.repair import RepairSettings, need_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_stub.core.node_facts import Verdict

NOW: Final = 10000.0
LIMITS: Final = Settings()
LIFE: Final = Incarnation("0190e09f-0000-7000-8000-00000000000a", 7)
EARLIER: Final = replace(LIFE, number=6)

PROBES: Final = (
    "none yet",
    *(str(result) for result in ProbeClass),
    "ok, starting",
    "ok, of an earlier life",
    "ok, first after it was lost",
)
WORKERS: Final = ("open", "gone for a moment", "gone for long", "never seen")
LINKS: Final = (
    "open, running",
    "open, degraded",
    *(f"open, {phase}" for phase in sorted(PASSING)),
    "open, failed",
    "open, without its nanny",
    "gone for a moment",
    "gone for long",
    "none ever",
)
_AGES: Final = {"gone for a moment": 5.0, "gone for long": 60.0}


@dataclass(frozen=True, slots=True)
class Situation:
    """One of all."""

    lifecycle: Lifecycle
    probe: str
    link: str
    worker: str

    @property
    def facts(self) -> NodeFacts:
        """What the server would know."""
        is_lost = self.probe == "ok, first after it was lost"
        lifecycle = self.lifecycle if self.lifecycle is Lifecycle.MAINTENANCE else Lifecycle.ACTIVE
        return NodeFacts(
            stored=Stored(
                lifecycle,
                unreachable=is_lost,
                word=Word.UNREACHABLE if is_lost else Word.PENDING,
                reason="Before",
                detail="",
                is_registered=True,
                has_healthz=True,
                has_link=self.link != "none ever",
                maintenance="in maintenance by alice: fans",
            ),
            listening_since_at=0.0,
            probe=self._probe(),
            worker=_connection(self.worker),
            link=_connection(self.link),
            nanny=self._nanny(),
            registered_incarnation=LIFE,
            reborn_at=NOW - 3000.0,
            answered_at=NOW - 20.0,
        )

    def _probe(self) -> ProbeFact | None:
        if self.probe == "none yet":
            return None
        name, _, more = self.probe.partition(", ")
        result = ProbeClass(name)
        status = {"ok": more if more == "starting" else "ok", "503-stalled": "stalled"}.get(name)
        incarnation = EARLIER if more == "of an earlier life" else LIFE
        is_good = result is ProbeClass.OK and status == "ok"
        in_row = int(is_good) * (1 if more == "first after it was lost" else 9)
        return ProbeFact(
            result,
            NOW - 2.0,
            NOW - 200.0,
            status,
            incarnation if result in ANSWERED else None,
            good_in_row=in_row,
            good_before_at=NOW - 17.0 if in_row > 1 else None,
        )

    def _nanny(self) -> NannyFact | None:
        if self.link == "none ever":
            return None
        phase = self.link.partition(", ")[2] or "running"
        is_lost = phase == "without its nanny"
        return NannyFact(
            phase="nanny-unreachable" if is_lost else phase,
            desired_down=self.lifecycle is Lifecycle.STOPPED,
            desired_by="root",
            desired_reason="",
            desired_since_at=NOW - 900.0,
            draining=self.lifecycle is Lifecycle.DRAINING,
            incarnation=LIFE,
            conditions=("NannyUnreachable",) if is_lost else (),
            at=NOW - _AGES.get(self.link, 1.0),
            # A good answer of the same life is newer than this only where it overrules `starting`.
            phase_since_at=NOW - 150.0,
        )

    def verdict(self) -> Verdict:
        """What the server makes of it."""
        return evaluate(self.facts, NOW, LIMITS)

    def action(self) -> str:
        """What the server does about it by itself; empty: it goes on probing in turn."""
        facts, verdict = self.facts, self.verdict()
        need = need_of(facts, None, NOW, RepairSettings())
        if need is not None and verdict.lifecycle is Lifecycle.ACTIVE:
            return "restart, if it lasts"
        is_blocked = any(reason.code == "ProbePathBlocked" for reason in verdict.reasons)
        if is_blocked and verdict.lifecycle is Lifecycle.ACTIVE:
            return "condition, no restart"
        if recheck_in_s(facts, NOW, LIMITS) is not None:
            return f"probe again in {RECHECK_S:g} s"
        return ""


def _connection(name: str) -> ConnectionFact | None:
    if name in {"never seen", "none ever"}:
        return None
    if name in _AGES:
        return ConnectionFact(is_open=False, changed_at=NOW - _AGES[name], heard_at=NOW - _AGES[name])
    return ConnectionFact(is_open=True, changed_at=NOW - 3000.0, heard_at=NOW - 1.0)


def links_of(lifecycle: Lifecycle) -> tuple[str, ...]:
    """Give the states of link that can be: without one nobody could say that it is stopped or drains."""
    return LINKS[:-1] if lifecycle in {Lifecycle.STOPPED, Lifecycle.DRAINING} else LINKS


def situations() -> Iterator[Situation]:
    """Give all of them."""
    for lifecycle in Lifecycle:
        for probe, link, worker in product(PROBES, links_of(lifecycle), WORKERS):
            yield Situation(lifecycle, probe, link, worker)


# For people


def _told(situation: Situation) -> str:
    verdict, action = situation.verdict(), situation.action()
    told = verdict.word.value
    if verdict.reason.code not in {"Ready", verdict.word.capitalize()}:
        told += f" ({verdict.reason.code})"
    return f"{told}; *{action}*" if action else told


def node_states() -> str:
    """The table: what does not differ stands in one row."""
    lines = [
        "| wanted | probe | link, and what its nanny says | "
        + " | ".join(f"worker {name}" for name in WORKERS),
        "|---" * (3 + len(WORKERS)) + "|",
    ]
    lines[0] += " |"
    for lifecycle in Lifecycle:
        by_probe: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
        for probe in PROBES:
            rows = tuple(
                (link, tuple(_told(Situation(lifecycle, probe, link, worker)) for worker in WORKERS))
                for link in links_of(lifecycle)
            )
            by_probe.setdefault(rows, []).append(probe)
        for rows, probes in by_probe.items():
            lines += _rows(lifecycle, probes, rows)
    return "\n".join(lines) + "\n"


def _rows(
    lifecycle: Lifecycle, probes: list[str], rows: tuple[tuple[str, tuple[str, ...]], ...]
) -> Iterator[str]:
    by_outcome: dict[tuple[str, ...], list[str]] = {}
    for link, outcome in rows:
        by_outcome.setdefault(outcome, []).append(link)
    everything = links_of(lifecycle)
    for position, (outcome, links) in enumerate(by_outcome.items()):
        name = _all_or(probes, PROBES) if position == 0 else ""
        wanted = str(lifecycle) if position == 0 else ""
        cells = [outcome[0], *("″" if one == outcome[0] else one for one in outcome[1:])]
        yield f"| {wanted} | {name} | {_all_or(links, everything)} | {' | '.join(cells)} |"


def _all_or(some: list[str], everything: tuple[str, ...]) -> str:
    left = [one for one in everything if one not in some]
    if not left:
        return "any"
    return f"any but: {'; '.join(left)}" if len(left) <= len(some) // 2 else "<br>".join(some)


def probe_classes() -> str:
    """Each class of a check, and what it tells an operator."""
    lines = ["| class | what it says | a sign of the node |", "|---|---|---|"]
    lines += [
        f"| `{result}` | {WHY[result]} | {'yes' if result in ANSWERED else 'no'} |" for result in ProbeClass
    ]
    return "\n".join(lines) + "\n"


def words() -> str:
    """The words by precedence, with the states of each axis that come to it."""
    lines = ["| word | lifecycle | reachability | health |", "|---|---|---|---|"]
    for word in Word:
        cells = [
            ", ".join(str(state) for state, its in mapping.items() if its is word)
            for mapping in (WORD_OF_LIFECYCLE, WORD_OF_REACHABILITY, WORD_OF_HEALTH)
        ]
        lines.append(f"| {word} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
