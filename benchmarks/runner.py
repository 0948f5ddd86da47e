"""The measurements in their order, one after the other: what fails is a figure too, and costs the others nothing."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Effort, Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "step": ("benchmarks.step:measure", "one decision of the core"),
    "journal": ("benchmarks.journal:measure", "a durable record"),
    "detection": ("benchmarks.detection:measure", "how late a missed beat is noticed"),
    "livez": ("benchmarks.restarts:livez", "SIGKILL to /livez 200"),
    "ready": ("benchmarks.restarts:ready_at_server", "SIGKILL to READY at the server"),
    "healthz": ("benchmarks.healthz_latency:measure", "/healthz in each blocked state"),
    "gil": ("benchmarks.answers:gil", "who answers while the GIL is held"),
    "refused": ("benchmarks.answers:refused", "connections over many restarts"),
    "footprint": ("benchmarks.footprint:measure", "memory and CPU of each of our processes"),
    "agent": ("benchmarks.agent_start:measure", "the agent's start, without a nanny"),
    "probes": ("benchmarks.probe_cost:measure", "disposable probes"),
    "server": ("benchmarks.server:quiet", "the server, while nothing changes"),
    "reports": ("benchmarks.server:reports", "the server, with reports and registrations"),
    "flips": ("benchmarks.server_flips:measure", "a thousand nodes change in one round"),
    "peers": ("benchmarks.peers.contest:tiny", "other supervisors, the same tiny worker"),
    "dask": ("benchmarks.peers.contest:dask", "Dask's nanny and ours, a Dask worker"),
}
"""Name -> where it is, and what it measures."""


class UnknownPart(Exception):  # noqa: N818  # what it is
    """There is no measurement of that name."""


def chosen(names: Iterable[str]) -> list[str]:
    """The parts to run, in their order; all where none is named.

    Raises:
        UnknownPart: with the names that there are.
    """
    wanted = list(names)
    for name in wanted:
        if name not in PARTS:
            raise UnknownPart(f"no measurement {name!r}; there are: {', '.join(PARTS)}")
    return [name for name in PARTS if not wanted or name in wanted]


def run(
    names: Iterable[str],
    effort: Effort,
    *,
    parts: Mapping[str, tuple[str, str]] = PARTS,
    on_part: Callable[[str, list[Figure], float], None] = lambda *_: None,
) -> list[Figure]:
    """Measure; `on_part` gets each part's figures and seconds as soon as it is done."""
    found: list[Figure] = []
    for name in names:
        began_at = time.monotonic()
        place, what = parts[name]
        effort.tell(f"{name}: {what}")
        figures = _measured(name, place, effort)
        found += figures
        on_part(name, figures, time.monotonic() - began_at)
    return found


def _measured(name: str, place: str, effort: Effort) -> list[Figure]:
    figures: list[Figure] = []
    module, _, function = place.partition(":")
    try:
        for figure in getattr(import_module(module), function)(effort):
            figures.append(replace(figure, part=name))  # noqa: PERF401  # what came before a failure is kept
    except Exception as error:
        effort.tell(traceback.format_exc())
        said = str(error).splitlines() or [""]
        figures.append(Figure(name, "-", words=f"failed: {type(error).__name__}: {said[0]}"[:200], part=name))
    return figures


def failures(figures: Iterable[Figure]) -> list[str]:
    """The measurements, of ours or of a peer, that broke off."""
    return [f"{one.line} ({one.whose}): {one.words}" for one in figures if one.words.startswith("failed:")]
