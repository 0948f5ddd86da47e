"""One node: its clocks, its processes, its disk, and whatever keeps them from working.

The kernel's part of the simulation. Monotonic time stands still in suspend and begins anew at a boot; what is arranged
for a machine is arranged on its monotonic clock, and comes later if the machine was away or starved meanwhile. The
actions of the nanny's shell end here. Decides nothing that the product decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from nanny.core import actions as a
from nanny.core import events as e
from nanny.core.child import Child, Stage
from nanny.core.policy import next_deadline
from nanny.core.records import Desired
from nanny.main import LATE_AFTER_S
from tests.simulation.beats import Beats
from tests.simulation.disk import JOURNAL_TIMEOUT_S, Disk
from tests.simulation.oracles import Oracles
from tests.simulation.shell import PIDS_A_MACHINE, Killed, NannyLife

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.core.config import PolicyConfig
    from nanny.core.state import NannyState
    from nanny.protocol.incarnation import Incarnation
    from tests.simulation.clockwork import Clockwork
    from tests.simulation.link import LinkProgram
    from tests.simulation.local_operator import Operator
    from tests.simulation.server import Server
    from tests.simulation.worker import Worker

_EPSILON_S: Final = 1e-9
_RESTART_S: Final = 0.3
"""RestartSec of the unit, and the start of an interpreter."""
_QUEUED_BEATS: Final = 11
"""Datagrams that a socket holds by default (net.unix.max_dgram_qlen): the oldest stay."""
_SYSTEMD_WATCHDOG_S: Final = 30.0


class Machine:
    """A node.

    Attributes:
        state: the nanny's, None while none lives.
        facts: what the nanny left in /run.
    """

    def __init__(
        self, world: Clockwork, number: int, config: PolicyConfig, server: Server, *, folding: bool = True
    ) -> None:
        self.world = world
        self.number = number
        self.name = f"node-{number}"
        self.config = replace(config, node_id=self.name)
        self.server = server
        self.oracles = Oracles(self.name)
        self.disk = Disk()
        self.beats = Beats(self, folding=folding)
        self.pid_base = (number + 1) * PIDS_A_MACHINE
        self.boot = 0
        self.workers: list[Worker] = []
        self.link: LinkProgram | None = None
        self.nanny_life: NannyLife | None = None
        self.facts: dict[str, Any] | None = None
        self.is_stopped = False
        self.restart_after_s = _RESTART_S
        self.restarts = 0
        self.local_orders = 0
        self.crashes = 0
        self.wants_up = True
        self._mono0 = 0.0
        self._booted_at = 0.0
        self._frozen_until = self._frozen_mono = 0.0
        self._reached = 0.0
        self._held_until = 0.0
        self._minted = self.pids = 0
        self._lost_lines: list[dict[str, Any]] = []
        self._armed_at: float | None = None
        self._is_stepping = False
        self._backlog: list[e.Event] = []
        self._requests: list[tuple[LinkProgram | Operator, dict[str, Any]]] = []
        self._effects_left: int | None = None
        self._killed_with: dict[str, Any] = {}
        self.spawns_fail_until = self.spawns_late_until = self.late_by_s = self.execs_fail_until = 0.0
        self.starts_die_until = self.slow_until = self.slow_by_s = self.ready_ones_die_until = 0.0
        self.evidence_hangs_until = self.settings_hang_until = self.links_fail_until = 0.0
        self.settings_are_refused = False

    # Time

    @property
    def mono(self) -> float:
        """CLOCK_MONOTONIC."""
        if self.world.now < self._frozen_until - _EPSILON_S:
            return self._frozen_mono
        return max(self.world.now - self._mono0, self._reached)

    @property
    def boottime(self) -> float:
        """CLOCK_BOOTTIME: goes on in suspend."""
        return self.world.now - self._booted_at

    @property
    def boot_id(self) -> str:
        """Of the present boot."""
        return f"boot-{self.number}-{self.boot}"

    @property
    def is_awake(self) -> bool:
        """Whether its processes can run now."""
        return self.world.now >= max(self._frozen_until, self._held_until) - _EPSILON_S

    def at_mono(self, mono: float, call: Callable[..., None], *given: Any) -> None:
        """Let something happen on this machine, unless it reboots before."""
        self.world.at(mono + self._mono0, self._arrive, mono, self.boot, call, given)

    def after(self, seconds: float, call: Callable[..., None], *given: Any) -> None:
        """Let something happen on this machine so much later."""
        self.at_mono(self.mono + seconds, call, *given)

    def _arrive(self, mono: float, boot: int, call: Callable[..., None], given: tuple[Any, ...]) -> None:
        now = self.world.now
        if boot != self.boot:
            return
        if mono + self._mono0 > now + _EPSILON_S:
            self.world.at(mono + self._mono0, self._arrive, mono, boot, call, given)
        elif not self.is_awake:
            # It was due before, and found no processor: in suspend it finds none either.
            wakes_at = max(self._frozen_until, self._held_until)
            self.world.at(wakes_at, self._arrive, mono, boot, call, given)
        else:
            # An instant that was asked for is reached, whatever a sum of clocks makes of its last digits.
            if self._reached < mono and self.world.now - self._mono0 > mono - _EPSILON_S:
                self._reached = mono
            call(*given)
            self.oracles.look(self)

    def mint(self) -> str:
        """A new epoch, later than all before."""
        self._minted += 1
        return f"{self.name}.{self._minted:06}"

    def disturb(self) -> None:
        """Something is about to befall this machine: from here on nothing of it is steady."""
        self.beats.unfold()
        self.rearm()
        if self.link is not None and self.link.connection is not None:
            self.link.connection.wake()

    # What is so

    @property
    def state(self) -> NannyState | None:
        """The nanny's mind."""
        return None if self.nanny_life is None else self.nanny_life.supervisor.state

    @property
    def owner(self) -> Worker | None:
        """The worker that runs the program and is not fenced."""
        return next((one for one in self.workers if not (one.is_parked or one.fenced or one.dead)), None)

    @property
    def is_serving(self) -> bool:
        """Whether a worker does its work."""
        owner = self.owner
        return owner is not None and self.is_awake and owner.is_serving(self.mono)

    @property
    def is_wanted_up(self) -> bool:
        """What the nanny wants, or the last one did."""
        return self.wants_up

    @property
    def is_dark(self) -> bool:
        """Whether nobody does the work although it is wanted."""
        return self.wants_up and not self.is_serving

    @property
    def is_at_rest(self) -> bool:
        """Whether the nanny has nothing left to do now."""
        life = self.nanny_life
        return life is not None and not self.is_stopped and life.supervisor.is_idle

    def is_alive(self, pid: int, ticks: int) -> bool:
        """Whether a process is still that one."""
        return any(one.pid == pid and one.ticks == ticks and not one.is_parked for one in self.workers)

    # The nanny is told

    def tell_nanny(self, event: e.Event, of: NannyLife | None = None) -> None:
        """Something happened; `of` names the one life that could hear of it."""
        life = self.nanny_life
        if life is None or (of is not None and of is not life):
            return
        if self.is_stopped:
            self._backlog.append(event)
            return
        if not self._is_stepping:
            self.beats.unfold()
        self._step(event)

    def hear(self, event: e.Event) -> None:
        """A datagram reaches the nanny's socket."""
        if self.nanny_life is None:
            return
        if self.is_stopped:
            if (
                sum(isinstance(one, e.HeartbeatReceived | e.LinkBeat) for one in self._backlog)
                < _QUEUED_BEATS
            ):
                self._backlog.append(event)
            return
        self._step(event)

    def hear_at(self, at: float, event: e.Event) -> None:
        """A datagram that came at an earlier instant, with nothing else since."""
        if self.nanny_life is not None and not self.is_stopped:
            self._step(event, at)

    def request(self, client: LinkProgram | Operator, plain: dict[str, Any]) -> None:
        """Somebody asks on the control socket; a stopped nanny finds it there later."""
        life = self.nanny_life
        if life is None:
            return
        if self.is_stopped:
            self._requests.append((client, plain))
            return
        self.beats.unfold()
        self._within(life, life.control.request, client, plain)

    def _step(self, event: e.Event, at: float | None = None) -> None:
        life = self.nanny_life
        assert life is not None
        if self._is_stepping:
            life.supervisor.tell(event)
        else:
            self._within(life, life.supervisor.tell, event, at=at)

    def _within(
        self, life: NannyLife, call: Callable[..., None], *given: Any, at: float | None = None
    ) -> None:
        """The nanny's process runs, until it has nothing left to do now, or is killed at one of its effects."""
        self._is_stepping = True
        life.loop.now = max(life.loop.now, self.mono if at is None else at)
        try:
            call(*given)
        except Killed:
            self._is_stepping = False
            self.kill_nanny(**self._killed_with)
            return
        finally:
            self._is_stepping = False
        self._settled(life)

    def _settled(self, life: NannyLife) -> None:
        state = life.supervisor.state
        self.wants_up = state.intent.desired is Desired.UP
        if life.is_ending:
            self._nanny_exits(life)
            return
        if life.durability.wants_fresh_start and self._may_start_afresh(life):
            self.after(0.01, self._executes_anew, life)
        self.rearm()

    def _may_start_afresh(self, life: NannyLife) -> bool:
        sup = life.supervisor
        return sup.state.worker.stage is not Stage.SPAWNING and sup.is_idle and life.durability.is_settled

    def _executes_anew(self, life: NannyLife) -> None:
        if self.nanny_life is life and not self.is_stopped and self._may_start_afresh(life):
            self.kill_nanny(surviving=0, down_s=0.05, worker_dies=False)

    def rearm(self) -> None:
        """One timer, at the core's next deadline; what folded beats keep moving is none."""
        life, deadline = self.nanny_life, self._deadline()
        if life is None or deadline is None or (self._armed_at is not None and self._armed_at <= deadline):
            return
        self._armed_at = deadline
        self.at_mono(deadline, self._timer, life, deadline)

    def _deadline(self) -> float | None:
        life = self.nanny_life
        if life is None:
            return None
        state = life.supervisor.state
        if self.beats.folded:
            moved = {}
            if self.beats.is_folded(self.owner):
                moved["worker"] = _without_deadline(state.worker)
            if self.beats.is_folded(self.link):
                moved["link"] = _without_deadline(state.link)
            state = state.changed(moved)
        return next_deadline(state, self.config)

    def _timer(self, life: NannyLife, armed_at: float) -> None:
        if self._armed_at == armed_at:
            self._armed_at = None
        if self.nanny_life is not life or self.is_stopped:
            return
        deadline = self._deadline()
        if deadline is None or deadline > self.mono + _EPSILON_S:
            self.rearm()
            return
        late_s = self.mono - deadline
        if late_s > LATE_AFTER_S:
            self.tell_nanny(e.NannyWasLate(late_s))
            self.at_mono(self.mono, self._time_passes, life)  # after all that has come meanwhile
        else:
            self._time_passes(life)

    def _time_passes(self, life: NannyLife) -> None:
        if self.nanny_life is not life or self.is_stopped:
            return
        self.tell_nanny(e.TimePassed())

    def journal_changed(self) -> None:
        """The journal became degraded, or durable, or durable again."""
        life = self.nanny_life
        if life is None or self._is_stepping:
            return
        if not self.is_awake or self.is_stopped:
            self.after(0.01 if self.is_awake else 0.0, self.journal_changed)
            return
        self.beats.unfold()
        self._within(life, life.durability.on_change)

    # The nanny's life

    def start_nanny(self) -> None:
        """Systemd starts it; with a silent disk it waits for as long as the journal may take to open."""
        if self.nanny_life is not None:
            return
        if self.world.now < self.disk.silent_until:
            self.after(JOURNAL_TIMEOUT_S, self._start_nanny)
        else:
            self._start_nanny()

    def _start_nanny(self) -> None:
        if self.nanny_life is not None:
            return
        self.restarts += 1
        if self.link is not None:
            self.link.die("SIGKILL")
        self.beats.unfold()
        self._armed_at = None
        life = NannyLife(self)
        self.nanny_life = life
        self.oracles.nanny_starts(self)
        self.server.patience.troubled(self, self.world.now)
        self._within(life, life.begin)

    def adopt(self, incarnation: Incarnation, *, fenced: bool) -> None:
        """A worker of an earlier nanny is taken over; one that is nobody's is killed."""
        for worker in self.workers:
            if fenced and worker.incarnation == incarnation:
                worker.fenced = True
                worker.take_signal(a.Signal.KILL)

    def arm_crash(self, effects: int, surviving: int, down_s: float, worker_dies: bool) -> None:
        """The nanny dies at one of its next effects."""
        self._effects_left = effects
        self._killed_with = {"surviving": surviving, "down_s": down_s, "worker_dies": worker_dies}

    def strike(self, life: NannyLife | None) -> None:
        """The crash that was armed has waited for long enough."""
        if self._effects_left is not None and life is self.nanny_life:
            self.kill_nanny(**self._killed_with)

    def survive_effect(self) -> None:
        """One more effect of the nanny is about to happen.

        Raises:
            Killed: it does not.
        """
        if self._effects_left is not None:
            self._effects_left -= 1
            if self._effects_left < 0:
                raise Killed

    def kill_nanny(self, surviving: int, down_s: float, worker_dies: bool) -> None:
        """The nanny is gone from one moment to the next."""
        self._effects_left = None
        life = self.nanny_life
        if life is None:
            return
        self.crashes += 1
        left = life.facts()
        self.facts = self.facts if left is None else left
        self._lost_lines += life.durability.abandon(surviving)
        self._nanny_is_gone()
        if worker_dies and (owner := self.owner) is not None:
            owner.die("SIGKILL")
        self.after(down_s, self.start_nanny)

    def _nanny_is_gone(self) -> None:
        self.nanny_life = None
        self.is_stopped = False
        self._backlog.clear()
        self._requests.clear()
        self._armed_at = None
        self.beats.unfold()
        for worker in [one for one in self.workers if one.is_parked]:
            worker.die("exit code 0")  # the gate's pipe is at its end
        if self.link is not None:
            self.link.nanny_is_gone()

    def _nanny_exits(self, life: NannyLife) -> None:
        self.facts = life.facts() if life.durability.degraded else None
        self._lost_lines += life.durability.abandon(1 << 30)
        self._effects_left = None
        self._nanny_is_gone()
        self.after(self.restart_after_s, self.start_nanny)
        self.restart_after_s = _RESTART_S

    def stop_nanny(self, for_s: float) -> None:
        """SIGSTOP; systemd's watchdog ends what does not answer."""
        if self.nanny_life is None or self.is_stopped:
            return
        self.disturb()
        self.is_stopped = True
        self.after(min(for_s, _SYSTEMD_WATCHDOG_S), self._continue, self.nanny_life, for_s)

    def _continue(self, life: NannyLife, for_s: float) -> None:
        if self.nanny_life is not life:
            return
        if for_s > _SYSTEMD_WATCHDOG_S:
            self.kill_nanny(surviving=3, down_s=_RESTART_S, worker_dies=False)
            return
        self.is_stopped = False
        backlog, self._backlog = self._backlog, []
        deadline = self._deadline()
        if deadline is not None and self.mono - deadline > LATE_AFTER_S:
            self.tell_nanny(e.NannyWasLate(self.mono - deadline), of=life)
        for event in backlog:
            self.tell_nanny(event, of=life)
        requests, self._requests = self._requests, []
        for client, plain in requests:
            self.request(client, plain)
        self.tell_nanny(e.TimePassed(), of=life)

    # The machine's life

    def lose_power(self, down_s: float, surviving: int) -> None:
        """No process and no /run is left; the disk has what it had."""
        life = self.nanny_life
        if life is not None:
            self._lost_lines += life.durability.abandon(surviving)
        self.oracles.power_fails(
            self._only_in_run("command-finished", "command_id"), self._lives_only_in_run()
        )
        self._lost_lines.clear()
        self.boot += 1
        self.beats.clear()
        for worker in self.workers:
            worker.dead = True
        self.workers.clear()
        if self.link is not None:
            self.link.vanish()
        self.nanny_life = None
        self.is_stopped = False
        self._backlog.clear()
        self._requests.clear()
        self._effects_left = None
        self.facts = None
        self.disk.silent_until = min(self.disk.silent_until, self.world.now)
        self.server.worker_vanished(self)
        self._mono0 = self._frozen_until = self._booted_at = self.world.now + down_s
        self._frozen_mono = self._reached = 0.0
        self._held_until = 0.0
        self._forget_troubles()
        self.at_mono(3.0, self.start_nanny)

    def _only_in_run(self, kind: str, key: str) -> set[str]:
        """What was handed to the journal, never reached the disk, and was known to /run alone."""
        kept = {line[key] for line in self.disk.lines if line["type"] == kind}
        return {line[key] for line in self._lost_lines if line["type"] == kind} - kept

    def _lives_only_in_run(self) -> set[str]:
        return self._only_in_run("incarnation-started", "incarnation")

    def _forget_troubles(self) -> None:
        self.spawns_fail_until = self.spawns_late_until = self.late_by_s = self.execs_fail_until = 0.0
        self.starts_die_until = self.slow_until = self.slow_by_s = self.ready_ones_die_until = 0.0
        self.evidence_hangs_until = self.settings_hang_until = self.links_fail_until = 0.0

    def suspend(self, for_s: float) -> None:
        """Nothing runs, and CLOCK_MONOTONIC stands still."""
        self.disturb()
        self._frozen_mono = self.mono
        self._frozen_until = self.world.now + for_s
        self._mono0 += for_s
        self.server.patience.postponed(self, for_s)
        self.at_mono(self._frozen_mono, self.tell_nanny, e.NodeResumed(for_s))

    def starve(self, for_s: float) -> None:
        """Nothing runs, and the clock goes on."""
        self.disturb()
        self._held_until = max(self._held_until, self.world.now + for_s)

    # What befalls processes

    def worker_is_ready(self, worker: Worker) -> None:
        """It registers at the server by its own connection."""
        self.server.worker_is_ready(self, worker)

    def worker_died(self, worker: Worker, status: str) -> None:
        """Its pidfd is readable."""
        if worker in self.workers:
            self.workers.remove(worker)
        if not worker.is_parked:
            self.server.worker_vanished(self, worker.incarnation)
        self.tell_nanny(e.WorkerExited(worker.incarnation, status))

    def link_died(self, link: LinkProgram, status: str) -> None:
        """Its pidfd is readable."""
        if self.link is link:
            self.link = None
        self.tell_nanny(e.LinkExited(link.number, status))

    def status_changed(self) -> None:
        """What the nanny shows has changed."""
        if self.link is not None:
            self.link.status_changed()


def _without_deadline(one: Child) -> Child:
    return Child(one.stage, one.since, None, one.pid, one.last_beat_at, one.extended_s, one.failures)
