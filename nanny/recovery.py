"""What a starting nanny makes of what the last one left: the journal, the facts in /run, the processes that live.

The journal decides. What it never got while it was degraded, or can't tell because its disk is silent, is taken
from the facts of this boot. Reads and looks; nothing is written, signalled or adopted here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nanny import adoption, facts
from nanny.core import startup
from nanny.core.records import EpochMinted, IncarnationEnded, IncarnationStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nanny.common.log_lines import LogLines
    from nanny.core.config import PolicyConfig
    from nanny.core.records import Record
    from nanny.durability import Durability


@dataclass(frozen=True, slots=True)
class Recovery:
    """Where this nanny starts from.

    Attributes:
        recovered: the core's state and the incarnations whose death nobody recorded.
        found: the workers that live.
        unjournaled: records that the journal lacks and has to get.
        link: what is remembered of a link that may still live; None after a reboot.
    """

    recovered: startup.Recovered
    found: list[adoption.Found]
    unjournaled: list[Record]
    link: Any


def recover(
    durability: Durability,
    facts_path: str,
    boot_id: str,
    now: float,
    config: PolicyConfig,
    mint: Callable[[], str],
    log: LogLines,
) -> Recovery:
    """Read what was left. A journal that has not opened in time counts as silent."""
    remembered = facts.read_facts(facts_path).facts or {}
    of_run = remembered.get("records")
    of_run = of_run if isinstance(of_run, list) else []
    opened = durability.opened
    plain: Sequence[Any] = of_run if opened is None else opened.records
    if opened is None:
        log.error("starting without a journal", why=durability.degraded)
    elif opened.torn_bytes or opened.damaged:
        log.warning("journal repaired", torn_bytes=opened.torn_bytes, damaged=opened.damaged)
    records, problems = adoption.parse_records(plain, boot_id)
    unjournaled: list[Record] = []
    if opened is not None:
        if opened.damaged:
            # Reserved numbers may be among what was lost: the epoch that the writer went on with counts anew.
            records.append((EpochMinted(opened.epoch), None))
        of_this_boot = adoption.parse_records(of_run, boot_id)[0]
        adoption.add_unknown_living(records, of_this_boot)
        unjournaled += add_unknown_lives(records, of_this_boot)
        unjournaled += adoption.add_unknown_orders(records, of_this_boot)
    for problem in problems:
        log.warning("journal record passed over", why=problem)
    found = adoption.find_living(records)
    living = tuple(
        startup.Living(one.started.incarnation, one.started.pid, one.was_ready, one.fenced) for one in found
    )
    recovered = startup.recover(records, living, now, (mint(), mint()), config)
    is_of_this_boot = remembered.get("boot") == boot_id
    if opened is None and not (is_of_this_boot and not remembered.get("forgetful")):
        recovered = replace(recovered, state=replace(recovered.state, is_forgetful=True))
    failures = recovered.state.worker.failures
    unjournaled += [
        IncarnationEnded(one, "unseen", "ended while no nanny watched", failures)
        for one in recovered.dead_unrecorded
    ]
    link = remembered.get("link") if is_of_this_boot else None
    return Recovery(recovered, found, unjournaled, link)


def add_unknown_lives(records: list[adoption.Dated], remembered: Sequence[adoption.Dated]) -> list[Record]:
    """Add lives that the journal has never heard of, also those that are over; give them, to be journaled.

    A nanny that began without its journal numbers in an epoch of its own. Its successor may find the journal
    readable and that worker dead: without this it would go on in the journal's epoch, with lives that are taken for
    earlier ones than that.
    """
    known = {record.incarnation for record, _ in records if isinstance(record, IncarnationStarted)}
    missing = [
        one
        for one in remembered
        if isinstance(one[0], IncarnationStarted) and one[0].incarnation not in known
    ]
    records += missing
    return [record for record, _ in missing]
