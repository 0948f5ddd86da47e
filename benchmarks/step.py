"""What one decision costs: ``step`` for a heartbeat, beside a plain ``dataclasses.replace`` in the same run.

python benchmarks/step.py [--json]
"""

from __future__ import annotations

import argparse
import json
import timeit
from dataclasses import replace

from nanny.core import events as e
from nanny.core.config import PolicyConfig
from nanny.core.policy import step
from nanny.core.startup import recover

CALLS = 5000
REPEATS = 9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = PolicyConfig()
    state = step(recover([], (), 0.0, ("a", "b"), config).state, e.NannyStarted(), 0.0, config).state
    incarnation = state.incarnation
    assert incarnation is not None
    for event in (e.WorkerParked(incarnation, 1, 1), e.HeartbeatReceived(incarnation, ready=True)):
        state = step(state, event, 1.0, config).state
    beat = e.HeartbeatReceived(incarnation, loop_lag_s=0.01)
    beat_us = _best_us(lambda: step(state, beat, 1.5, config))
    replace_us = _best_us(lambda: replace(state, draining=True))
    figures = {"step_us": beat_us, "replace_us": replace_us, "ratio": beat_us / replace_us}
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"step for a beat {beat_us:.1f} us, a replace {replace_us:.1f} us, ratio {figures['ratio']:.1f}"
        )


def _best_us(call: object) -> float:
    assert callable(call)
    return min(timeit.repeat(call, number=CALLS, repeat=REPEATS)) / CALLS * 1e6


if __name__ == "__main__":
    main()
