"""What can be asked on the control socket, and how commands and their outcomes travel through it.

Turns requests into events for the supervisor and the core's reports back into answers. A command is answered once
it is in the ledger; the answer says if no disk has that yet. Its outcome follows as a push to whoever sent it and to
every subscriber; link acknowledges outcomes in the name of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nanny.common.identifiers import is_uuid7
from nanny.control import Client, NotNow, RequestError, Role
from nanny.core import events as e
from nanny.core.actions import DeferCommand, ReportAccepted, ReportOutcome
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.control import ControlSocket
    from nanny.core.records import Record
    from nanny.core.state import NannyState
    from nanny.supervisor import Supervisor

_TEXT_LIMIT: Final = 500
_TIME_TO_LIVE_LIMIT_S: Final = 86400.0
_WAITING_LIMIT: Final = 256
ALL: Final = frozenset(Role)
ORDERING: Final = frozenset({Role.OPERATOR, Role.LINK})
OPERATING: Final = frozenset({Role.OPERATOR})


class ControlRequests:
    """Serves the requests that concern the supervisor."""

    def __init__(
        self, control: ControlSocket, supervisor: Supervisor, status: Callable[[], dict[str, Any]]
    ) -> None:
        self._control = control
        self._supervisor = supervisor
        self._status = status
        self._waiting: dict[str, list[tuple[Client, Any]]] = {}
        control.serve("status", ALL, lambda _request, _client: status())
        control.serve("subscribe", ALL, self._subscribe)
        control.serve("command", ORDERING, self._command)
        control.serve("acknowledge", frozenset({Role.LINK}), self._acknowledge)
        supervisor.effect(ReportAccepted, self._report_accepted)
        supervisor.effect(ReportOutcome, self._report_outcome)
        supervisor.effect(DeferCommand, self._defer)
        supervisor.on_step.append(self._after_step)

    def _subscribe(self, _request: dict[str, Any], client: Client) -> dict[str, Any]:
        client.subscribed = True
        if client.role is Role.LINK:
            for one in self._supervisor.state.ledger.finished:
                if not one.acknowledged:
                    report = ReportOutcome(one.command_id, one.kind, one.outcome, one.detail, one.incarnation)
                    self._control.send(client, _outcome_push(report, acknowledged=False))
        return {**self._status(), "role": str(client.role)}

    def _command(self, request: dict[str, Any], client: Client) -> None:
        command = _command_of(request, client)
        # One order may be given again and again while its answer waits for the disk: askers count, not orders.
        if sum(map(len, self._waiting.values())) >= _WAITING_LIMIT:
            raise NotNow("too many commands are being taken; try again in a second")
        self._waiting.setdefault(command.id, []).append((client, request.get("id")))
        self._supervisor.tell(e.CommandReceived(command))

    def _acknowledge(self, request: dict[str, Any], _client: Client) -> dict[str, Any]:
        self._supervisor.tell(e.OutcomeAcknowledged(_text(request, "command_id")))
        return {}

    def _report_accepted(self, action: ReportAccepted) -> None:
        is_durable = not self._supervisor.state.journal_degraded
        told = {"command_id": action.command_id, "state": "accepted", "durable": is_durable}
        for client, request_id in self._waiting.pop(action.command_id, []):
            self._control.answer(client, request_id, told)

    def _report_outcome(self, action: ReportOutcome) -> None:
        known = self._supervisor.state.ledger.find_finished(action.command_id)
        told = _outcome_push(action, acknowledged=known is not None and known.acknowledged)
        for client, request_id in self._waiting.pop(action.command_id, []):
            self._control.answer(client, request_id, {**told, "state": "finished"})
        self._control.push(told)

    def _defer(self, action: DeferCommand) -> None:
        for client, request_id in self._waiting.pop(action.command_id, []):
            why = "deferred: the ledger is full or cannot be read yet, or the nanny is ending; try again"
            self._control.refuse(client, request_id, why, is_passing=True)

    def _after_step(self, before: NannyState, after: NannyState, records: tuple[Record, ...]) -> None:
        if records or before.phase is not after.phase:
            self._control.push({"push": "status", "status": self._status()})


def _outcome_push(action: ReportOutcome, *, acknowledged: bool) -> dict[str, Any]:
    """One outcome; a local operator's counts as acknowledged from the start, so link leaves it alone."""
    return {
        "push": "outcome",
        "command_id": action.command_id,
        "kind": str(action.kind),
        "outcome": str(action.outcome),
        "detail": action.detail,
        "acknowledged": acknowledged,
        "incarnation": None if action.incarnation is None else str(action.incarnation),
    }


def _command_of(request: dict[str, Any], client: Client) -> e.Command:
    command_id = _text(request, "command_id")
    if not is_uuid7(command_id):
        raise RequestError(f"command_id {command_id[:80]!r} is no UUIDv7")
    kind = _text(request, "kind")
    if kind not in set(e.CommandKind):
        raise RequestError(f"kind {kind[:80]!r}: one of {', '.join(e.CommandKind)}")
    target = request.get("target")
    try:
        aimed_at = None if target is None else Incarnation.parse(_text(request, "target"))
    except ProtocolViolation as violation:
        raise RequestError(str(violation)) from None
    from_server = client.role is Role.LINK
    actor = _text(request, "actor")
    return e.Command(
        id=command_id,
        kind=e.CommandKind(kind),
        time_to_live_s=_number(request, "time_to_live_s", 60.0),
        reason=_text(request, "reason"),
        actor=actor if from_server else f"{actor} (uid {client.peer.uid})",
        source=e.Source.SERVER if from_server else e.Source.LOCAL,
        target=aimed_at,
        for_s=None if request.get("for_s") is None else _number(request, "for_s", 0.0),
    )


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value or len(value) > _TEXT_LIMIT or not value.isprintable():
        raise RequestError(
            f"{key}: a printable text of 1 to {_TEXT_LIMIT} characters, got {str(value)[:80]!r}"
        )
    return value


def _number(request: dict[str, Any], key: str, default: float) -> float:
    value = request.get(key, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= _TIME_TO_LIVE_LIMIT_S
    ):
        raise RequestError(
            f"{key}: a number of seconds up to {_TIME_TO_LIVE_LIMIT_S:g}, got {str(value)[:80]!r}"
        )
    return float(value)
