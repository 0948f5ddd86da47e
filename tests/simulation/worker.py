"""One process of the agent as the kernel and its vitals thread have it: born, ready, beating, in trouble, dying.

Everything that may be wrong with it is an instant until when, so that its beat at any moment can be told without the
beats before. Decides nothing about what becomes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.core import events as e
from nanny.core.actions import Signal

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation
    from tests.simulation.machine import Machine

BEAT_S: Final = 2.0
EXEC_S: Final = 0.05
START_S: Final = 0.6
END_S: Final = 0.2
"""From SIGTERM to the exit of a worker that is well."""
NEVER: Final = 1e12


class Worker:
    """One life; instants are the machine's monotonic seconds."""

    __slots__ = (
        "dead",
        "fenced",
        "ignores_term",
        "incarnation",
        "is_parked",
        "is_ready",
        "kill_pending",
        "last_beat_at",
        "leaving",
        "letter",
        "long_work_until",
        "machine",
        "overdue_until",
        "pid",
        "released_at",
        "silent_until",
        "stalled_at",
        "stalled_until",
        "starved_until",
        "stream",
        "stuck_until",
        "ticks",
        "traced_until",
        "triggers",
        "unkillable_until",
    )

    def __init__(self, machine: Machine, incarnation: Incarnation, pid: int, ticks: int) -> None:
        self.machine = machine
        self.incarnation = incarnation
        self.pid = pid
        self.ticks = ticks
        self.is_parked = True
        self.is_ready = self.fenced = self.dead = False
        self.ignores_term = self.leaving = self.triggers = self.kill_pending = False
        self.released_at = self.last_beat_at = self.stalled_at = 0.0
        self.stalled_until = self.silent_until = self.unkillable_until = self.stuck_until = 0.0
        self.traced_until = self.starved_until = self.overdue_until = self.long_work_until = 0.0
        self.letter = "S"
        self.stream = 0
        """Grows when the rhythm of the beats begins anew."""

    # How it is

    def is_silent(self, now: float) -> bool:
        """Whether no beat can come of it."""
        return now < self.silent_until or now < self.unkillable_until

    def is_serving(self, now: float) -> bool:
        """Whether it does its work: what nobody but the world can know."""
        if self.is_parked or not self.is_ready or self.dead or self.leaving or self.is_silent(now):
            return False
        return not (self.stalled_at <= now < self.stalled_until or now < self.overdue_until)

    def is_steady(self, now: float) -> bool:
        """Whether its next beat will be like this one, whenever it comes."""
        until = max(
            self.silent_until,
            self.unkillable_until,
            self.stalled_until,
            self.overdue_until,
            self.stuck_until,
            self.long_work_until,
        )
        return self.is_ready and until <= now and not (self.leaving or self.triggers or self.kill_pending)

    def beat(self, now: float) -> e.HeartbeatReceived:
        """What its vitals thread says at this moment."""
        is_stalled = self.stalled_at <= now < self.stalled_until
        trigger, self.triggers = self.triggers, False
        return e.HeartbeatReceived(
            self.incarnation,
            ready=self.is_ready,
            stopping=self.leaving,
            trigger=trigger,
            loop_lag_s=now - self.stalled_at if is_stalled else 0.0,
            overdue=("reconcile",) if now < self.overdue_until else (),
            expected_s=max(self.long_work_until - now, 0.0),
            stuck_probes=1 if now < self.stuck_until else 0,
        )

    def examined(self, silence_s: float, now: float) -> e.WorkerExamined:
        """What the kernel says of it."""
        letter = "D" if now < self.unkillable_until else self.letter if now < self.silent_until else "S"
        waited_s = silence_s if now < self.starved_until else 0.0
        return e.WorkerExamined(self.incarnation, letter, now < self.traced_until, waited_s)

    # Its life

    def release(self) -> None:
        """The gate opens; what becomes of this start the machine's troubles say."""
        machine = self.machine
        self.is_parked = False
        self.released_at = now = machine.mono
        if now < machine.execs_fail_until:
            machine.after(EXEC_S, self._fails_to_exec)
            return
        if now < machine.starts_die_until:
            machine.after(EXEC_S + START_S / 2, self.die, "exit code 1")
            return
        slow_s = machine.slow_by_s if now < machine.slow_until else 0.0
        machine.after(EXEC_S, self._first_beat)
        machine.after(EXEC_S + START_S + slow_s, self._gets_ready)

    def _fails_to_exec(self) -> None:
        if not self.dead:
            machine = self.machine
            machine.tell_nanny(e.SpawnFailed(self.incarnation, "no such file"), of=machine.nanny_life)
            self.die("exit code 127")

    def _first_beat(self) -> None:
        self.machine.beats.begin(self)

    def _gets_ready(self) -> None:
        if self.dead:
            return
        if self.is_silent(self.machine.mono):
            self.machine.after(1.0, self._gets_ready)
            return
        self.is_ready = True
        self.machine.beats.begin(self)
        self.machine.worker_is_ready(self)
        if self.machine.mono < self.machine.ready_ones_die_until:
            self.machine.after(0.05, self.die, "SIGSEGV")

    def take_signal(self, signal: Signal) -> None:
        """What the kernel, or its own doing, makes of a signal."""
        now, machine = self.machine.mono, self.machine
        is_well = self.is_serving(now) and not self.ignores_term
        if signal is Signal.KILL:
            if now < self.unkillable_until:
                if not self.kill_pending:
                    self.kill_pending = True
                    machine.at_mono(self.unkillable_until, self.die, "SIGKILL")
            else:
                machine.after(0.005, self.die, "SIGKILL")
        elif signal is Signal.ABORT:
            if not self.is_silent(now):
                machine.after(0.005, self.die, "SIGABRT")
        elif is_well and not self.is_parked:
            self.leaving = True
            self.machine.beats.begin(self)
            machine.after(END_S, self.die, "exit code 0")

    def die(self, status: str) -> None:
        """The end: whoever holds its pidfd is told."""
        if self.dead or (self.machine.mono < self.unkillable_until and not self.is_parked):
            return
        self.dead = True
        self.machine.worker_died(self, status)
