"""Steady beats may be folded: run with and without, the nanny goes through the same states and writes the same records.

Without folding each beat of each worker and link is a step of the core; with it only the last one before anything else
happens. The two runs have to agree in every record with its instant, in every start and end, and in the last state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.simulation.draw import drawn
from tests.simulation.fleet import Fleet
from tests.simulation.shell import NannyLife

if TYPE_CHECKING:
    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from tests.simulation.fleet import Told

Recorded = tuple[str, float, "Record"]


def run(
    patch: pytest.MonkeyPatch, seed: int, *, folding: bool
) -> tuple[Told, list[Recorded], list[NannyState | None]]:
    recorded: list[Recorded] = []
    after_step = NannyLife._after_step

    def noted(life: NannyLife, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:
        recorded.extend((life.machine.name, round(life.loop.now, 6), one) for one in records)
        after_step(life, before, after, records)

    with patch.context() as patched:
        patched.setattr(NannyLife, "_after_step", noted)
        fleet = Fleet(range(2), folding=folding)
        told = fleet.run(drawn(seed, 2, 0.3), 0.3)
    for machine in fleet.machines:
        machine.beats.unfold()
    return told, recorded, [machine.state for machine in fleet.machines]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 7))
def test_folded_and_unfolded_beats_come_to_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folded, records, states = run(monkeypatch, seed, folding=True)
    unfolded, all_records, all_states = run(monkeypatch, seed, folding=False)
    assert folded.violation == unfolded.violation == ""
    assert records == all_records
    assert [_essence(one) for one in states] == [_essence(one) for one in all_states]
    assert folded.steps * 3 < unfolded.steps


def _essence(state: NannyState | None) -> Any:
    """All but the last digits of instants, which are sums of other terms."""
    assert state is not None
    return (
        state.phase,
        state.incarnation,
        state.next_number,
        state.intent,
        state.ledger,
        state.conditions,
        state.worker.failures,
        None if state.worker.last_beat_at is None else round(state.worker.last_beat_at, 6),
        None if state.link.last_beat_at is None else round(state.link.last_beat_at, 6),
    )
