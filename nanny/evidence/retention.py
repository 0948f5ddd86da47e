"""Which bundles go, and their going: bounded in number and size, the newest always stays.

A crash loop must not push out the one bundle of yesterday's hang: what goes first is the oldest of the reason
that has the most bundles. ``plan`` is pure; ``apply`` deletes, and belongs into the collector's process, since a
disk may hang. Bundles that were never finished are kept for a day: half a story is better than none.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nanny.evidence import bundle_files
from nanny.evidence.bundle_name import UNFINISHED, parse_name

if TYPE_CHECKING:
    from collections.abc import Iterable

UNFINISHED_KEPT_S: Final = 86_400.0
UNFINISHED_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """One bundle."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay. Invariant: both at least 1."""

    count: int
    size_bytes: int


def plan(bundles: Iterable[Kept], limits: Limits) -> tuple[str, ...]:
    """Give the names to delete, in that order; names sort by time."""
    left = sorted(bundles, key=lambda bundle: bundle.name)
    size = sum(bundle.size_bytes for bundle in left)
    doomed = []
    while len(left) > 1 and (len(left) > limits.count or size > limits.size_bytes):
        goes = _next_to_go(left[:-1])
        left.remove(goes)
        size -= goes.size_bytes
        doomed.append(goes.name)
    return tuple(doomed)


def _next_to_go(bundles: list[Kept]) -> Kept:
    by_reason: dict[str, list[Kept]] = {}
    for bundle in bundles:
        parsed = parse_name(bundle.name)
        by_reason.setdefault(parsed.reason if parsed else "", []).append(bundle)
    # max gives the first of equals, and dicts keep the order of insertion: the reason seen earliest.
    return max(by_reason.values(), key=len)[0]


def plan_unfinished(ages_s: Iterable[tuple[str, float]]) -> tuple[str, ...]:
    """Give the unfinished bundles to delete: those over a day old, and all but the youngest few."""
    youngest_first = sorted(ages_s, key=lambda one: one[1])
    return tuple(
        name
        for index, (name, age_s) in enumerate(youngest_first)
        if index >= UNFINISHED_KEPT or age_s > UNFINISHED_KEPT_S
    )


def apply(bundles_dir: str, limits: Limits) -> int:
    """Delete what the plans name, and give how many; what cannot be deleted stays for the next time."""
    finished: list[Kept] = []
    unfinished: list[tuple[str, float]] = []
    try:
        names = os.listdir(bundles_dir)
    except OSError:
        return 0
    for name in names:
        path = f"{bundles_dir}/{name}"
        try:
            if parse_name(name) is not None:
                finished.append(Kept(name, size_of(path)))
            elif name.startswith(UNFINISHED) and parse_name(name.removeprefix(UNFINISHED)) is not None:
                unfinished.append((name, time.time() - os.lstat(path).st_mtime))
        except OSError:
            continue
    doomed = (*plan(finished, limits), *plan_unfinished(unfinished))
    for name in doomed:
        bundle_files.remove(f"{bundles_dir}/{name}")
    return len(doomed)


def size_of(directory: str) -> int:
    """Give the bytes that a bundle's files take on the disk.

    Raises:
        OSError: there is no such directory.
    """
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
