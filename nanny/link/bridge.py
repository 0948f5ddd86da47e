"""Between server and nanny: orders one way, outcomes and reports the other. Holds nothing that is not owed again.

An order goes to the nanny until its ledger has it, in the order in which the server gave them; an outcome goes to the
server until it is acknowledged, and each acknowledgement to the nanny. If link dies, the server sends anew what no
nanny confirmed and the nanny what no server acknowledged; ids make the second copy harmless. Knows neither sockets
nor frames: `ControlClient` and `ServerConnection` have them. Holding times run on CLOCK_BOOTTIME.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from nanny.link.bundle_upload import UPLOAD_EVIDENCE
from nanny.link.control_client import NannyUnreachable, RequestRefused
from nanny.link.orders import HeldOrders
from nanny.link.report import incarnation_of, report_of, report_without_nanny
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    EvidenceSummary,
    Hello,
    Outcome,
    OutcomeAcknowledged,
    Registered,
    Role,
    SpecOffer,
    shown_wall_clock_s,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanny.common.log_lines import LogLines
    from nanny.link.bundle_upload import BundleUploads
    from nanny.link.config import LinkConfig
    from nanny.link.connection import ServerConnection
    from nanny.link.control_client import ControlClient
    from nanny.link.counters import Counters
    from nanny.link.orders import HeldOrder
    from nanny.protocol.messages import ApplicationMessage

COALESCE_S: Final = 0.2
"""Reports are at least so far apart."""
NANNY_GRACE_S: Final = 2.0
"""A nanny that is back within this was restarted or executed anew: nothing to tell the server."""
COMMAND_TIMEOUT_S: Final = 10.0
STATUS_TIMEOUT_S: Final = 3.0
_RETRY_FIRST_S: Final = 0.2
_RETRY_CEILING_S: Final = 5.0
_ACKNOWLEDGEMENTS_LIMIT: Final = 1024
_UNTOLD_LIMIT: Final = 64


class Bridge:
    """What link does.

    Attributes:
        status: the nanny's last one; None before the first.
        is_known: set once there is one, and with it the node's identity.
    """

    def __init__(
        self, config: LinkConfig, machine_id: str, version: str, counters: Counters, log: LogLines
    ) -> None:
        """Connect nothing: `nanny` and `server` are set before anything runs.

        Args:
            config: the settings.
            machine_id: of this machine, for Hello.
            version: of this software, for Hello.
            counters: what is counted.
            log: where it is told.
        """
        self.nanny: ControlClient
        self.server: ServerConnection | None = None
        self.status: dict[str, Any] | None = None
        self.is_known = asyncio.Event()
        self.uploads: BundleUploads | None = None
        self.orders = HeldOrders()
        self._config = config
        self._machine_id = machine_id
        self._version = version
        self._counters = counters
        self._log = log
        self._status_at = 0.0
        self._lost_at: float | None = _boottime()
        self._why_lost = "never connected"
        self._owed: set[str] = set()
        """Outcomes given to the present session and not acknowledged by the server yet."""
        self._untold: deque[Mapping[str, Any]] = deque(maxlen=_UNTOLD_LIMIT)
        """Evidence of the time without a server: what hung then is what one wants to know of."""
        self._of_uploads: set[str] = set()
        """Orders that are link's own to answer."""
        self._asking = ""
        """The order whose answer is awaited: only after it comes the outcome that was pushed meanwhile."""
        self._early: list[dict[str, Any]] = []
        self._has_orders = asyncio.Event()
        self._report_due = asyncio.Event()
        self._resubscribe_due = asyncio.Event()
        self._acknowledged: asyncio.Queue[str] = asyncio.Queue(_ACKNOWLEDGEMENTS_LIMIT)

    @property
    def nanny_lost_s(self) -> float | None:
        """For how long there is no connection to the nanny; None while there is one."""
        return None if self._lost_at is None else _boottime() - self._lost_at

    async def fresh_status(self, timeout_s: float) -> dict[str, Any] | None:
        """Give the nanny's status of now, None if it does not answer."""
        try:
            self._keep_status(await self.nanny.request("status", timeout_s))
        except (NannyUnreachable, RequestRefused):
            return None
        return self.status

    def hello(self) -> Hello:
        """Who we are; `is_known` has to be set."""
        status = self.status
        assert status is not None
        return Hello(
            role=Role.LINK,
            protocol_versions=(),  # the session fills it in
            node_id=str(status["node_id"]),
            node_name=self._config.node_name or str(status.get("node_name") or status["node_id"]),
            machine_id=self._machine_id,
            boot_id=str(status.get("boot_id") or "unknown"),
            software_version=self._version,
            incarnation=incarnation_of(status),
        )

    async def run(self) -> None:
        """Carry until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._carry_orders(), name="orders")
            tasks.create_task(self._carry_acknowledgements(), name="acknowledgements")
            tasks.create_task(self._report(), name="reports")
            tasks.create_task(self._resubscribe(), name="resubscriptions")

    # From the nanny

    def nanny_connected(self, answer: dict[str, Any]) -> None:
        """A new connection to the nanny is subscribed."""
        self._lost_at = None
        self._log.info("connected to the nanny", phase=answer.get("phase"), role=answer.get("role"))
        if answer.get("role") not in (None, "link"):  # it may not be hashable
            self._log.error(
                "the nanny takes us for someone else, so outcomes won't reach the server",
                role=answer.get("role"),
                remedy="set link_user in [nanny] to the user that link runs as",
            )
        self._take_status(answer)

    def nanny_lost(self, why: str) -> None:
        """There is no connection to the nanny."""
        self._why_lost = why
        if self._lost_at is None:
            self._lost_at = _boottime()
            asyncio.get_running_loop().call_later(NANNY_GRACE_S + 0.05, self._report_due.set)

    def nanny_pushed(self, message: dict[str, Any]) -> None:
        """The nanny told something unasked."""
        match message["push"]:
            case "status":
                self._take_status(message["status"])
            case "outcome" if message.get("acknowledged") is not True:  # a local operator's is nobody else's
                # What comes while the server is away is pushed again when it is back.
                if self.server is not None and self.server.is_open:
                    if message["command_id"] == self._asking:
                        self._early.append(message)
                    else:
                        self._tell_outcome(message)
            case "evidence":
                if self.server is not None and self.server.is_open:
                    self._tell_evidence(message)
                else:
                    self._untold.append(message)
            case _:
                pass

    def _tell_evidence(self, told: Mapping[str, Any]) -> None:
        """Only a summary; the bundle stays on the node. The server keeps each once."""
        assert self.server is not None
        incarnation = incarnation_of(told)
        if incarnation is None:
            return
        self.server.send(
            EvidenceSummary(
                bundle_id=str(told.get("bundle")),
                incarnation=incarnation,
                reason=str(told.get("reason")),
                size_bytes=int(told.get("size_bytes") or 0),
                stalled_at=str(told["stalled_at"]) if told.get("stalled_at") else None,
                signature=str(told["signature"]) if told.get("signature") else None,
            )
        )

    def _take_status(self, status: dict[str, Any]) -> None:
        self._keep_status(status)
        self._report_due.set()

    def _keep_status(self, status: dict[str, Any]) -> None:
        if isinstance(status, dict) and status.get("node_id"):
            self.status, self._status_at = status, _boottime()
            self.is_known.set()

    def _tell_outcome(self, told: Mapping[str, Any]) -> None:
        command_id = str(told.get("command_id"))
        if command_id in self._owed:
            return
        named = told.get("incarnation")
        try:
            outcome = Outcome(str(told.get("outcome")))
            incarnation = None if named is None else Incarnation.parse(str(named))
        except (ValueError, ProtocolViolation) as error:  # a nanny with more words than this wire
            self._log.error("outcome not understood", command=command_id, why=str(error))
            return
        self._send_outcome(CommandOutcome(command_id, outcome, str(told.get("detail", "")), incarnation))

    def _send_outcome(self, outcome: CommandOutcome) -> None:
        if self.server is None:
            return
        self._owed.add(outcome.command_id)
        self._counters.outcomes_sent_total += 1
        self._log.info("outcome", command=outcome.command_id, outcome=outcome.outcome, detail=outcome.detail)
        self.server.send(outcome)

    # From the server

    def server_established(self, resumed: bool) -> None:  # noqa: FBT001  (a callback's one argument)
        """Messages flow; if the session is new, the server may have forgotten what we told it."""
        if not resumed:
            self._owed.clear()
        self._resubscribe_due.set()
        self._report_due.set()
        while self._untold:
            self._tell_evidence(self._untold.popleft())

    def server_said(self, message: ApplicationMessage) -> None:
        """A message came from the server."""
        match message:
            case CommandOrder():
                self._take_order(message)
            case OutcomeAcknowledged(command_id=command_id):
                self._owed.discard(command_id)
                if command_id in self._of_uploads:  # the nanny knows nothing of it
                    self._of_uploads.discard(command_id)
                    return
                with suppress(asyncio.QueueFull):  # then the nanny pushes it once more, some day
                    self._acknowledged.put_nowait(command_id)
            case Registered() | SpecOffer():
                raise AssertionError("the session lets no message for a worker through")
            case _:
                raise AssertionError(f"{type(message).__name__} is our own to send")

    def _take_order(self, order: CommandOrder) -> None:
        self._counters.orders_total += 1
        self._log.info(
            "order", command=order.command_id, kind=order.kind, actor=order.actor, why=order.reason
        )
        if order.kind == UPLOAD_EVIDENCE and self.uploads is not None:
            self._of_uploads.add(order.command_id)
            self.uploads.take(order, self.status, self._send_outcome)
        else:
            self.orders.put(order, _boottime())
            self._has_orders.set()
            self._read_while_there_is_room()

    def _read_while_there_is_room(self) -> None:
        """More orders than may be held wait at the server: nothing has to be said twice."""
        if self.server is not None:
            self.server.read_on(wanted=not self.orders.is_full)

    # What runs

    async def _carry_orders(self) -> None:
        retry_s = _RETRY_FIRST_S
        while True:
            held = self.orders.first()
            if held is None:
                self._has_orders.clear()
                await self._has_orders.wait()
                continue
            await self.nanny.connected.wait()
            self._asking = held.order.command_id
            is_answered = await self._ask_nanny(held)
            self._asking = ""
            early, self._early = self._early, []
            for message in early:
                self._tell_outcome(message)
            if is_answered:
                retry_s = _RETRY_FIRST_S
                self.orders.remove(held.order.command_id)
                self._read_while_there_is_room()
            elif self.nanny.connected.is_set():
                self._counters.deferrals_total += 1
                self.orders.put_off(held.order.command_id, _boottime())
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _RETRY_CEILING_S)

    async def _ask_nanny(self, held: HeldOrder) -> bool:
        """Give whether the nanny took the order or never will; if neither, it is asked again."""
        command_id = held.order.command_id
        try:
            answer = await self.nanny.request("command", COMMAND_TIMEOUT_S, **held.request(_boottime()))
            if answer.get("state") == "finished":
                self._tell_outcome(answer)
            elif self.server is not None and answer.get("durable") is not False:
                # Else it stays sent there, and is sent again if a power failure takes it from the nanny.
                self.server.send(CommandAccepted(command_id))
        except NannyUnreachable:
            return False
        except RequestRefused as refused:
            self._log.warning(
                "order refused", command=command_id, why=str(refused), is_passing=refused.is_passing
            )
            if refused.is_passing:
                return False
            # Nothing of it is in the ledger, and the same order has the same answer each time.
            self._send_outcome(CommandOutcome(command_id, Outcome.REJECTED, str(refused)))
        return True

    async def _carry_acknowledgements(self) -> None:
        while True:
            command_id = await self._acknowledged.get()
            try:
                await self.nanny.request("acknowledge", command_id=command_id)
            except NannyUnreachable:
                pass  # it pushes the outcome again when we are back, and the server acknowledges again
            except RequestRefused as refused:
                self._log.error("acknowledgement refused", command=command_id, why=str(refused))

    async def _resubscribe(self) -> None:
        """Have the nanny push again what no server acknowledged."""
        while True:
            await self._resubscribe_due.wait()
            self._resubscribe_due.clear()
            with suppress(NannyUnreachable):
                self._take_status(await self.nanny.request("subscribe"))

    async def _report(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s()):
                    await self._report_due.wait()
            self._report_due.clear()
            await self._report_once()
            await asyncio.sleep(COALESCE_S)

    def _interval_s(self) -> float:
        wanted_s = None if self.server is None else self.server.wanted_report_interval_s
        return max(COALESCE_S, min(self._config.report_interval_s, wanted_s or float("inf")))

    async def _report_once(self) -> None:
        """Ask for what is true now, which also tells whether the nanny still answers, and pass it on."""
        if _boottime() - self._status_at > COALESCE_S:
            try:
                status = await self.nanny.request("status", STATUS_TIMEOUT_S)
            except RequestRefused as refused:
                self._log.error("status refused", why=str(refused))
                return
            except NannyUnreachable:
                pass
            else:
                self._keep_status(status)
        server, known, now = self.server, self.status, _boottime()
        if server is None or known is None or not server.is_open:
            return
        age_s, lost_s = now - self._status_at, self.nanny_lost_s
        if lost_s is None:
            report = report_of(known, age_s, now)
        elif lost_s >= NANNY_GRACE_S:
            report = report_without_nanny(known, age_s, lost_s, now, self._why_lost)
        else:
            return
        self._counters.reports_sent_total += 1
        server.send(replace(report, wall_clock_s=shown_wall_clock_s(time.time())))


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
