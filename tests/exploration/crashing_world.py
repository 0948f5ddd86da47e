"""A shell in memory around the core: journal, /run, processes, and all the ways in which each of them may end.

Keeps the shell's contract (records first, then actions in order, results as events), so that a crash of the nanny, of
the disk or of the machine can be put between any two of its steps. Who lives is found by the shell's own
``adoption``; only the question whether a process lives is answered from memory.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from unittest import mock

from nanny import adoption
from nanny.core import actions as a
from nanny.core import events as e
from nanny.core import invariants, startup
from nanny.core.policy import next_deadline, step
from nanny.core.records import (
    CommandFinished,
    IncarnationEnded,
    IncarnationStarted,
    Record,
    from_json,
    to_json,
)
from nanny.core.state import NannyState, Phase

if TYPE_CHECKING:
    from nanny.core.config import PolicyConfig
    from nanny.protocol.incarnation import Incarnation


ROUNDS_TO_REST = 200


@dataclass(slots=True)
class Process:
    """One life as the kernel has it."""

    incarnation: Incarnation
    pid: int
    parked: bool = True
    unkillable: bool = False
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the journal."""

    record: Record
    at: float
    boot: int


@dataclass(slots=True)
class World:
    """Everything outside the core, and the rules that nobody inside can check."""

    config: PolicyConfig
    now: float = 0.0
    boot: int = 0
    epochs: int = 0
    pids: int = 100
    state: NannyState = field(init=False)
    journal: list[Line] = field(default_factory=list)
    """What a crash of the machine leaves."""
    unsynced: list[Line] = field(default_factory=list)
    facts: list[Line] = field(default_factory=list)
    """The copy in /run: outlives the nanny, not the machine."""
    taken: int = 0
    """Lines that were handed to the journal by this nanny."""
    durable: int = 0
    disk_hangs: bool = False
    inbox: deque[e.Event] = field(default_factory=deque)
    held: deque[tuple[int, tuple[a.Action, ...]]] = field(default_factory=deque)
    processes: list[Process] = field(default_factory=list)
    evidence: list[e.EvidenceCollected] = field(default_factory=list)
    reloads: list[str] = field(default_factory=list)
    released: set[Incarnation] = field(default_factory=set)
    outcomes: dict[str, str] = field(default_factory=dict)
    """What was told to those who ordered."""
    is_gone: bool = False
    crashes: int = 0

    def __post_init__(self) -> None:
        self.start()

    # The nanny's life

    def mint(self) -> str:
        """A new epoch, later than all before."""
        self.epochs += 1
        return f"epoch-{self.epochs:04}"

    def start(self) -> None:
        """A nanny begins with what is left; the journal is readable when the disk answers, else only /run is."""
        self.inbox.clear()
        self.held.clear()
        self.is_gone = False
        self.taken = self.durable = 0
        lines = self.facts if self.disk_hangs else self.journal
        records = [(line.record, line.at if line.boot == self.boot else None) for line in lines]
        living, unjournaled = self.find(records)
        for one in living:
            self._process(one.incarnation).fenced |= one.fenced
        recovered = startup.recover(records, living, self.now, (self.mint(), self.mint()), self.config)
        self.state = recovered.state
        failures = recovered.state.worker.failures
        dead = [IncarnationEnded(one, "unseen", "", failures) for one in recovered.dead_unrecorded]
        self._append([*unjournaled, *dead])
        self.tell(e.NannyStarted())
        if self.disk_hangs:
            self.tell(e.JournalDegraded("no answer"))

    def find(self, records: list[adoption.Dated]) -> tuple[tuple[startup.Living, ...], list[Record]]:
        """Who lives according to the shell; ``records`` gains what only /run knows, also given for the journal."""
        alive = {one.pid for one in self.processes if not one.parked}

        def same_process(pid: int, _ticks: int) -> int | None:
            return os.open(os.devnull, os.O_RDONLY) if pid in alive else None

        unjournaled: list[Record] = []
        with mock.patch.object(adoption, "_same_process", same_process):
            if not self.disk_hangs:
                remembered: list[adoption.Dated] = [(line.record, line.at) for line in self.facts]
                adoption.add_unknown_living(records, remembered)
                unjournaled = adoption.add_unknown_orders(records, remembered)
            found = adoption.find_living(records)
        for one in found:
            os.close(one.pidfd)
        assert {one.started.pid for one in found} == alive, "a worker was lost from sight"
        living = [
            startup.Living(one.started.incarnation, one.started.pid, one.was_ready, one.fenced)
            for one in found
        ]
        return tuple(living), unjournaled

    def crash(self, surviving: int) -> None:
        """The nanny dies; so many of the lines that it had handed over still reach the disk."""
        self.crashes += 1
        self.processes = [one for one in self.processes if not one.parked]
        self.journal += self.unsynced[:surviving]
        self.unsynced.clear()
        self.evidence.clear()
        self.reloads.clear()
        self.start()

    def reboot(self, surviving: int) -> None:
        """The machine dies: no process, no /run; what was reported and not durable is forgotten."""
        self.journal += self.unsynced[:surviving]
        self.unsynced.clear()
        kept = {line.record.command_id for line in self.journal if isinstance(line.record, CommandFinished)}
        self.outcomes = {one: told for one, told in self.outcomes.items() if one in kept}
        self.processes.clear()
        self.facts.clear()
        self.boot += 1
        self.now = 0.0
        self.disk_hangs = False
        self.crash(0)

    # The shell's contract

    def tell(self, event: e.Event) -> None:
        """Something happened; afterwards everything that may run has run."""
        self.inbox.append(event)
        while not self.is_gone and (self.inbox or self._may_run()):
            if self.inbox:
                self._step(self.inbox.popleft())
            else:
                for action in self.held.popleft()[1]:
                    self._run(action)

    def _step(self, event: e.Event) -> None:
        before = self.state
        result = step(before, event, self.now, self.config)
        problems = invariants.violations(before, event, result, self.now, self.config)
        assert not problems, (problems, event, before)
        self.state = result.state
        self._append(result.records)
        if result.actions:
            self.held.append((self.taken, result.actions))
        if result.records:
            self._remember()

    def _append(self, records: tuple[Record, ...] | list[Record]) -> None:
        self.unsynced += [Line(_record(to_json(record)), self.now, self.boot) for record in records]
        self.taken += len(records)
        if not self.disk_hangs:
            self._sync()

    def _sync(self) -> None:
        self.journal += self.unsynced
        self.unsynced.clear()
        self.durable = self.taken

    def _may_run(self) -> bool:
        return bool(self.held) and (self.held[0][0] <= self.durable or self.state.journal_degraded)

    def _living(self) -> tuple[IncarnationStarted, ...]:
        return tuple(
            IncarnationStarted(one.incarnation, one.pid, 1)
            for one in self.processes
            if not one.parked or one.pid == self.state.worker.pid
        )

    def _remember(self) -> None:
        self.facts = [Line(one, self.now, self.boot) for one in startup.compact(self.state, self._living())]

    def compact(self) -> None:
        """The journal is replaced by the few records of the present state."""
        self.journal = [Line(one, self.now, self.boot) for one in startup.compact(self.state, self._living())]

    # The disk

    def degrade(self) -> None:
        """The journal's time-out passed."""
        if self.disk_hangs and not self.state.journal_degraded:
            self.inbox.appendleft(e.JournalDegraded("no answer"))
            self.tell(e.TimePassed())

    def heal(self) -> None:
        """The disk answers, and gets what it missed."""
        self.disk_hangs = False
        self._sync()
        if self.state.journal_degraded:
            self.inbox.appendleft(e.JournalRecovered(self.mint()))
        self.tell(e.TimePassed())

    # Effects

    def _run(self, action: a.Action) -> None:
        match action:
            case a.SpawnWorker(incarnation):
                self.pids += 1
                self.processes.append(Process(incarnation, self.pids))
                self.inbox.append(e.WorkerParked(incarnation, self.pids, 1))
            case a.ReleaseWorker(incarnation):
                self._release(incarnation)
            case a.AbandonWorker(incarnation):
                for process in self._of(incarnation):
                    if process.parked:
                        self._dies(process, "exit code 0")
            case a.SignalWorker(incarnation, a.Signal.KILL):
                for process in self._of(incarnation):
                    if not process.unkillable:
                        self._dies(process, "SIGKILL")
            case a.FenceWorker(incarnation):
                for process in self._of(incarnation):
                    process.fenced = True
            case a.ExamineWorker(incarnation):
                self.inbox.append(e.WorkerExamined(incarnation, "S"))
            case a.CollectEvidence(incarnation, _, _, command_id):
                self.evidence.append(e.EvidenceCollected(incarnation, "bundle", "", command_id))
            case a.ReloadConfig(command_id):
                self.reloads.append(command_id)
            case a.ConfirmNumbers(epoch, until):
                if not self.state.journal_degraded:
                    self.inbox.append(e.NumbersConfirmed(epoch, until))
            case a.ReportOutcome(command_id, _, outcome):
                assert self.outcomes.setdefault(command_id, outcome) == outcome, f"{command_id} ended twice"
            case a.ExitNanny():
                self.is_gone = True
            case _:
                pass

    def _release(self, incarnation: Incarnation) -> None:
        for process in self._of(incarnation):
            if not process.parked:
                continue
            assert incarnation not in self.released, f"{incarnation} lived twice"
            owners = [one for one in self.processes if not one.parked and not one.fenced]
            assert not owners, f"{incarnation} is released beside {owners}"
            self.released.add(incarnation)
            process.parked = False

    def _dies(self, process: Process, status: str) -> None:
        self.processes.remove(process)
        self.inbox.append(e.WorkerExited(process.incarnation, status))

    def _of(self, incarnation: Incarnation) -> list[Process]:
        return [one for one in self.processes if one.incarnation == incarnation]

    def _process(self, incarnation: Incarnation) -> Process:
        return self._of(incarnation)[0]

    def dies(self, process: Process, status: str) -> None:
        """A process ends by itself, or by somebody else's hand."""
        self._dies(process, status)
        self.tell(e.TimePassed())

    @property
    def owner(self) -> Process | None:
        """The process of the present life, while it runs the program and is not fenced."""
        found = [] if self.state.incarnation is None else self._of(self.state.incarnation)
        return next((one for one in found if not (one.parked or one.fenced)), None)

    # Time

    def come_to_rest(self) -> None:
        """Everybody does what is asked of him, until nothing is left to do or too much was done."""
        for one in self.processes:
            one.unkillable = False
        for _ in range(ROUNDS_TO_REST):
            state, owner = self.state, self.owner
            if self.evidence:
                self.tell(self.evidence.pop(0))
            elif self.reloads:
                self.tell(e.ConfigReloaded((), (), self.reloads.pop(0)))
            elif owner is not None and (state.stopping is not None or state.vitals.leaving):
                self.dies(owner, "SIGTERM")
            elif owner is not None and state.phase is not Phase.RUNNING and not state.vitals.triggered:
                self.tell(e.HeartbeatReceived(owner.incarnation, ready=True))
            elif state.phase in {Phase.RUNNING, Phase.DOWN} and not state.ledger.pending:
                return
            else:
                self.wait(400.0)

    def wait(self, longest_s: float) -> None:
        """Time goes on to the next deadline, or not that far."""
        deadline = next_deadline(self.state, self.config)
        self.now += longest_s if deadline is None else min(longest_s, max(deadline - self.now, 0.0))
        self.tell(e.TimePassed())


def _record(plain: dict[str, object]) -> Record:
    record = from_json(plain)
    assert record is not None
    return record


def essence(state: NannyState) -> dict[str, object]:
    """What of a state has to outlive the nanny; text and times aside."""
    return {
        "intent": replace(state.intent, since=None),
        "draining": state.draining,
        "hold": state.hold,
        "incarnation": state.incarnation,
        "fenced": sorted(state.fenced),
        "failures": state.worker.failures,
        "pending": {one.command.id: one.command.target for one in state.ledger.pending},
        "finished": state.ledger.finished,
    }
