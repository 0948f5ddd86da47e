"""What one decision costs: `step` for a heartbeat, beside a plain `dataclasses.replace` in the same run."""

from __future__ import annotations

import timeit
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.figures import Effort, Figure, p50, single
from nanny.core import events as e
from nanny.core.config import PolicyConfig
from nanny.core.policy import step
from nanny.core.startup import recover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = 5000


def measure(effort: Effort) -> Iterator[Figure]:
    """The best of several runs: the others were disturbed."""
    config = PolicyConfig()
    state = step(recover([], (), 0.0, ("a", "b"), config).state, e.NannyStarted(), 0.0, config).state
    incarnation = state.incarnation
    assert incarnation is not None
    for event in (e.WorkerParked(incarnation, 1, 1), e.HeartbeatReceived(incarnation, ready=True)):
        state = step(state, event, 1.0, config).state
    beat = e.HeartbeatReceived(incarnation, loop_lag_s=0.01)
    repeats = effort.count(15, 5)
    beat_us = _best_us(lambda: step(state, beat, 1.5, config), repeats)
    yield single("one decision for a heartbeat (step)", "us", beat_us, limits=(p50(10),))
    replace_us = _best_us(lambda: replace(state, draining=True), repeats)
    yield single("one decision for a heartbeat (step)", "us", replace_us, whose="a plain dataclasses.replace")


def _best_us(call: Callable[[], object], repeats: int) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=repeats)) / CALLS * 1e6
