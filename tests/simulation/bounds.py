"""How long a node may stay dark once nothing is wrong with the world any more: a formula of the settings.

At the instant from which on nobody injects anything, at most one process that is beyond help still owns the node. The
bound adds up the longest way from there to a worker that is ready: noticing it, ending it, the wait before the next
try, a start.

    notice   a verdict: silence, a stall, a start, an exit or a birth that is overdue, with everything that may be
             granted on top (starvation, the kernel's answer, two beats after a late timer)
    end      the whole ladder, down to the fence
    again    the backoff after as many failures as there were, and one more; the nanny's own start
    start    as long as a start of a worker that is well takes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.simulation.disk import JOURNAL_TIMEOUT_S
from tests.simulation.worker import EXEC_S, START_S

if TYPE_CHECKING:
    from nanny.core.config import ChildTiming, PolicyConfig

_SLACK_S: Final = 2.0
"""Journal writes, births, the round trip of the evidence helper."""
PROBE_INTERVAL_S: Final = 15.0
OFFLINE_S: Final = 100.0


def notice_s(config: PolicyConfig) -> float:
    """From the beginning of any trouble to the verdict."""
    timing = config.worker
    two_beats_s = 2 * timing.heartbeat_interval_s
    longest_s = max(
        timing.heartbeat_timeout_s + two_beats_s,
        config.stall_timeout_s + timing.heartbeat_interval_s,
        timing.start_timeout_s,
        timing.stop_grace_s,
        timing.spawn_timeout_s,
    )
    return longest_s + two_beats_s + config.examine_timeout_s + config.starvation_limit_s


def end_s(config: PolicyConfig) -> float:
    """From the verdict to a worker that is dead or fenced."""
    timing = config.worker
    return (
        config.evidence_timeout_s
        + timing.stop_grace_s
        + config.abort_grace_s
        + timing.unkillable_timeout_s
        + 3 * JOURNAL_TIMEOUT_S
    )


def backoff_s(failures: int, timing: ChildTiming) -> float:
    """The longest wait after so many failures in a row, without jitter."""
    if failures <= 1:
        return 0.0
    if failures >= timing.crash_loop_after:
        return timing.backoff_ceiling_s
    return min(
        timing.backoff_ceiling_s, timing.backoff_initial_s * timing.backoff_factor ** min(failures - 2, 64)
    )


def dark_s(config: PolicyConfig, failures: int) -> float:
    """The bound: seconds from the last trouble to READY.

    Args:
        config: the settings in force.
        failures: in a row, counted at the last trouble.
    """
    start_s = EXEC_S + START_S + _SLACK_S
    return notice_s(config) + end_s(config) + backoff_s(failures + 1, config.worker) + start_s


def told_s(config: PolicyConfig, keepalive_s: float, dial_ceiling_s: float, dial_timeout_s: float) -> float:
    """On top of `dark_s`: until the server says so.

    A link that hangs is replaced like a worker; a connection that is dead is found dead, another one dialled; then the
    next probe and the next report settle it.
    """
    link = notice_s(config) + config.worker.unkillable_timeout_s + config.worker.backoff_ceiling_s
    session = 4 * keepalive_s + dial_ceiling_s + 2 * dial_timeout_s
    return link + session + OFFLINE_S + 2 * PROBE_INTERVAL_S
