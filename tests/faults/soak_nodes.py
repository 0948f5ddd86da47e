"""One node of the soak: which faults are done to it, in an order that its seed decides, and whether each has healed.

A fault is healed when the node runs again, with a later worker where one had to go and the same one where it had not.
Node 0 keeps its nanny and its link for the whole run, so that their memory can be watched; the others lose theirs,
too. The order is exact for a seed; when each fault comes is the machine's.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanny.protocol.incarnation import Incarnation
from tests.faults.fault_node import send
from tests.faults.journal_story import read_story
from tests.faults.node_stock import NodeStock, helpers, incarnations_alive, settled_stock, take_stock
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from tests.faults.fault_node import FaultNode

SETTINGS: dict[str, object] = {
    "heartbeat_timeout_s": 1.0,
    "backoff_initial_s": 0.05,
    "backoff_ceiling_s": 0.2,
    "stable_after_s": 0.1,
    "evidence_keep": 10,
}
LOOK_CLOSELY_EVERY = 20


class Lost(AssertionError):  # noqa: N818  # it says what happened
    """The node did not come back, or came back wrong."""


@dataclass(slots=True)
class Done:
    """One fault that was done."""

    kind: str
    step: int
    healed_after_s: float


@dataclass(slots=True)
class SoakNode:
    """A node and what was done to it.

    Attributes:
        number: in the soak; 0 keeps its nanny.
        lost: why it is lost; None: it is not.
    """

    number: int
    node: FaultNode
    seed: int
    flags: tuple[str, ...]
    has_link: bool
    done: list[Done] = field(default_factory=list)
    lost: str | None = None
    stock: NodeStock | None = None

    def begin(self) -> None:
        """Start the nanny."""
        self.node.begin(BEATS, *self.flags, **SETTINGS)
        self._healed({"incarnation": None, "worker": {"pid": 0}}, replaced=True)
        self.stock = settled_stock(self.node)

    def run(self, until: float, stop: Event) -> None:
        """Fault after fault until the instant, or until the node is lost."""
        dice = random.Random(f"{self.seed}/{self.number}")
        kinds = [kind for kind in KINDS if self._may(kind)]
        weights = [kind.weight for kind in kinds]
        step = 0
        try:
            while time.monotonic() < until and not stop.is_set():
                [kind] = dice.choices(kinds, weights)
                step += 1
                began = time.monotonic()
                kind.do(self, random.Random(f"{self.seed}/{self.number}/{step}"))
                self.done.append(Done(kind.name, step, time.monotonic() - began))
                if step % LOOK_CLOSELY_EVERY == 0:
                    self.look_closely()
        except Exception as error:
            if not stop.is_set():
                self.lost = f"node {self.number}, step {step}: {error}"[:4000]

    def look_closely(self) -> None:
        """One worker and none of before, the bystander untouched."""
        status = self.node.status()
        expected = {status["incarnation"]}
        with suppress(AssertionError):
            wait_until(lambda: set(incarnations_alive(self.node)) == expected, 10.0, "one incarnation alone")
        alive = incarnations_alive(self.node)
        if set(alive) != expected:
            raise Lost(f"alive are {alive}, the nanny's is {status['incarnation']}")
        if (harm := self.node.bystander.harm()) is not None:
            raise Lost(harm)

    def audit(self) -> list[str]:
        """What the whole run has left wrong, in words."""
        story = read_story(self.node)
        wrong = [*story.wrong_commands(), *story.wrong_incarnations()]
        if (harm := self.node.bystander.harm()) is not None:
            wrong.append(harm)
        counted = self.node.status()["nanny"]
        if (counted["errors_total"], counted["violations_total"]) != (0, 0):
            wrong.append(f"{counted['errors_total']} errors, {counted['violations_total']} broken invariants")
        if self.stock is not None and self.stock.nanny_pid == self.node.pid:
            stock = self.stock
            with suppress(AssertionError):
                wait_until(
                    lambda: not take_stock(self.node).grown_since(stock), 10.0, "nothing to be left over"
                )
            wrong += take_stock(self.node).grown_since(stock)
        return [f"node {self.number}: {one}" for one in wrong]

    def _may(self, kind: Kind) -> bool:
        if kind.needs_link and not self.has_link:
            return False
        return self.number > 0 or not kind.ends_the_watched

    # What is done. Each waits until it has healed.

    def kill_worker(self, dice: random.Random) -> None:
        before = self.node.status()
        send(
            before["worker"]["pid"],
            dice.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT]),
        )
        self._healed(before, replaced=True)

    def stop_worker(self, _: random.Random) -> None:
        before = self.node.status()
        send(before["worker"]["pid"], signal.SIGSTOP)
        self._healed(before, replaced=True)

    def blink_worker(self, dice: random.Random) -> None:
        """Stopped for less than it takes to be lost."""
        before = self.node.status()
        send(before["worker"]["pid"], signal.SIGSTOP)
        time.sleep(dice.uniform(0.0, 0.2))
        with suppress(ProcessLookupError):
            send(before["worker"]["pid"], signal.SIGCONT)
        # On a busy machine it may have been lost after all.
        self._healed(before, replaced=None)

    def order_restart(self, dice: random.Random) -> None:
        before = self.node.status()
        target = dice.choice([None, before["incarnation"]])
        outcome = self.node.order("restart", **({} if target is None else {"target": target}))["outcome"]
        if outcome not in {"done", "already-satisfied"}:
            raise Lost(f"a restart was {outcome}")
        self._healed(before, replaced=True)

    def order_and_kill(self, _: random.Random) -> None:
        """A restart is ordered, and the worker dies before it is asked to."""
        before = self.node.status()
        with suppress(ProcessLookupError):
            send(before["worker"]["pid"], signal.SIGKILL)
        self.node.order("restart", target=before["incarnation"])
        self._healed(before, replaced=True)

    def stop_and_start(self, _: random.Random) -> None:
        before = self.node.status()
        self._want("stop")
        self.node.wait_for_phase("down")
        self._want("start")
        self._healed(before, replaced=True)

    def drain_and_undrain(self, _: random.Random) -> None:
        before = self.node.status()
        self._want("drain")
        self._want("undrain")
        self._healed(before, replaced=False)

    def kill_helper(self, dice: random.Random) -> None:
        """The log's or the journal's writer, or a collector of evidence."""
        before = self.node.status()
        pids = sorted(helpers(self.node))
        if pids:
            with suppress(ProcessLookupError):
                send(dice.choice(pids), signal.SIGKILL)
        self._healed(before, replaced=False)

    def blink_nanny(self, dice: random.Random) -> None:
        before = self.node.status()
        self.node.send(signal.SIGSTOP)
        time.sleep(dice.uniform(0.05, 0.4))
        self.node.send(signal.SIGCONT)
        self._healed(before, replaced=False)

    def flood(self, dice: random.Random) -> None:
        """Garbage into every socket that the node has."""
        before = self.node.status()
        garbage = dice.randbytes(600)
        for name in os.listdir(self.node.runtime_dir):
            if name.endswith(".sock"):
                kind = socket.SOCK_DGRAM if name.startswith("notify") else socket.SOCK_STREAM
                for _ in range(20):
                    with socket.socket(socket.AF_UNIX, kind) as door, suppress(OSError):
                        door.setblocking(False)
                        door.connect(str(self.node.runtime_dir / name))
                        door.send(garbage)
        self._healed(before, replaced=False)

    def kill_link(self, dice: random.Random) -> None:
        before = self.node.status()
        with suppress(ProcessLookupError):
            send(before["link"]["pid"], dice.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM]))
        self._healed(before, replaced=False, other_link=True)

    def kill_nanny(self, _: random.Random) -> None:
        before = self.node.status()
        self.node.again(BEATS, *self.flags, **SETTINGS)
        self._healed(before, replaced=False)

    def kill_both(self, _: random.Random) -> None:
        before = self.node.status()
        self.node.kill()
        with suppress(ProcessLookupError):
            send(before["worker"]["pid"], signal.SIGKILL)
        self.node.start(BEATS, *self.node.flags(**SETTINGS), *self.flags)
        self._healed(before, replaced=True)

    def reexec(self, _: random.Random) -> None:
        before = self.node.status()
        self.node.ask("reexec")
        times = before["nanny"]["reexecuted"]
        self.node.wait_for(lambda status: status["nanny"]["reexecuted"] > times, "the new image")
        self._healed(before, replaced=False)

    def _want(self, kind: str) -> None:
        """Order it; refused while a killed writer of the journal is being replaced, it is ordered again."""
        wait_until(lambda: self.node.order(kind)["outcome"] != "rejected", PATIENCE_S, f"{kind} to be taken")

    def _healed(self, before: dict[str, Any], *, replaced: bool | None, other_link: bool = False) -> None:
        """Wait until it runs; `replaced` tells whether by a later worker, None: either."""

        def holds(status: dict[str, Any]) -> bool:
            if status["phase"] != "running" or status["journal_degraded"]:
                return False
            if self.has_link and status["link"]["stage"] != "ready":
                return False
            if other_link and status["link"]["pid"] == before["link"]["pid"]:
                return False
            return replaced is not True or status["incarnation"] != before["incarnation"]

        after = self.node.wait_for(holds, "the node to heal")
        if before["incarnation"] is None:
            return
        was, now = Incarnation.parse(before["incarnation"]), Incarnation.parse(after["incarnation"])
        if now < was:
            raise Lost(f"{now} came after {was}")
        if replaced is False and now != was:
            raise Lost(f"the worker was replaced for no reason: {after['last_restart']}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault, and how often it comes."""

    name: str
    weight: int
    do: Callable[[SoakNode, random.Random], None]
    ends_the_watched: bool = False
    needs_link: bool = False


KINDS = (
    Kind("worker dies", 8, SoakNode.kill_worker),
    Kind("worker stopped", 2, SoakNode.stop_worker),
    Kind("worker stopped for a moment", 4, SoakNode.blink_worker),
    Kind("restart ordered", 4, SoakNode.order_restart),
    Kind("restart ordered as it dies", 4, SoakNode.order_and_kill),
    Kind("stopped and started", 2, SoakNode.stop_and_start),
    Kind("drained and undrained", 3, SoakNode.drain_and_undrain),
    Kind("helper killed", 4, SoakNode.kill_helper),
    Kind("nanny stopped for a moment", 3, SoakNode.blink_nanny),
    Kind("garbage in every socket", 4, SoakNode.flood),
    Kind("link ended or stopped", 2, SoakNode.kill_link, ends_the_watched=True, needs_link=True),
    Kind("nanny killed", 4, SoakNode.kill_nanny, ends_the_watched=True),
    Kind("nanny and worker killed", 3, SoakNode.kill_both, ends_the_watched=True),
    Kind("nanny executed anew", 3, SoakNode.reexec, ends_the_watched=True),
)
