"""Does a long-lived process stay as it was: memory, descriptors and threads sampled, and a line through the samples.

The first part of a run warms up and is not counted. What is judged is the growth that the line makes over the rest,
against a tolerance; a single high sample is noise, a line that climbs is a leak. Sizes in bytes. proc(5).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field

WARM_UP_SHARE = 0.3
FEWEST_SAMPLES = 10
_MIB = 1 << 20
TOLERANCES = {
    "nanny": {"pss": 3 * _MIB, "anonymous": 3 * _MIB, "descriptors": 6.0, "threads": 0.1},
    "link": {"pss": 4 * _MIB, "anonymous": 4 * _MIB, "descriptors": 3.0, "threads": 2.0},
    # Its caches and its pool of threads fill for a while, and its clients come and go.
    "server": {"pss": 10 * _MIB, "anonymous": 10 * _MIB, "descriptors": 10.0, "threads": 6.0},
}
"""How much each may grow over the counted part of a run."""


@dataclass(frozen=True, slots=True)
class Flatness:
    """What became of one quantity of one process; `growth` is the line's over the counted part."""

    process: str
    quantity: str
    samples: int
    first: float
    last: float
    growth: float
    tolerance: float

    @property
    def is_flat(self) -> bool:
        """False: it climbs."""
        return self.growth <= self.tolerance


@dataclass(slots=True)
class Samples:
    """Samples of one process, by quantity, with their instants in seconds."""

    process: str
    taken: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def take(self, pid: int, at: float) -> None:
        """Look at the process now; one that has just ended is passed over."""
        with suppress(OSError):
            values = {
                **memory_of(pid),
                "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
                "threads": float(len(os.listdir(f"/proc/{pid}/task"))),
            }
            for quantity, value in values.items():
                self.taken.setdefault(quantity, []).append((at, value))

    def judged(self) -> list[Flatness]:
        """Each quantity; too few samples say nothing and are left out."""
        found = []
        for quantity, points in self.taken.items():
            counted = points[int(len(points) * WARM_UP_SHARE) :]
            if len(counted) >= FEWEST_SAMPLES:
                found.append(
                    Flatness(
                        process=self.process,
                        quantity=quantity,
                        samples=len(counted),
                        first=counted[0][1],
                        last=counted[-1][1],
                        growth=growth(counted),
                        tolerance=TOLERANCES[self.process][quantity],
                    )
                )
        return found


def growth(points: list[tuple[float, float]]) -> float:
    """How much the least-squares line through the points rises from the first instant to the last."""
    count = len(points)
    mean_at = sum(at for at, _ in points) / count
    mean = sum(value for _, value in points) / count
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    if spread == 0:
        return 0.0
    slope = sum((at - mean_at) * (value - mean) for at, value in points) / spread
    return slope * (points[-1][0] - points[0][0])


def memory_of(pid: int) -> dict[str, float]:
    """What is its own of memory: proportional set size (what is shared counts in shares), and anonymous pages.

    Raises:
        OSError: the process is gone.
    """
    found = {}
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in {"Pss", "Anonymous"}:
                found[name.lower()] = float(int(rest.split()[0]) << 10)
    if len(found) != 2:
        raise ProcessLookupError(pid)
    return found
