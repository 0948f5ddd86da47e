"""The nanny killed at every boundary between two effects of every kind of order, by its own fault point.

The boundaries are not listed anywhere: each kind is ordered again and again, with the fall one boundary later each
time, until the nanny lives through it. Whoever ordered then asks again under the same id, as link does. Whatever
happened: the order has one outcome, its effect came about once, at most one worker lives, and a worker that the
order does not end is the same process as before. Knows nothing of how the nanny brings that about.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from nanny.core.events import CommandKind
from tests.faults.ordered import Ordered
from tests.faults.registry import fault
from tests.support.processes import wait_until
from tests.support.real_nanny import PATIENCE_S, PRELUDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.fault_node import FaultNode
    from tests.support.real_nanny import RealNanny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

_BOUNDARIES_LIMIT = 80
_TELLS_ITS_BIRTH = """
open({path!r}, "a").write(os.environ["NANNY_INCARNATION"] + "\\n")
beat_for_ever("\\nREADY=1")
"""
"""It repeats READY=1, as the agent does: what is said while no nanny listens is said to nobody."""


class Ground:
    """A node whose worker tells each of its births, brought into one state before each order."""

    def __init__(self, node: FaultNode) -> None:
        self.node = node
        self._births = node.directory / "births"
        self._births.touch()
        self._program = PRELUDE + _TELLS_ITS_BIRTH.format(path=str(self._births))

    def start(self, fault_point: str | None = None, *, wait: bool = True) -> None:
        """Start the next nanny, and let it come to rest."""
        flags = () if fault_point is None else (f"--fault-point={fault_point}",)
        self.node.start(self._program, *self.node.flags(), *flags, wait=wait)
        if wait:
            self.node.wait_for(lambda status: status["phase"] in {"running", "down"}, "rest")

    def is_at_rest(self) -> bool:
        """Whether it answers and has nothing left to do."""
        with suppress(OSError, EOFError):
            status = self.node.status()
            return status["phase"] in {"running", "down"} and not status["pending_commands"]
        return False

    def bring(self, kind: CommandKind) -> None:
        """Order something that prepares."""
        assert Ordered(kind, {}).send(self.node)

    def births(self) -> list[str]:
        """The incarnations that ran."""
        return self._births.read_text().split()

    def workers(self) -> list[int]:
        """The workers that live."""
        return self.node.workers()

    def outcomes_on_record(self, ordered: Ordered) -> list[str]:
        """What the journal says of the order's end, each time that it says it."""
        path = max(self.node.state_dir.glob("journal.0*.jsonl"))
        records = [json.loads(line[9:]) for line in path.read_text().splitlines()[1:]]
        ends = [one for one in records if one["type"] == "command-finished"]
        return [one["outcome"] for one in ends if one["command_id"] == ordered.id]

    def bundles(self) -> int:
        """Evidence kept."""
        directory = self.node.state_dir / "evidence"
        return len(list(directory.iterdir())) if directory.exists() else 0


def _up(ground: Ground) -> None:
    if ground.node.status()["desired"]["value"] == "down":
        ground.bring(CommandKind.START)
    ground.node.wait_for_phase("running")


def _down(ground: Ground) -> None:
    ground.bring(CommandKind.STOP)
    ground.node.wait_for_phase("down")


def _undrained(ground: Ground) -> None:
    _up(ground)
    ground.bring(CommandKind.UNDRAIN)


def _drained(ground: Ground) -> None:
    _up(ground)
    ground.bring(CommandKind.DRAIN)


def _let_go(ground: Ground) -> None:
    _up(ground)
    ground.bring(CommandKind.RELEASE)


def _held(ground: Ground) -> None:
    _up(ground)
    assert Ordered(CommandKind.HOLD, {"for_s": 600}).send(ground.node)


def _failed_once(ground: Ground) -> None:
    _up(ground)
    if ground.node.status()["worker"]["failures"] == 0:
        before = ground.node.status()
        [pid] = ground.workers()
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        ground.node.wait_for_next(before)


@dataclass(frozen=True)
class Kind:
    """What is to be so before an order of this kind, and after it."""

    kind: CommandKind
    prepare: Callable[[Ground], None]
    holds: Callable[[dict[str, Any]], object]
    """Of the status."""
    births: int = 0
    """Workers that the order brings to life."""
    keeps_worker: bool = True
    fields: dict[str, Any] = field(default_factory=dict)
    outcome: str = "done"


