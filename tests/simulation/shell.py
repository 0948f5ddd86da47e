"""One life of the nanny: the real supervisor, recovery and control requests around the real core, in a simulated process.

The contract between core and shell (records first, actions in order, results as events) is the product's own code; only
what the actions touch is simulated. The nanny can be made to die at any effect: before or after each record that it
hands over and each action that it carries out.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from nanny import adoption, recovery, supervisor
from nanny.control import RequestError, Role
from nanny.control_requests import ControlRequests
from nanny.core import actions as a
from nanny.core import events as e
from nanny.core import invariants, policy
from nanny.core.records import to_json
from nanny.facts import FactsRead
from nanny.handover import Handover
from nanny.supervisor import Supervisor
from tests.simulation.disk import SimulatedDurability
from tests.simulation.effects import Effects
from tests.simulation.oracles import Violation

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Step
    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from tests.simulation.machine import Machine

OUTCOMES_IN_FACTS = 32


class Killed(BaseException):
    """The nanny's process is gone; no code of it runs on."""


class Log:
    """A nanny that reports an error about itself has one."""

    def __init__(self, node: str) -> None:
        self._node = node

    def info(self, event: str, /, **fields: object) -> None:
        pass

    def warning(self, event: str, /, **fields: object) -> None:
        pass

    def error(self, event: str, /, **fields: object) -> None:
        if event != "starting without a journal":
            raise Violation(self._node, f"the nanny says: {event} {fields}")


class Loop:
    """The time as the supervisor asks for it."""

    def __init__(self, now: float) -> None:
        self.now = now

    def add_source(self, source: object) -> None:
        """Its deadlines are asked for by the machine."""


