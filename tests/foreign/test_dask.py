"""Dask's own worker under our nanny, and the failure that Dask's nanny has under the same scheduler, side by side."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version

import pytest

from tests.support.dask_scheduler import PATIENCE_S, DaskScheduler, dask_nanny, dask_scheduler
from tests.support.foreign_programs import (
    dask_worker,
    nannyctl,
    running_program,
    wait_for_beats,
    wait_for_next,
)
from tests.support.processes import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]
ROUNDS = 2


@pytest.fixture
def scheduler(leaves_nothing_behind: None) -> Iterator[DaskScheduler]:
    # The shortest time-out that Dask allows, so that its own nanny has its chance, too.
    with dask_scheduler(worker_ttl="5s") as made:
        yield made


@pytest.mark.parametrize(("fault", "reason"), [("block", "stalled"), ("gil", "lost")])
def test_a_blocked_worker_is_found_twice_and_its_successor_is_registered(fault: str, reason: str) -> None:
    # A scheduler that never gives a worker up: whoever finds the hang, it was not the scheduler.
    with dask_scheduler() as scheduler, running_program(dask_worker(scheduler.address, "ours")) as node:
        life = scheduler.wait_for_life("ours")
        for _ in range(ROUNDS):
            before = wait_for_beats(node)
            scheduler.order(fault, "ours")
            after = wait_for_next(node, before)
            assert after["last_restart"]["reason"] == reason
            life = scheduler.wait_for_life("ours", before=life)
        assert reason in nannyctl(node, "explain")


def test_closed_by_the_scheduler_then_blocked_twice_side_by_side(
    scheduler: DaskScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [f"Dask {version('distributed')}, closed by the scheduler, then blocked, {ROUNDS} times:"]

    def tell(round_number: int, what: str, since: float) -> None:
        told.append(f"  {round_number}: {what} after {time.monotonic() - since:.1f} s")

    with ExitStack() as stack, running_program(dask_worker(scheduler.address, "ours")) as node:
        theirs = stack.enter_context(dask_nanny(scheduler, "theirs"))
        lives = {name: scheduler.wait_for_life(name) for name in ("theirs", "ours")}
        assert scheduler.workers()["theirs"]["nanny"]
        for round_number in range(1, ROUNDS + 1):
            # Closed: Dask's nanny takes it for a goodbye and ends too, with exit code 0, in peace.
            closed_at = time.monotonic()
            scheduler.order("retire", *lives)
            wait_until(theirs.has_ended, PATIENCE_S, "the end of Dask's nanny")
            tell(
                round_number,
                f"closed: Dask's nanny ended for good, exit code {theirs.exit_code()},",
                closed_at,
            )
            assert theirs.exit_code() == 0
            lives["ours"] = scheduler.wait_for_life("ours", before=lives["ours"])
            tell(round_number, "closed: ours is registered again", closed_at)
            assert set(scheduler.workers()) == {"ours"}
            assert node.status()["desired"]["value"] == "up"

            # Blocked: both come back, ours by its beats, Dask's (started by hand meanwhile) by the scheduler's time-out.
            theirs = stack.enter_context(dask_nanny(scheduler, "theirs"))
            lives["theirs"] = scheduler.wait_for_life("theirs")
            before = wait_for_beats(node)
            blocked_at = time.monotonic()
            for name in lives:
                scheduler.order("block", name)
            assert wait_for_next(node, before)["last_restart"]["reason"] == "stalled"
            for name in ("ours", "theirs"):
                lives[name] = scheduler.wait_for_life(name, before=lives[name])
                tell(round_number, f"blocked: {name} is registered again", blocked_at)
        assert node.status()["counters"]["ends_total"] == {"exited": ROUNDS, "stalled": ROUNDS}
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(told) + "\n")
