"""The server: its real judgement of nodes and of commands, on a database that outlives its restarts.

Real are the life of a command, the facts that arrive, the verdict on a node, the places of the probes and the session.
Rewritten is what `server_stub.links` and `server_stub.commands` do with sockets, tasks and SQL. Probes and reports that
would say the same again are not made one by one; what they would have said of the time is put in before each verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from agent.core.health import HealthStatus, Observation, assess
from agent.vitals.snapshot import Snapshot
from nanny.protocol.codec import decode_hello
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    NannyReport,
    OutcomeAcknowledged,
    Role,
)
from nanny.protocol.session_events import Established, MessageReceived, PeerClosed, SessionFailed
from server_stub.arrivals import Arrivals
from server_stub.core.command_lifecycle import (
    CommandState,
    absorbs,
    advance,
    is_finished,
    may_expire_unsent,
)
from server_stub.core.connectivity import GOOD_AGAIN, Settings, evaluate, next_change_at, recheck_in_s
from server_stub.core.node_facts import ANSWERED, Lifecycle, ProbeClass, ProbeFact, Stored, Word
from server_stub.core.probe_schedule import next_probe_at
from tests.simulation import bounds
from tests.simulation.patience import Patience
from tests.simulation.wire import Connection, Network

if TYPE_CHECKING:
    from nanny.protocol.incarnation import Incarnation
    from nanny.protocol.messages import ApplicationMessage
    from nanny.protocol.session_events import SessionEvent
    from tests.simulation.clockwork import Clockwork
    from tests.simulation.machine import Machine
    from tests.simulation.worker import Worker

RETRY_S: Final = 5.0
CONFIRMED_WITHIN_S: Final = 15.0
REGISTER_S: Final = 0.5
STALL_TIMEOUT_S: Final = 30.0
_SETTINGS: Final = Settings()
_STARTED: Final = Snapshot(started=True)


@dataclass(slots=True)
class Command:
    """A row of the commands' table."""

    id: str
    kind: str
    state: CommandState
    expires_at: float
    target: Incarnation | None
    parameters: dict[str, Any]
    outcome: str = ""


@dataclass(slots=True)
class Row:
    """What the database says of one node."""

    stored: Stored
    commands: dict[str, Command] = field(default_factory=dict)
    undelivered: dict[str, Command] = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """What this process of the server knows of one node."""

    arrivals: Arrivals
    session: LinkSession | None = None
    connection: Connection | None = None
    sent_on: dict[str, tuple[str, float]] = field(default_factory=dict)
    is_probing: bool = False
    retry_due: bool = False
    judged_at: float | None = None
    """When time alone may change the verdict next."""


_NEW: Final = Stored(Lifecycle.ACTIVE, False, Word.PENDING, "New", "", False, True, True)


