"""What the collector is told: everything of the worker that lives in the nanny's memory, and by when to answer.

Made in the nanny, used in its fork: nothing here is serialised on the way, so making one costs the nanny next
to nothing. Instants are CLOCK_MONOTONIC, which is one for all processes of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.examination import Baseline
    from nanny.protocol.incarnation import Incarnation
    from nanny.protocol.notify_format import Beat


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One bundle to be made."""

    name: str
    incarnation: Incarnation
    reason: str
    command_id: str
    post_mortem: bool
    wall_s: float
    monotonic_s: float
    victim_until: float
    """Until then questions to the living worker are worth asking: afterwards it is killed."""
    answer_by: float
    """Until then the answer must be written; the nanny waits little longer."""

    pid: int
    pidfd: int
    """-1 post mortem."""
    stacks_fd: int | None
    cgroup_path: str | None
    exit_status: str
    """As told by the reaper; empty while it lives."""
    baseline: Baseline
    beats: tuple[tuple[float, Beat], ...]
    """(arrival, beat), oldest first."""
    status: dict[str, Any]
    output_tail: bytes
    recording: Callable[[], bytes]
    """Renders the flight recorder: called in the fork, so that it costs the nanny nothing."""

    node_name: str
    state_dir: str
    runtime_dir: str
    keep: int
    keep_bytes: int
    avoid_disk: bool
    """An earlier collector hangs there: keep the bundle in memory at once."""
    result_fd: int

    @property
    def bundles_dir(self) -> str:
        """Where bundles belong."""
        return f"{self.state_dir}/evidence"

    @property
    def fallback_dir(self) -> str:
        """Where a small one goes when the disk does not take it; on tmpfs, gone with the next boot."""
        return f"{self.runtime_dir}/evidence"
