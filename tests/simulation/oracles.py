"""What must be true of the world, which nobody inside it can check: looked at after every event.

No two workers own a node; no number is lived twice and each life is later than the one before; an order acts once and
ends once, and the server's word for its end is the nanny's; no node stays dark beyond its bound, nor is it busy without
end at one time. The five rules on single steps are `nanny.core.invariants`, checked with each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.core import actions as a
from nanny.core.records import Desired, DesiredSet
from nanny.core.state import Reason
from server_stub.core.command_lifecycle import is_finished
from server_stub.core.node_facts import Word
from tests.simulation import bounds

if TYPE_CHECKING:
    from nanny.core.records import Record
    from nanny.protocol.incarnation import Incarnation
    from tests.simulation.machine import Machine
    from tests.simulation.server import Row

STIRS_A_SECOND: Final = 10_000
"""Steps and events of one node: the busiest second of sound runs has about 220."""
STOPPED_OR_STARTED = frozenset({"stop", "start"})


class Violation(BaseException):
    """A rule is broken: the run ends here. Not an Exception, so that no code under test can swallow it.

    Attributes:
        node: name of the node where it showed.
        rule: what was broken, with the particulars.
    """

    def __init__(self, node: str, rule: str) -> None:
        super().__init__(f"{node}: {rule}")
        self.node = node
        self.rule = rule


class Oracles:
    """What was seen of one node, held against the rules.

    Attributes:
        checks: how often something was held against a rule.
        lives: workers that were released.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self.checks = 0
        self.lives = 0
        self.last_lived: Incarnation | None = None
        self.told: dict[str, str] = {}
        """The outcome of each order, as it was told to whoever gave it."""
        self.acted: dict[str, Incarnation] = {}
        """The life that each restart order ended."""
        self.intents: list[str] = []
        """Orders that changed what is wanted, in the order of their effects."""
        self.excused: set[str] = set()
        """Orders whose end was told while no disk kept it, and then the power failed."""
        self._told_degraded: set[str] = set()
        self.dark_since: float | None = None
        self.longest_dark_s = 0.0
        self.dark_total_s = 0.0
        self._stirs = 0
        self._second = -1

    def _broken(self, rule: str) -> Violation:
        return Violation(self._node, rule)

    # Effects

    def effect(self, machine: Machine, action: a.Action) -> None:
        """An action is about to be carried out."""
        self.checks += 1
        match action:
            case a.ReleaseWorker(incarnation):
                self._may_live(machine, incarnation)
            case a.SignalWorker(incarnation, a.Signal.TERMINATE):
                self._may_end(machine, incarnation)
            case a.ReportOutcome(command_id, _, outcome):
                if machine.state is not None and machine.state.journal_degraded:
                    self._told_degraded.add(command_id)
                self._may_tell(command_id, outcome)
            case _:
                pass

    def _may_live(self, machine: Machine, incarnation: Incarnation) -> None:
        if all(one.incarnation != incarnation or not one.is_parked for one in machine.workers):
            return
        owners = [one.incarnation for one in machine.workers if not (one.is_parked or one.fenced or one.dead)]
        if owners:
            raise self._broken(f"two workers own the node: {incarnation} is released beside {owners[0]}")
        if self.last_lived is not None and incarnation <= self.last_lived:
            raise self._broken(f"incarnations do not grow: {incarnation} lives after {self.last_lived}")
        self.last_lived = incarnation
        self.lives += 1

    def _may_end(self, machine: Machine, incarnation: Incarnation) -> None:
        stopping = None if machine.state is None else machine.state.stopping
        if stopping is None or stopping.reason is not Reason.RESTART_ORDERED:
            return
        command_id = stopping.detail.rpartition(" ")[2]
        earlier = self.acted.setdefault(command_id, incarnation)
        if earlier != incarnation:
            raise self._broken(f"order {command_id} acts twice: it ended {earlier}, and now {incarnation}")

    def _may_tell(self, command_id: str, outcome: a.Outcome) -> None:
        earlier = self.told.setdefault(command_id, outcome)
        if earlier == outcome:
            return
        if command_id not in self.excused:
            raise self._broken(f"order {command_id} ends twice: {earlier}, and now {outcome}")
        self.told[command_id] = outcome

    def recorded(self, machine: Machine, records: tuple[Record, ...]) -> None:
        """A step has these records."""
        for record in records:
            if isinstance(record, DesiredSet):
                self._wanted(machine, record.reason.rpartition(" ")[2])

    def _wanted(self, machine: Machine, command_id: str) -> None:
        self.checks += 1
        if command_id in self.intents and command_id not in self.excused:
            raise self._broken(f"order {command_id} acts twice: it changes what is wanted once more")
        self.intents.append(command_id)

    def nanny_starts(self, machine: Machine) -> None:
        """What a nanny that died had decided and not made durable has never been."""
        state = machine.state
        assert state is not None
        latest = state.intent.reason.rpartition(" ")[2]
        while self.intents and self.intents[-1] != latest:
            self.intents.pop()

    def power_fails(self, undurable: set[str], lives: set[str]) -> None:
        """What no disk has is forgotten: orders only have to end somehow, and a life was never begun."""
        early = sorted(undurable & self.told.keys() - self._told_degraded)
        if early:
            raise self._broken(f"order {early[0]}: its end was told before the disk had it")
        self.excused |= undurable
        if str(self.last_lived) in lives:
            self.last_lived = None

    # The whole

    def stirs(self, now: float) -> None:
        """A step or an event of this node: there is an end of them, and then time goes on."""
        second = int(now)
        if second != self._second:
            self._second, self._stirs = second, 0
        self._stirs += 1
        if self._stirs > STIRS_A_SECOND:
            raise self._broken(f"a live lock: more than {STIRS_A_SECOND} steps and events within a second")

    def server_heard(self, command_id: str, outcome: str, before: str) -> None:
        """The server is told an end, and another one is stored with it already."""
        self.checks += 1
        if command_id not in self.excused:
            raise self._broken(
                f"order {command_id} has two outcomes at the server: {before}, and now {outcome}"
            )

    def look(self, machine: Machine) -> None:
        """After an event of this node."""
        self.checks += 1
        self.stirs(machine.world.now)
        owners = [one for one in machine.workers if not (one.is_parked or one.fenced or one.dead)]
        if len(owners) > 1:
            raise self._broken(
                f"two workers own the node: {', '.join(str(one.incarnation) for one in owners)}"
            )
        now = machine.world.now
        if machine.is_dark:
            if self.dark_since is None:
                self.dark_since = now
        elif self.dark_since is not None:
            self.brighten(now)

    def brighten(self, now: float) -> None:
        """A dark time is over."""
        if self.dark_since is not None:
            lasted_s = now - self.dark_since
            self.longest_dark_s = max(self.longest_dark_s, lasted_s)
            self.dark_total_s += lasted_s
            self.dark_since = None

    def must_serve(self, machine: Machine, failures: int) -> None:
        """The bound is over, and nothing has gone wrong meanwhile."""
        self.checks += 1
        if not machine.is_wanted_up or machine.is_serving:
            return
        bound_s = bounds.dark_s(machine.config, failures)
        what = "no nanny" if machine.state is None else f"phase {machine.state.phase}"
        raise self._broken(
            f"dark beyond its bound: nothing was wrong for {bound_s:.1f} s, {failures} failures then; {what}"
        )

    def must_rest(self, machine: Machine) -> None:
        """Long after the last trouble: nothing is owed to anybody."""
        self.checks += 1
        state = machine.state
        if state is None:
            raise self._broken("no nanny lives, though nothing keeps it from starting")
        if state.ledger.pending:
            waiting = ", ".join(f"{one.command.kind} {one.command.id}" for one in state.ledger.pending)
            raise self._broken(f"orders that never end: {waiting}")
        down = state.intent.desired is Desired.DOWN
        if down and any(not (one.fenced or one.dead) for one in machine.workers):
            raise self._broken("a worker lives though the node is wanted down")

    def must_be_told(self, machine: Machine, row: Row) -> None:
        """And the server knows all of it: the node's word, and the end of each order."""
        self.checks += 1
        state = machine.state
        assert state is not None
        for command in row.commands.values():
            if not is_finished(command.state):
                raise self._broken(
                    f"order {command.kind} {command.id} is still {command.state} at the server"
                )
            told = self.told.get(command.id)
            if told is not None and told != command.state and command.id not in self.excused:
                raise self._broken(
                    f"order {command.id} is {command.state} at the server, its nanny said {told}"
                )
        wanted = Word.READY
        if state.intent.desired is Desired.DOWN:
            wanted = Word.NOT_READY
        elif state.draining:
            wanted = Word.DRAINING
        elif state.conditions:
            wanted = Word.DEGRADED
        if row.stored.word is not wanted:
            what = f"{row.stored.word} ({row.stored.reason}: {row.stored.detail})"
            raise self._broken(f"the server says {what} of a node that should be {wanted}")
        row.commands.clear()