class Server:
    """One server for the fleet.

    Attributes:
        commands_by_outcome: of all nodes, over the run.
    """

    def __init__(self, world: Clockwork) -> None:
        self.world = world
        self.is_up = True
        self.orders = 0
        self.sessions = 0
        self.commands_by_outcome: dict[str, int] = {}
        self.rows: dict[str, Row] = {}
        self.machines: dict[str, Machine] = {}
        self._known: dict[str, Known] = {}
        self._networks: dict[str, Network] = {}
        self.patience = Patience(self)
        self._started_at = 0.0

    def meet(self, machine: Machine) -> None:
        """A node of the fleet."""
        self.machines[machine.name] = machine
        self.rows[machine.name] = Row(_NEW)
        self._networks[machine.name] = Network()

    def network_of(self, machine: Machine) -> Network:
        """The way to this node."""
        return self._networks[machine.name]

    def _of(self, machine: Machine) -> Known:
        known = self._known.get(machine.name)
        if known is None:
            known = self._known[machine.name] = Known(Arrivals(self._started_at))
        return known

    # Its own life

    def restart(self, down_s: float) -> None:
        """It loses its memory and every connection; the database stays."""
        if not self.is_up:
            return
        for known in self._known.values():
            if known.connection is not None:
                known.connection.server_hangs_up()
        self._known.clear()
        self.is_up = False
        self.world.after(down_s, self._starts)

    def _starts(self) -> None:
        self.is_up = True
        self._started_at = self.world.now
        for machine in self.machines.values():
            owner = machine.owner
            if owner is not None and owner.is_ready:
                self.worker_is_ready(machine, owner)
            self.probe_soon(machine)
            self.judge(machine)

    # Commands

    def submit(
        self, machine: Machine, kind: str, aim: str, ttl_s: float, copies: int, for_s: float | None
    ) -> None:
        """Somebody orders something; a copy is the same order, sent once more."""
        if not self.is_up:
            return
        self.orders += 1
        command = Command(
            f"0190e0a0-0000-7000-8000-{self.orders:012x}",
            kind,
            CommandState.QUEUED,
            self.world.now + ttl_s,
            self._target(machine, aim),
            {} if for_s is None else {"for_s": for_s},
        )
        row = self.rows[machine.name]
        row.commands[command.id] = row.undelivered[command.id] = command
        self._deliver(machine)
        for copy in range(copies - 1):
            self.world.after(0.01 * 10**copy, self._send_again, machine, command)

    def _target(self, machine: Machine, aim: str) -> Incarnation | None:
        nanny = self._of(machine).arrivals.nanny
        told = None if nanny is None else nanny.incarnation
        by = {"present": 0, "past": -1, "future": 1}.get(aim)
        if told is None or by is None:
            return None
        return replace(told, number=max(told.number + by, 1))

    def _send_again(self, machine: Machine, command: Command) -> None:
        if self.is_up and not is_finished(command.state) and command.state is not CommandState.QUEUED:
            self._send(machine, command)

    def _deliver(self, machine: Machine) -> None:
        known, row, now = self._of(machine), self.rows[machine.name], self.world.now
        for command in list(row.undelivered.values()):
            if may_expire_unsent(command.state, command.expires_at - now):
                self._move(machine, command.id, CommandState.EXPIRED)
                continue
            link = known.connection
            if link is None or not link.is_established or self._is_under_way(known, command.id):
                continue
            if command.state is CommandState.QUEUED:
                self._move(machine, command.id, CommandState.SENT)
            self._send(machine, command)
        if row.undelivered and not known.retry_due:
            known.retry_due = True
            self.world.after(RETRY_S, self._retry, machine, known)

    def _retry(self, machine: Machine, known: Known) -> None:
        known.retry_due = False
        if self.is_up and self._known.get(machine.name) is known:
            self._deliver(machine)

    def _is_under_way(self, known: Known, command_id: str) -> bool:
        carried, session = known.sent_on.get(command_id), known.session
        if carried is None or session is None or carried[0] != session.session_id:
            return False
        return self.world.now < carried[1] + CONFIRMED_WITHIN_S

    def _send(self, machine: Machine, command: Command) -> None:
        known = self._of(machine)
        connection, session = known.connection, known.session
        if connection is None or session is None or not connection.is_established:
            return
        left_s = max(0.0, command.expires_at - self.world.now)
        session.send(
            CommandOrder(
                command.id,
                command.kind,
                left_s,
                command.id,
                "server",
                command.target,
                dict(command.parameters),
            )
        )
        known.sent_on[command.id] = (session.session_id or "", self.world.now)
        connection.wake()
        connection.flush_server()

    def _move(self, machine: Machine, command_id: str, after: CommandState) -> None:
        row = self.rows[machine.name]
        command = row.commands.get(command_id)
        if command is None:
            return
        if absorbs(command.state, after):
            return
        if is_finished(command.state):
            machine.oracles.server_heard(command_id, after, command.state)
            return
        command.state = advance(command.state, after)
        if after is not CommandState.SENT:
            row.undelivered.pop(command_id, None)
            self._of(machine).sent_on.pop(command_id, None)
        if is_finished(after):
            self.commands_by_outcome[after] = self.commands_by_outcome.get(after, 0) + 1

    # Link's connections

    def frame_came(self, connection: Connection, frame: bytes) -> None:
        """A frame of a link's."""
        machine = connection.machine
        if not self.is_up:
            connection.server_hangs_up()
            return
        if connection.server_session is None and not self._greet(connection, frame):
            return
        session = connection.server_session
        assert session is not None
        self._of(machine).arrivals.heard(Role.LINK, self.world.now)
        self._act(connection, session.receive_frame(frame, self.world.now))

    def _greet(self, connection: Connection, frame: bytes) -> bool:
        known = self._of(connection.machine)
        try:
            decode_hello(frame)
        except ProtocolViolation:
            connection.server_hangs_up()
            return False
        older = known.connection
        if older is not None:
            older.server_hangs_up()
            self._closed(older)
        session = known.session
        if session is None or session.backlog != (0, 0):
            session = known.session = LinkSession(Role.SERVER, Role.LINK)
        self.sessions += 1
        session.connection_accepted(f"session-{self.sessions}", self.world.now)
        connection.server_session = session
        known.connection = connection
        return True

    def session_is_due(self, connection: Connection) -> None:
        """The session's deadline has come."""
        session = connection.server_session
        assert session is not None
        self._act(connection, session.handle_deadline(self.world.now))

    def connection_lost(self, connection: Connection) -> None:
        """The connection is gone."""
        connection.server_hangs_up()
        self._closed(connection)

    def _closed(self, connection: Connection) -> None:
        machine = connection.machine
        known = self._known.get(machine.name)
        if known is not None and known.connection is connection:
            known.connection = None
            known.arrivals.closed(Role.LINK, self.world.now)
            self.judge(machine)

    def _act(self, connection: Connection, happened: tuple[SessionEvent, ...]) -> None:
        machine = connection.machine
        for event in happened:
            match event:
                case Established():
                    connection.is_established = True
                    self._of(machine).arrivals.opened(Role.LINK, self.world.now)
                    connection.flush_server()
                    self._deliver(machine)
                    self.judge(machine)
                case MessageReceived(message=message):
                    self._take(machine, message)
                case PeerClosed() | SessionFailed():
                    connection.flush_server()
                    self.connection_lost(connection)
                    return
                case _:
                    raise AssertionError(f"{event} at a server")
        connection.flush_server()

    def _take(self, machine: Machine, message: ApplicationMessage) -> None:
        known = self._of(machine)
        match message:
            case NannyReport():
                known.arrivals.nanny_reported(message, self.world.now)
                self.probe_soon(machine)
                self.judge(machine)
            case CommandAccepted(command_id=command_id):
                self._move(machine, command_id, CommandState.ACCEPTED)
            case CommandOutcome(command_id=command_id, outcome=outcome):
                self._move(machine, command_id, CommandState(outcome.value))
                assert known.session is not None
                known.session.send(OutcomeAcknowledged(command_id))
            case _:
                raise AssertionError(f"{message} is not for the server")

    # The worker's own connection, as facts only

    def worker_is_ready(self, machine: Machine, worker: Worker) -> None:
        """It dials and registers, and tries again until it is heard."""
        machine.after(REGISTER_S, self._registers, machine, worker)

    def _registers(self, machine: Machine, worker: Worker) -> None:
        if worker.dead or machine.owner is not worker:
            return
        now = self.world.now
        if not self.is_up or now < self.network_of(machine).parted_until:
            machine.after(RETRY_S, self._registers, machine, worker)
            return
        arrivals, row = self._of(machine).arrivals, self.rows[machine.name]
        arrivals.opened(Role.WORKER, now)
        arrivals.registered(
            worker.incarnation, now, is_reborn=arrivals.registered_incarnation != worker.incarnation
        )
        row.stored = replace(row.stored, is_registered=True)
        self.probe_soon(machine)
        self.judge(machine)

    def worker_vanished(self, machine: Machine, incarnation: Incarnation | None = None) -> None:
        """The connection of this life, or of whichever there is, is gone; an earlier one's counts no more."""
        if self.is_up and incarnation in {None, self._of(machine).arrivals.registered_incarnation}:
            self._of(machine).arrivals.closed(Role.WORKER, self.world.now)
            self.probe_soon(machine)
            self.judge(machine)

    # Probes

    def probe_soon(self, machine: Machine) -> None:
        """At the node's next place, unless that is arranged already."""
        known = self._of(machine)
        if self.is_up and not known.is_probing:
            known.is_probing = True
            at = next_probe_at(machine.name, bounds.PROBE_INTERVAL_S, self.world.now)
            self.world.at(at, self._probe, machine, known)

    def _probe(self, machine: Machine, known: Known) -> None:
        known.is_probing = False
        if not self.is_up or self._known.get(machine.name) is not known:
            return
        before = known.arrivals.probe
        known.arrivals.probed(self._probed(machine))
        after = known.arrivals.probe
        if before is not None and after is not None and _essence(before) == _essence(after):
            return
        self.judge(machine)
        recheck_s = recheck_in_s(
            known.arrivals.facts(self.rows[machine.name].stored), self.world.now, _SETTINGS
        )
        if recheck_s is None:
            self.probe_soon(machine)
        else:
            known.is_probing = True
            self.world.after(recheck_s, self._probe, machine, known)

    def _probed(self, machine: Machine) -> ProbeFact:
        """What one check of /healthz comes to; the words are the agent's own."""
        now, network, owner = self.world.now, self.network_of(machine), machine.owner
        if now < max(network.parted_until, network.probe_blocked_until) or not machine.is_awake:
            return ProbeFact(ProbeClass.TIMEOUT, now, now)
        if owner is None or owner.is_silent(machine.mono):
            if machine.nanny_life is not None and not machine.is_stopped:
                return ProbeFact(ProbeClass.FALLBACK, now, now, "fallback")
            result = ProbeClass.REFUSED if owner is None else ProbeClass.TIMEOUT
            return ProbeFact(result, now, now)
        beat = owner.beat(machine.mono) if not owner.triggers else None
        lag_s = 0.0 if beat is None or beat.loop_lag_s is None else beat.loop_lag_s
        snapshot = replace(_STARTED, started=owner.is_ready)
        status = assess(Observation(snapshot, loop_lag_s=lag_s), STALL_TIMEOUT_S).status
        result = ProbeClass.STALLED if status is HealthStatus.STALLED else ProbeClass.OK
        return ProbeFact(result, now, now, status, owner.incarnation)

    # The verdict

    def _is_calm(self, machine: Machine) -> bool:
        network, now = self.network_of(machine), self.world.now
        is_open = now >= max(network.parted_until, network.probe_blocked_until)
        return is_open and machine.is_serving and machine.nanny_life is not None and not machine.is_stopped

    def judge(self, machine: Machine) -> None:
        """Give the verdict, and store it if it differs."""
        if not self.is_up:
            return
        known, row, now = self._of(machine), self.rows[machine.name], self.world.now
        self._bring_up_to_date(machine, known)
        facts = known.arrivals.facts(row.stored)
        verdict = evaluate(facts, now, _SETTINGS)
        if verdict.differs_from(row.stored):
            row.stored = replace(
                row.stored,
                word=verdict.word,
                reason=verdict.reason.code,
                detail=verdict.reason.detail,
                lifecycle=verdict.lifecycle,
                unreachable=verdict.unreachable,
            )
        link = known.connection
        if self._is_calm(machine) and link is not None and link.is_quiet:
            return  # Its signs of life keep coming.
        change_at = next_change_at(facts, now, _SETTINGS)
        if change_at is not None and (known.judged_at is None or change_at < known.judged_at):
            known.judged_at = change_at
            self.world.at(change_at, self._judge_again, machine, known, change_at)

    def _judge_again(self, machine: Machine, known: Known, at: float) -> None:
        if self._known.get(machine.name) is known and known.judged_at == at:
            known.judged_at = None
            self.judge(machine)

    def _bring_up_to_date(self, machine: Machine, known: Known) -> None:
        """Put in the signs of life that were folded."""
        now, arrivals = self.world.now, known.arrivals
        if known.connection is not None and known.connection.is_quiet:
            arrivals.heard(Role.LINK, now)
        if self._is_calm(machine):
            arrivals.heard(Role.WORKER, now)
        probe = arrivals.probe
        if probe is not None and not known.is_probing:
            last_at = next_probe_at(machine.name, bounds.PROBE_INTERVAL_S, now) - bounds.PROBE_INTERVAL_S
            if last_at > probe.at:
                before_at = None if probe.good_in_row < GOOD_AGAIN else last_at - bounds.PROBE_INTERVAL_S
                arrivals.probe = replace(probe, at=last_at, good_before_at=before_at)
                if probe.result in ANSWERED:
                    arrivals.answered_at = last_at


def _essence(probe: ProbeFact) -> tuple[Any, ...]:
    return probe.result, probe.status, probe.incarnation, min(probe.good_in_row, GOOD_AGAIN)
