"""The link process: orders down, outcomes up, as the product's bridge does it, without its sockets and tasks.

The real parts: the session, the queue of held orders, the reports, the backoff between dials. What is rewritten here is
only what `nanny.link.bridge` and `nanny.link.connection` do with tasks and sockets. Link keeps no state: one that dies
is replaced by one that knows nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from nanny import view
from nanny.common.backoff import Backoff
from nanny.control import Role as ControlRole
from nanny.core import events as e
from nanny.link.bridge import COALESCE_S, COMMAND_TIMEOUT_S, NANNY_GRACE_S
from nanny.link.orders import HeldOrders
from nanny.link.report import report_of, report_without_nanny
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    Hello,
    Outcome,
    OutcomeAcknowledged,
    Role,
)
from nanny.protocol.session_events import (
    BacklogFull,
    Established,
    MessageReceived,
    PeerClosed,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_states import State
from tests.simulation.wire import DIAL_CEILING_S, DIAL_TIMEOUT_S, LATENCY_S, REPORT_S, Connection

if TYPE_CHECKING:
    from nanny.protocol.messages import ApplicationMessage, LinkMessage
    from nanny.protocol.session_events import SessionEvent
    from tests.simulation.machine import Machine

DIAL_BASE_S: Final = 1.0
_BACKOFF: Final = Backoff(DIAL_BASE_S, DIAL_CEILING_S)
_RETRY_FIRST_S: Final = 0.2
_RETRY_CEILING_S: Final = 5.0
_STEADY_AFTER_S: Final = 10.0
_READY_S: Final = 0.3


class LinkProgram:
    """One life of link."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.role = ControlRole.LINK
        self.subscribed = False
        self.dead = False
        self.stream = 0
        self.last_beat_at = 0.0
        self.hung_until = 0.0
        self.session = LinkSession(Role.LINK, Role.SERVER)
        self.connection: Connection | None = None
        self._is_ready = False
        self._is_connected = False
        self._orders = HeldOrders()
        self._asking = ""
        self._asked = 0
        self._retry_s = _RETRY_FIRST_S
        self._early: list[dict[str, Any]] = []
        self._owed: set[str] = set()
        self._dials = 0
        self._steady_at = float("inf")
        self._report_due = False
        self._last_report: tuple[Any, ...] | None = None
        self._status: dict[str, Any] | None = None
        self._nanny_lost_at = 0.0

    # A child of the nanny's

    def begin(self) -> None:
        """Its program runs."""
        if self.dead:
            return
        self.machine.beats.begin(self)
        self.machine.after(_READY_S, self._gets_ready)
        self._connect_to_nanny()
        self._dial()

    def _gets_ready(self) -> None:
        if not self.dead:
            self._is_ready = True
            self.machine.beats.begin(self)

    def is_silent(self, now: float) -> bool:
        """Whether it does nothing now."""
        return now < self.hung_until

    def is_steady(self, now: float) -> bool:
        """Whether its next beat will be like this one."""
        return self._is_ready and not self.is_silent(now)

    def beat(self, now: float) -> e.LinkBeat:
        """What it says at this moment."""
        assert now >= self.last_beat_at
        return e.LinkBeat(self.number, ready=self._is_ready)

    def hang(self, for_s: float) -> None:
        """It does nothing for so long."""
        if self.connection is not None:
            self.connection.wake()
        self.hung_until = max(self.hung_until, self.machine.mono + for_s)

    def die(self, status: str) -> None:
        """Its process ends."""
        if not self.dead:
            self.dead = True
            if self.connection is not None:
                self.connection.link_hangs_up()
            self.machine.link_died(self, status)

    def vanish(self) -> None:
        """Its machine is gone, or it was replaced: nobody hears of its end."""
        self.dead = True
        if self.connection is not None:
            self.connection.link_hangs_up(silently=True)
        self.machine.link = None

    # The nanny

    def _connect_to_nanny(self) -> None:
        if self.dead or self._is_connected:
            return
        life = self.machine.nanny_life
        if self.is_silent(self.machine.mono) or life is None:
            self.machine.after(_RETRY_FIRST_S, self._connect_to_nanny)
            return
        self._is_connected = True
        life.control.clients.append(self)
        self._subscribe()

    def _subscribe(self) -> None:
        self._request({"do": "subscribe"})
        self.status_changed()
        self._carry()

    def nanny_is_gone(self) -> None:
        """The connection to it is at its end."""
        self._is_connected = False
        self._asking = ""
        self._early.clear()
        self._nanny_lost_at = self.machine.mono
        self.machine.after(_RETRY_FIRST_S, self._connect_to_nanny)
        self.machine.after(NANNY_GRACE_S + 0.05, self.status_changed)

    def _request(self, plain: dict[str, Any]) -> None:
        if self._is_connected and not self.dead:
            self._asked += 1
            self.machine.request(self, {"id": self._asked, **plain})

    def _carry(self) -> None:
        """Ask the nanny to take the next order, one at a time."""
        held = self._orders.first()
        if held is None or self._asking or self.dead or not self._is_connected:
            return
        if self.is_silent(self.machine.mono):
            self.machine.at_mono(self.hung_until, self._carry)
            return
        self._asking = held.order.command_id
        self.machine.after(COMMAND_TIMEOUT_S, self._asked_in_vain, self._asked + 1)
        self._request({"do": "command", **held.request(self.machine.boottime)})

    def _asked_in_vain(self, asked: int) -> None:
        if self._asking and self._asked == asked and not self.dead:
            self._answer_came(is_answered=False)

    def _answer_came(self, *, is_answered: bool) -> None:
        command_id, self._asking = self._asking, ""
        early, self._early = self._early, []
        for message in early:
            self._tell_outcome(message)
        if is_answered:
            self._orders.remove(command_id)
            self._retry_s = _RETRY_FIRST_S
            self._carry()
        else:
            self._orders.put_off(command_id, self.machine.boottime)
            self.machine.after(self._retry_s, self._carry)
            self._retry_s = min(2 * self._retry_s, _RETRY_CEILING_S)

    def answered(self, request_id: int, result: dict[str, Any]) -> None:
        """The nanny answers a request."""
        if "state" in result:
            self.machine.after(0.001, self._take_answer, request_id, result)

    def _take_answer(self, request_id: int, result: dict[str, Any]) -> None:
        if self.dead or result["command_id"] != self._asking or request_id > self._asked:
            return
        if result["state"] == "finished":
            self._tell_outcome(result)
        elif result["durable"]:
            self._send(CommandAccepted(self._asking))
        self._answer_came(is_answered=True)

    def refused(self, _request_id: int, error: str, *, is_passing: bool) -> None:
        """The nanny refuses a request."""
        self.machine.after(0.001, self._take_refusal, self._asking, error, is_passing)

    def _take_refusal(self, command_id: str, error: str, is_passing: bool) -> None:
        if self.dead or command_id != self._asking or not command_id:
            return
        if not is_passing:
            self._owed.add(command_id)
            self._send(CommandOutcome(command_id, Outcome.REJECTED, error))
        self._answer_came(is_answered=not is_passing)

    def pushed(self, message: dict[str, Any]) -> None:
        """The nanny tells something unasked."""
        if message["push"] == "outcome" and message["acknowledged"] is not True:
            self.machine.after(0.001, self._take_push, message)

    def _take_push(self, message: dict[str, Any]) -> None:
        if self.dead or not self._is_open:
            return
        if message["command_id"] == self._asking:
            self._early.append(message)
        else:
            self._tell_outcome(message)

    def _tell_outcome(self, told: dict[str, Any]) -> None:
        command_id = told["command_id"]
        if command_id in self._owed:
            return
        named = told["incarnation"]
        self._owed.add(command_id)
        self._send(
            CommandOutcome(
                command_id,
                Outcome(told["outcome"]),
                told["detail"],
                None if named is None else Incarnation.parse(named),
            )
        )

    # Reports

    def status_changed(self) -> None:
        """The server is to hear of it soon."""
        if not self._report_due and not self.dead:
            self._report_due = True
            self.machine.after(COALESCE_S, self._report)

    def report_again(self) -> None:
        """An interval later, the same if need be."""
        self._last_report = None
        self.status_changed()

    def _report(self) -> None:
        self._report_due = False
        machine = self.machine
        if self.dead or not self._is_open:
            return
        if self.is_silent(machine.mono):
            machine.at_mono(self.hung_until, self.status_changed)
            return
        state = machine.state
        if state is not None and not machine.is_stopped:
            self._status = view.status(state, machine.mono, machine.config)
            report = report_of(self._status, 0.0, machine.boottime)
        elif state is not None:
            machine.after(REPORT_S, self.report_again)  # it did not answer in time
            return
        elif self._status is not None:
            lost_s = machine.mono - self._nanny_lost_at
            if lost_s < NANNY_GRACE_S:
                return
            report = report_without_nanny(self._status, 0.0, lost_s, machine.boottime, "no such socket")
        else:
            return
        conditions = tuple(one.type for one in report.conditions)
        essence = (report.phase, report.incarnation, report.desired, report.desired_reason, report.draining)
        if self._last_report != (essence, conditions, report.journal_degraded):
            self._last_report = (essence, conditions, report.journal_degraded)
            self._send(report)

    # The server

    @property
    def _is_open(self) -> bool:
        return self.connection is not None and self.session.state is State.OPEN

    def _send(self, message: LinkMessage) -> None:
        try:
            self.session.send(message)
        except BacklogFull:
            return
        if self.connection is not None:
            self.connection.wake()
            self.connection.flush_link()

    def _dial(self) -> None:
        machine = self.machine
        if self.dead or self.connection is not None:
            return
        if self.is_silent(machine.mono):
            machine.at_mono(self.hung_until, self._dial)
        elif machine.world.now < machine.server.network_of(machine).parted_until:
            machine.after(DIAL_TIMEOUT_S, self._dial_failed)
        elif not machine.server.is_up:
            machine.after(LATENCY_S, self._dial_failed)
        else:
            self.connection = Connection(machine, self, machine.server)
            self.session.connection_made(self._hello(), machine.mono)
            self.connection.flush_link()

    def _dial_failed(self) -> None:
        if self.dead or self.connection is not None:
            return
        attempt = 1 if self.machine.mono >= self._steady_at else self._dials + 1
        self._steady_at = float("inf")
        self._dials = attempt
        spread = crc32(f"{self.machine.name}/{self.number}/{attempt}".encode()) / 2**32
        self.machine.after(_BACKOFF.next(attempt, spread), self._dial)

    def _hello(self) -> Hello:
        machine = self.machine
        state = machine.state
        return Hello(
            role=Role.LINK,
            protocol_versions=(),
            node_id=machine.name,
            node_name=machine.name,
            machine_id=machine.name,
            boot_id=machine.boot_id,
            software_version="1.0",
            incarnation=None if state is None else state.incarnation,
        )

    def frame_came(self, connection: Connection, frame: bytes) -> None:
        """A frame of the server's."""
        if connection is self.connection and self.session.state is not State.OFFLINE:
            self._act(connection, self.session.receive_frame(frame, self.machine.mono))

    def session_is_due(self, connection: Connection) -> None:
        """The session's deadline has come."""
        if connection is self.connection:
            self._act(connection, self.session.handle_deadline(self.machine.mono))

    def _act(self, connection: Connection, happened: tuple[SessionEvent, ...]) -> None:
        for event in happened:
            match event:
                case Established(resumed=resumed):
                    self._steady_at = self.machine.mono + _STEADY_AFTER_S
                    self._established(resumed=resumed)
                case MessageReceived(message=message):
                    self._said(message)
                case SessionRefused() | PeerClosed() | SessionFailed():
                    connection.flush_link()
                    self.connection_lost(connection)
                    return
        connection.flush_link()

    def _established(self, *, resumed: bool) -> None:
        self._last_report = None
        if not resumed:
            self._owed.clear()
        self._subscribe()

    def _said(self, message: ApplicationMessage) -> None:
        match message:
            case CommandOrder():
                self._orders.put(message, self.machine.boottime)
                self.machine.after(0.001, self._carry)
            case OutcomeAcknowledged(command_id=command_id):
                self._owed.discard(command_id)
                self.machine.after(0.001, self._request, {"do": "acknowledge", "command_id": command_id})
            case _:
                raise AssertionError(f"{message} is not for link")

    def connection_lost(self, connection: Connection) -> None:
        """The connection is gone; dial again."""
        if connection is self.connection:
            self.connection = None
            connection.link_hangs_up()
            if not self.dead:
                self._dial_failed()