KINDS = (
    Kind(CommandKind.RESTART, _up, lambda status: status["phase"] == "running", births=1, keeps_worker=False),
    Kind(CommandKind.STOP, _up, lambda status: status["phase"] == "down", keeps_worker=False),
    Kind(CommandKind.START, _down, lambda status: status["phase"] == "running", births=1, keeps_worker=False),
    Kind(CommandKind.DRAIN, _undrained, lambda status: status["draining"]),
    Kind(CommandKind.UNDRAIN, _drained, lambda status: not status["draining"]),
    Kind(CommandKind.HOLD, _let_go, lambda status: status["hold"], fields={"for_s": 600}),
    Kind(CommandKind.RELEASE, _held, lambda status: not status["hold"]),
    Kind(CommandKind.CLEAR, _failed_once, lambda status: status["worker"]["failures"] == 0),
    Kind(CommandKind.COLLECT_EVIDENCE, _up, lambda status: status["phase"] == "running"),
    Kind(CommandKind.RELOAD, _up, lambda status: not status["conditions"]),
)


@pytest.mark.faults
def test_each_kind_of_order_has_its_turn_here() -> None:
    assert {one.kind for one in KINDS} == set(CommandKind)


@pytest.mark.parametrize("kind", [pytest.param(one, id=str(one.kind)) for one in KINDS])
@fault("38", "the nanny killed between any two effects of an order", by="the next nanny: journal and /run")
def test_killed_at_each_boundary_an_order_ends_once_and_acts_once(node: FaultNode, kind: Kind) -> None:
    ground = Ground(node)
    falls = 0
    while _falls(ground, kind, f"after-{kind.kind}-{falls + 1}"):
        falls += 1
        assert falls < _BOUNDARIES_LIMIT
    # Decided, recorded, observed, and told: no order gets by with less.
    assert falls >= 4


def _falls(ground: Ground, kind: Kind, fault_point: str) -> bool:
    """One round; whether the nanny fell in it."""
    ground.start(fault_point)
    kind.prepare(ground)
    births, workers = len(ground.births()), ground.workers()
    ordered = Ordered(kind.kind, kind.fields)
    was_told = ordered.send(ground.node)
    has_fallen = not was_told or _falls_yet(ground.node)
    where = f"{fault_point}: {ground.node.log().rpartition('fault point: ')[2].partition(chr(10))[0]}"
    if not has_fallen:
        # What is asked from now on is no part of the order.
        ground.node.send(signal.SIGKILL)
    assert ground.node.wait_for_exit() == -signal.SIGKILL, where
    ground.start()
    _ended_once_and_acted_once(ground, kind, ordered, births, workers, where)
    return has_fallen


def _ended_once_and_acted_once(
    ground: Ground, kind: Kind, ordered: Ordered, births: int, workers: list[int], where: str
) -> None:
    """Judge the nanny that came after the fall, and end it."""
    assert ordered.send(ground.node), where
    assert set(ordered.outcomes) == {kind.outcome}, where
    status = ground.node.wait_for(kind.holds, f"the order's effect after {where}")
    wait_until(lambda: ground.workers() == _expected(status), PATIENCE_S, f"one worker after {where}")
    if kind.keeps_worker:
        assert ground.workers() == workers, where
    assert len(ground.births()) == births + kind.births, where
    assert ground.outcomes_on_record(ordered) == [kind.outcome], where
    ground.node.assert_unharmed()
    ground.node.kill()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(one, id=str(one.kind))
        for one in KINDS
        if one.kind in {CommandKind.RESTART, CommandKind.STOP}
    ],
)
@fault("38", "the nanny killed again between any two effects of its recovery", by="the next nanny: journal and /run")  # fmt: skip
def test_killed_again_at_each_boundary_of_the_recovery_it_still_acts_once(
    node: FaultNode, kind: Kind
) -> None:
    ground = Ground(node)
    falls = 0
    while _falls_twice(ground, kind, f"after-NannyStarted-{falls + 1}"):
        falls += 1
        assert falls < _BOUNDARIES_LIMIT
    assert falls >= 4


def _falls_twice(ground: Ground, kind: Kind, fault_point: str) -> bool:
    """One round; whether the second nanny fell in it. The first does when the order is recorded."""
    ground.start(f"after-{kind.kind}-2")
    kind.prepare(ground)
    births, workers = len(ground.births()), ground.workers()
    ordered = Ordered(kind.kind, kind.fields)
    assert not ordered.send(ground.node)
    assert ground.node.wait_for_exit() == -signal.SIGKILL
    ground.start(fault_point, wait=False)
    wait_until(lambda: ground.node.has_ended() or ground.is_at_rest(), PATIENCE_S, "a second fall, or rest")
    has_fallen = ground.node.has_ended()
    if not has_fallen:
        ground.node.send(signal.SIGKILL)
    assert ground.node.wait_for_exit() == -signal.SIGKILL, fault_point
    ground.start()
    _ended_once_and_acted_once(ground, kind, ordered, births, workers, fault_point)
    return has_fallen


def _falls_yet(node: RealNanny) -> bool:
    """Whether it falls right after it told the outcome: it answers again only when nothing is left to do."""
    with suppress(OSError, EOFError):
        node.status()
        return node.has_ended()
    return True


def _expected(status: dict[str, Any]) -> list[int]:
    return [status["worker"]["pid"]] if status["desired"]["value"] == "up" else []