class Control:
    """The control socket without a socket: requests are calls, answers too."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.clients: list[Any] = []

    def serve(self, name: str, _roles: frozenset[Role], run: Any) -> None:
        """As the real one."""
        self.requests[name] = run

    def request(self, client: Any, plain: dict[str, Any]) -> None:
        """A client asks; the answer may come at once or later."""
        try:
            result = self.requests[plain["do"]](plain, client)
        except RequestError as error:
            client.refused(plain["id"], str(error), is_passing=type(error) is not RequestError)
        else:
            if result is not None:
                client.answered(plain["id"], result)

    def push(self, message: dict[str, Any]) -> None:
        """As the real one."""
        for client in self.clients:
            if client.subscribed:
                client.pushed(message)

    def send(self, client: Any, message: dict[str, Any]) -> None:
        """As the real one."""
        client.pushed(message)

    def answer(self, client: Any, request_id: Any, result: Any) -> None:
        """As the real one."""
        client.answered(request_id, result)

    def refuse(self, client: Any, request_id: Any, error: str, *, is_passing: bool = False) -> None:
        """As the real one."""
        client.refused(request_id, error, is_passing=is_passing)


class NannyLife:
    """The process: from its start to its death."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.loop = Loop(machine.mono)
        self.is_ending = False
        self.durability = SimulatedDurability(machine)
        found = recovery.recover(
            cast("Any", self.durability),
            machine.name,
            machine.boot_id,
            machine.mono,
            machine.config,
            machine.mint,
            cast("Any", Log(machine.name)),
        )
        self.found = found
        self.supervisor = Supervisor(
            found.recovered.state,
            machine.config,
            cast("Any", self.loop),
            cast("Any", self.durability),
            cast("Any", Log(machine.name)),
            machine.mint,
        )
        self.control = Control()
        ControlRequests(cast("Any", self.control), self.supervisor, dict)
        self._facts_of: NannyState | None = None
        self._facts_at = 0.0
        self._facts_lives: dict[Any, Any] = {}
        self.durability.snapshot = lambda: self._lines(self.supervisor.state, self._lives(), self.loop.now)
        self._wire()

    @property
    def state(self) -> NannyState:
        """The core's state."""
        return self.supervisor.state

    def begin(self) -> None:
        """Adopt what was found, and take the first decision."""
        for one in self.found.found:
            self.machine.adopt(one.started.incarnation, fenced=one.fenced)
        if self.found.unjournaled:
            self.durability.append([_plain(one, self.loop.now) for one in self.found.unjournaled])
        self.supervisor.tell(e.NannyStarted())
        if self.durability.degraded:
            self.supervisor.tell(e.JournalDegraded(self.durability.degraded))

    def _wire(self) -> None:
        effects_on, sup = Effects(self.machine), self.supervisor
        sup.effect(a.SpawnWorker, effects_on.spawn_worker)
        sup.effect(a.ReleaseWorker, effects_on.release_worker)
        sup.effect(a.AbandonWorker, effects_on.abandon_worker)
        sup.effect(a.SignalWorker, effects_on.signal_worker)
        sup.effect(a.ExamineWorker, effects_on.examine_worker)
        sup.effect(a.FenceWorker, effects_on.fence_worker)
        sup.effect(a.CollectEvidence, effects_on.collect_evidence)
        sup.effect(a.SpawnLink, effects_on.spawn_link)
        sup.effect(a.SignalLink, effects_on.signal_link)
        sup.effect(a.ReloadConfig, effects_on.reload_settings)
        sup.effect(a.ExitNanny, self._end)
        effects = sup._effects
        for kind, run in list(effects.items()):
            effects[kind] = self._watched(run)
        sup.on_step.append(self._after_step)

    def _watched(self, run: Any) -> Any:
        def carry_out(action: a.Action) -> None:
            self.machine.survive_effect()
            self.machine.oracles.effect(self.machine, action)
            run(action)
            self.machine.survive_effect()

        return carry_out

    def _end(self, _action: a.ExitNanny) -> None:
        self.is_ending = True

    # What it leaves behind

    def _after_step(self, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:
        if records:
            # Written to /run at once; the lines are made when somebody reads them.
            self._facts_of, self._facts_at, self._facts_lives = after, self.loop.now, self._lives()
            self.machine.oracles.recorded(self.machine, records)
        if records or before.phase is not after.phase:
            self.machine.status_changed()

    def _lives(self) -> dict[Any, Any]:
        return {
            one.incarnation: SimpleNamespace(
                incarnation=one.incarnation,
                pid=one.pid,
                start_time_ticks=one.ticks,
                parked=True if one.is_parked else None,
            )
            for one in self.machine.workers
        }

    def facts(self) -> dict[str, Any] | None:
        """What the next nanny of this boot finds in /run; None: this one wrote nothing."""
        if self._facts_of is None:
            return None
        lines = self._lines(self._facts_of, self._facts_lives, self._facts_at, OUTCOMES_IN_FACTS)
        records = [{**line, "boot": self.machine.boot_id} for line in lines]
        forgetful = self._facts_of.is_forgetful
        return {"boot": self.machine.boot_id, "records": records, "link": None, "forgetful": forgetful}

    def _lines(
        self, state: NannyState, lives: dict[Any, Any], now: float, delivered_limit: int | None = None
    ) -> list[dict[str, Any]]:
        parts = SimpleNamespace(
            supervisor=SimpleNamespace(state=state),
            workers=SimpleNamespace(lives=lives),
            loop=SimpleNamespace(now=now),
        )
        lines = Handover.snapshot(cast("Any", parts), delivered_limit)
        return [{**line, "boot": self.machine.boot_id} for line in lines]


def _plain(record: Record, at: float) -> dict[str, Any]:
    return {**to_json(record), "at": round(at, 3)}


@contextmanager
def simulated_surroundings(machines: dict[str, Machine], steps: Counter[str]) -> Iterator[None]:
    """The product's modules find simulated processes and files, and each step is held to all rules.

    Counts the steps. Only module attributes are replaced, for as long as the run lasts; nothing of the machine that this runs on is
    touched.
    """
    alive: dict[int, Machine] = {one.pid_base: one for one in machines.values()}

    def same_process(pid: int, ticks: int) -> int | None:
        machine = alive[pid - pid % PIDS_A_MACHINE]
        return pid if machine.is_alive(pid, ticks) else None

    def read_facts(path: str) -> FactsRead:
        left = machines[path].facts
        return FactsRead(None, "no such file") if left is None else FactsRead(left, None)

    def checked_step(state: NannyState, event: e.Event, now: float, config: PolicyConfig) -> Step:
        try:
            result = policy.step(state, event, now, config)
        except Exception as error:
            raise Violation(config.node_id, f"{type(event).__name__} raised {error!r}") from error
        steps["steps"] += 1
        machine = machines[config.node_id]
        machine.oracles.stirs(machine.world.now)
        problems = invariants.violations(state, event, result, now, config)
        if problems:
            raise Violation(config.node_id, "; ".join(problems) + f" (by {event})")
        return result

    silent = SimpleNamespace(cheap=lambda _state, _config: (), violations=invariants.violations)
    with (
        mock.patch.object(adoption, "_same_process", same_process),
        mock.patch.object(adoption, "os", SimpleNamespace(close=lambda _fd: None)),
        mock.patch.object(recovery, "facts", SimpleNamespace(read_facts=read_facts)),
        mock.patch.object(supervisor, "step", checked_step),
        mock.patch.object(supervisor, "invariants", silent),
    ):
        yield


PIDS_A_MACHINE = 1_000_000


def with_link(config: PolicyConfig) -> PolicyConfig:
    """The same numbers, with a link of the nanny's own."""
    return replace(config, link=config.worker)
